"""Which block devices are never written to: a pure rule over what is known of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.flash.disks import Disk, look, problems

from tests.support.refusal import refusal

CARD = Disk(Path("/dev/sdb"), "sdb", 2064, 32 * 10**9, "SanDisk Ultra", "4C53", removable=True)
IMAGE = 4 * 10**9


def test_a_card_in_a_reader_is_fit() -> None:
    assert problems(CARD, IMAGE) == ()


def test_a_card_is_shown_with_size_model_serial_number_and_whether_it_can_be_pulled() -> None:
    assert str(CARD) == "/dev/sdb (32.0 GB, SanDisk Ultra, serial 4C53, removable)"
    assert str(replace(CARD, model="", serial="", removable=False)) == "/dev/sdb (32.0 GB, no model, fixed)"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ({"mounts": ("/",)}, "flash.system_disk"),
        ({"mounts": ("/boot/firmware", "/media/card")}, "flash.system_disk"),
        ({"mounts": ("/media/card",)}, "flash.device_busy"),
        ({"swaps": ("/dev/sdb2",)}, "flash.system_disk"),
        ({"holders": ("dm-0",)}, "flash.device_busy"),
        ({"holders": ("md127",)}, "flash.device_busy"),
        ({"read_only": True}, "flash.read_only"),
        ({"whole": False}, "flash.block_device"),
        ({"size": IMAGE - 1}, "flash.device_small"),
        ({"size": 0}, "flash.device_small"),
    ],
)
def test_what_is_in_use_or_unfit_is_refused_with_the_remedy(what: dict[str, Any], code: str) -> None:
    (problem,) = problems(replace(CARD, **what), IMAGE)
    assert problem.code == code
    assert problem.hint


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = replace(CARD, whole=False, read_only=True, holders=("dm-0",), size=1)
    assert [problem.code for problem in problems(wrong, IMAGE)] == [
        "flash.block_device", "flash.device_busy", "flash.read_only", "flash.device_small",
    ]  # fmt: skip


def test_two_cards_without_a_serial_number_in_one_reader_look_alike_and_others_do_not() -> None:
    assert CARD.identity != replace(CARD, serial="4C54").identity
    assert CARD.identity != replace(CARD, size=64 * 10**9).identity
    assert replace(CARD, name="sdc", path=Path("/dev/sdc")).identity == CARD.identity


def test_what_is_no_block_device_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(b"x")
    for path in (file, tmp_path, tmp_path / "missing", Path("/dev/null")):
        assert refusal(look, path) == "flash.block_device"
