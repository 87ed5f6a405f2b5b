"""The first boot: one provision.json, many devices; and media that wander between machines."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent.claim import claim
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.provisioning import first_boot
from beamfleet_agent.settings import load

from tests.agent.authority import Authority
from tests.agent.device import identify, words
from tests.agent.machine import card, write


def provision(root: Path, **more: Any) -> Paths:
    """A root that has never booted."""
    paths = Paths(str(root))
    write(
        Path(paths.provision), json.dumps({**words(""), "token": "batch", "id_from": "mac", "id_prefix": "gw-", **more})
    )
    return paths


def board(folder: Path, address: str) -> str:
    """A machine with one card."""
    card(folder, "eth0", address)
    return str(folder)


@pytest.fixture
def one(tmp_path: Path) -> str:
    return board(tmp_path / "one", "00:00:5e:00:00:01")


@pytest.fixture
def other(tmp_path: Path) -> str:
    return board(tmp_path / "other", "00:00:5e:00:00:02")


ONE, OTHER = "gw-00005e000001", "gw-00005e000002"


def become(paths: Paths, machine: str) -> dict[str, Any]:
    return first_boot(paths.root, machine)


def enrol(paths: Paths, authority: Authority, name: str) -> bytes:
    """As the worker leaves it."""
    identify(paths, *authority.issue(name))
    Path(paths.token).unlink()
    return Path(paths.pair).read_bytes()


def test_a_first_boot_makes_the_device_that_the_machine_is(tmp_path: Path, one: str) -> None:
    paths = provision(tmp_path / "root")
    told = become(paths, one)
    assert (told["device"], told["changed"]) == (ONE, True)
    assert load(paths.settings).device == ONE
    assert Path(paths.token).read_text() == "batch\n"
    assert stat.S_IMODE(Path(paths.provision).stat().st_mode) == 0o600, "a token is in it"


def test_the_next_boots_change_nothing(tmp_path: Path, one: str) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    Path(paths.token).unlink()
    inode = Path(paths.settings).stat().st_ino
    assert become(paths, one) == {"device": ONE, "changed": False}
    assert Path(paths.settings).stat().st_ino == inode
    assert not Path(paths.token).exists()


def test_another_provision_is_taken_at_the_next_boot(tmp_path: Path, one: str) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    provision(tmp_path / "root", trial_s=77)
    assert become(paths, one)["changed"]
    assert load(paths.settings).trial_s == 77


def test_a_second_card_makes_no_other_device(tmp_path: Path, one: str) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    card(Path(one), "enx0", "00:00:00:00:00:09")
    card(Path(one), "eth-1", "00:00:00:00:00:01")
    assert become(paths, one) == {"device": ONE, "changed": False}


def test_a_copy_in_another_machine_is_another_device(
    tmp_path: Path, one: str, other: str, authority: Authority
) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    pair = enrol(paths, authority, ONE)
    Path(paths.journal).write_text("of the one")
    shutil.copytree(tmp_path / "root", tmp_path / "copy")
    copy = Paths(str(tmp_path / "copy"))
    told = become(copy, other)
    assert (told["device"], told["enrolled"]) == (OTHER, False)
    assert Path(copy.token).read_text() == "batch\n"
    assert not Path(copy.pair).exists()
    assert not Path(copy.journal).exists()
    assert Path(f"{copy.identity}.{ONE}/pair.pem").read_bytes() == pair
    assert become(paths, one)["changed"] is False
    assert Path(paths.pair).read_bytes() == pair


def test_a_medium_that_comes_home_finds_who_it_was(tmp_path: Path, one: str, other: str, authority: Authority) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    first = enrol(paths, authority, ONE)
    for _ in range(2):
        become(paths, other)
        second = Path(paths.pair).read_bytes() if Path(paths.pair).exists() else enrol(paths, authority, OTHER)
        told = become(paths, one)
        assert (told["device"], told["enrolled"]) == (ONE, True)
        assert Path(paths.pair).read_bytes() == first
        assert Path(f"{paths.identity}.{OTHER}/pair.pem").read_bytes() == second


def test_a_first_key_that_nobody_has_certified_is_not_taken_along(tmp_path: Path, one: str, other: str) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    Path(paths.key).write_text("a key of the one")
    become(paths, other)
    assert not Path(paths.key).exists()


@pytest.mark.parametrize("cut", ["aside", "token", "directories"])
def test_cut_short_it_goes_on_at_the_next_boot(
    tmp_path: Path, one: str, other: str, authority: Authority, cut: str
) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    pair = enrol(paths, authority, ONE)
    aside = Path(f"{paths.identity}.{ONE}")
    Path(paths.identity).rename(aside)
    if cut != "aside":
        Path(paths.identity).mkdir()
    if cut == "token":
        Path(paths.token).write_text("batch\n")
    assert become(paths, other)["device"] == OTHER
    assert (aside / "pair.pem").read_bytes() == pair
    assert Path(paths.token).read_text() == "batch\n"
    assert not Path(paths.pair).exists()


def test_a_device_with_a_name_of_its_own_needs_no_source(tmp_path: Path) -> None:
    paths = provision(tmp_path / "root", device="pump-7", id_from="", id_prefix="")
    assert first_boot(paths.root)["device"] == "pump-7"


def test_an_agent_that_runs_is_not_made_another_device(tmp_path: Path, one: str, other: str) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    descriptor = claim(paths)
    try:
        with pytest.raises(AgentError, match=r"serves under the id before.*agent\.already_running"):
            become(paths, other)
    finally:
        os.close(descriptor)
    assert load(paths.settings).device == ONE


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id_from": ""}, "setup.words"),
        ({"id_from": "stars"}, "setup.words"),
        ({"device": "pump-7"}, "setup.words"),
        ({"id_prefix": "GW_"}, "setup.no_id"),
        ({"colour": "red"}, "setup.words"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_laid_down(
    tmp_path: Path, one: str, change: dict[str, Any], code: str
) -> None:
    paths = provision(tmp_path / "root", **change)
    with pytest.raises(AgentError) as refusal:
        become(paths, one)
    assert refusal.value.code == code
    assert not Path(paths.settings).exists()


@pytest.mark.parametrize("text", [None, "", "{", "\xff"])
def test_without_a_provision_there_is_nothing_to_become(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write(Path(Paths(str(tmp_path)).provision), text)
    with pytest.raises(AgentError) as refusal:
        first_boot(str(tmp_path))
    assert refusal.value.code == "setup.no_provision"


def test_a_setup_by_hand_has_the_last_word(tmp_path: Path, one: str) -> None:
    paths = provision(tmp_path / "root")
    become(paths, one)
    command = [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, "setup"]
    subprocess.run(command, input=json.dumps(words("pump-7")), text=True, check=True, capture_output=True)
    assert load(paths.settings).device == "pump-7"
    assert not Path(paths.provision).exists()


def test_the_command_answers_with_one_object(tmp_path: Path) -> None:
    paths = provision(tmp_path / "root", device="pump-7", id_from="", id_prefix="")
    command = [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, "setup", "--first-boot"]
    done = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(2)]
    assert [(told["device"], told["changed"]) for told in done] == [("pump-7", True), ("pump-7", False)]
