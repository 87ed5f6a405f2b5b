"""Which partition of an image is flashed, by what sfdisk says of it, and what is refused because it cannot be true."""

import copy
import json
from typing import Any

import pytest
from beamfleet_server.flash import partitions
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.partitions import Partition, choose, filesystem_of, read_table

from tests.support.refusal import refusal

DISK = 1 << 30
BOARD: dict[str, Any] = {
    "label": "dos", "id": "0x1", "device": "/proc/self/fd/7", "unit": "sectors", "sectorsize": 512,
    "partitions": [
        {"node": "/proc/self/fd/7p1", "start": 2048, "size": 8192, "type": "c", "bootable": True},
        {"node": "/proc/self/fd/7p2", "start": 10240, "size": 20480, "type": "83"},
        {"node": "/proc/self/fd/7p3", "start": 30720, "size": 40960, "type": "5"},
        {"node": "/proc/self/fd/7p5", "start": 32768, "size": 2048, "type": "83"},
    ],
}  # fmt: skip


def printed(table: Any) -> str:
    return json.dumps({"partitiontable": table})


def changed(**what: Any) -> str:
    return printed({**copy.deepcopy(BOARD), **what})


def with_partition(index: int, **what: Any) -> str:
    table = copy.deepcopy(BOARD)
    table["partitions"][index].update(what)
    return printed(table)


def test_a_table_is_read_in_bytes_without_the_container_of_logical_partitions() -> None:
    assert read_table(printed(BOARD), DISK) == (
        Partition(1, 2048 * 512, 8192 * 512),
        Partition(2, 10240 * 512, 20480 * 512),
        Partition(5, 32768 * 512, 2048 * 512),
    )


def test_numbers_are_read_where_the_name_of_the_image_ends_in_none() -> None:
    table = {**BOARD, "device": "card.img", "partitions": [{"node": "card.img1", "start": 8, "size": 8, "type": "83"}]}
    assert read_table(printed(table), DISK) == (Partition(1, 4096, 4096),)


def test_sectors_of_4096_bytes_are_counted_as_such() -> None:
    assert read_table(changed(sectorsize=4096), DISK)[0].start == 2048 * 4096


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", printed(None), printed({}), printed([]), "[" * 100_000,
        changed(label="sun"), changed(unit="cylinders"), changed(sectorsize=513), changed(sectorsize="512"),
        changed(sectorsize=0), changed(partitions={}), changed(partitions=[None]), changed(device=7),
        changed(partitions=[BOARD["partitions"][0]] * 300),
        changed(partitions=[BOARD["partitions"][0]] * 2),
        with_partition(0, node="elsewhere1"), with_partition(0, node="/proc/self/fd/7"),
        with_partition(0, node="/proc/self/fd/7p0"), with_partition(0, node="/proc/self/fd/7p999"),
        with_partition(0, node="/proc/self/fd/7p\u0663"), with_partition(0, node=5),
        with_partition(0, start=0), with_partition(0, start=-1), with_partition(0, start=True),
        with_partition(0, size=0), with_partition(0, size=-5), with_partition(0, size="8192"),
        with_partition(0, size=1e9),
        with_partition(1, size=10**15), with_partition(2, size=10**15),
        with_partition(1, start=4096), with_partition(3, start=10241),
        with_partition(1, node="/proc/self/fd/7p1"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_true_is_refused_whole(text: str) -> None:
    assert refusal(read_table, text, DISK) == "flash.partition_table"


def test_the_only_partition_with_a_system_needs_no_name() -> None:
    boot, root = Partition(1, 512, 512), Partition(2, 1024, 512)
    assert choose([root], None, {boot: "vfat", root: "ext4"}, "card.img") == root


def test_a_named_partition_is_taken_and_one_that_is_not_there_is_refused_with_a_list() -> None:
    boot, root = Partition(1, 512, 512), Partition(2, 1024, 512)
    known = {boot: "vfat", root: "ext4"}
    assert choose([], 2, known, "card.img") == root
    with pytest.raises(FlashError, match=r"no partition 3; it has 1 \(vfat\), 2 \(ext4\)"):
        choose([root], 3, known, "card.img")


def test_of_several_systems_one_has_to_be_named() -> None:
    one, other = Partition(2, 512, 512), Partition(3, 1024, 512)
    with pytest.raises(FlashError, match="several partitions with a Linux system: 2, 3") as refused:
        choose([one, other], None, {one: "ext4", other: "ext4"}, "card.img")
    assert refused.value.hint == "name one: card.img:2"


def test_an_image_without_a_system_is_refused() -> None:
    part = Partition(1, 512, 512)
    assert refusal(choose, [], None, {part: "squashfs"}, "card.img") == "flash.partition"
    assert refusal(choose, [], None, {}, "card.img") == "flash.partition"


def test_file_systems_are_told_by_their_first_bytes() -> None:
    def head(offset: int, magic: bytes) -> bytes:
        return bytes(offset) + magic + bytes(partitions.HEAD_BYTES - offset - len(magic))

    assert filesystem_of(head(1080, b"\x53\xef")) == "ext4"
    assert filesystem_of(head(0x10040, b"_BHRfS_M")) == "btrfs"
    assert filesystem_of(head(0, b"XFSB")) == "xfs"
    assert filesystem_of(head(0, b"LUKS\xba\xbe")) == "LUKS"
    assert filesystem_of(head(82, b"FAT32   ")) == "vfat"
    assert filesystem_of(bytes(partitions.HEAD_BYTES)) == ""
    assert filesystem_of(b"") == ""
