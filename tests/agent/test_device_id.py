"""Ids that follow from the machine: the same for the same, another for another, and none rather than everybody's."""

from pathlib import Path

import pytest
from beamfleet_agent.device_id import candidates
from beamfleet_agent.errors import AgentError

from tests.agent.machine import card, write

ID = "0123456789abcdef0123456789abcdef"


def refused(source: str, machine: Path | str, prefix: str = "") -> AgentError:
    with pytest.raises(AgentError) as refusal:
        candidates(source, prefix, str(machine))
    return refusal.value


def test_a_machine_id_makes_an_id_that_does_not_tell_it(tmp_path: Path) -> None:
    write(tmp_path / "etc/machine-id", f"{ID}\n")
    (first,) = candidates("machine-id", "gw-", str(tmp_path))
    assert first == "gw-b0b367d4785eff52663a"
    assert ID[:8] not in first
    write(tmp_path / "etc/machine-id", f"1{ID[1:]}\n")
    assert candidates("machine-id", "gw-", str(tmp_path)) != [first]


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0123\n"])
def test_a_machine_that_has_none_yet_gets_no_id_from_it(tmp_path: Path, text: str) -> None:
    write(tmp_path / "etc/machine-id", text)
    assert refused("machine-id", tmp_path).code == "setup.no_id"


def test_the_serial_number_of_a_board_comes_before_that_of_a_case(tmp_path: Path) -> None:
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nSerial\t\t: 00000000c0ffee01\nModel\t: Board\n")
    assert candidates("serial", "", str(tmp_path)) == ["00000000c0ffee01"]
    write(tmp_path / "sys/class/dmi/id/product_serial", "To be filled by O.E.M.\n")
    write(tmp_path / "sys/class/dmi/id/board_serial", "AB/12 34\n")
    assert candidates("serial", "gw-", str(tmp_path)) == ["gw-ab-12-34"]
    write(tmp_path / "proc/device-tree/serial-number", "10000000abcdef12\0")
    assert candidates("serial", "gw-", str(tmp_path)) == ["gw-10000000abcdef12"]


@pytest.mark.parametrize(
    "text", ["Default string", "None", "Not Specified", "0000000000000000", "System Serial Number", " "]
)
def test_what_vendors_write_in_place_of_a_serial_number_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path / "sys/class/dmi/id/product_serial", text)
    assert refused("serial", tmp_path).code == "setup.no_id"


def test_the_first_card_with_a_cable_names_the_device_and_the_others_know_it_as_well(tmp_path: Path) -> None:
    card(tmp_path, "wlan0", "b8:27:eb:00:00:02", wireless=True)
    card(tmp_path, "eth1", "00:e0:4c:00:00:03")
    card(tmp_path, "eth0", "b8:27:eb:00:00:01")
    card(tmp_path, "br0", "b8:27:eb:00:00:01", device=False)
    card(tmp_path, "usb0", "02:00:00:00:00:04", assigned="3")
    card(tmp_path, "lo", "00:00:00:00:00:00", kind="772")
    assert candidates("mac", "", str(tmp_path)) == ["b827eb000001", "00e04c000003", "b827eb000002"]


def test_without_a_card_there_is_no_id(tmp_path: Path) -> None:
    card(tmp_path, "lo", "00:00:00:00:00:00", kind="772", device=False)
    assert refused("mac", tmp_path).code == "setup.no_id"


def command(folder: Path, text: str) -> str:
    script = folder / "who"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return f"command:{script}"


def test_a_command_of_the_owner_says_who_it_is(tmp_path: Path) -> None:
    assert candidates(command(tmp_path, "echo Line 3, Unit 0042"), "") == ["line-3-unit-0042"]


@pytest.mark.parametrize("text", ["exit 1", "echo a; exit 3", "true", "printf 'a\\nb\\n'", "echo '!!!'"])
def test_a_command_that_does_not_say_it_in_one_line_is_not_believed(tmp_path: Path, text: str) -> None:
    assert refused(command(tmp_path, text), "").code == "setup.no_id"


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = refused(f"command:{tmp_path}/nobody", "")
    assert (error.code, "nobody cannot run" in error.message) == ("setup.no_id", True)


@pytest.mark.parametrize("source", ["", "colour", "command:", "command:who", "serial:x", "mac:eth0"])
def test_other_sources_are_refused(source: str) -> None:
    assert refused(source, "").code == "setup.words"


def test_what_is_too_long_for_an_id_is_refused_and_not_cut(tmp_path: Path) -> None:
    assert refused(command(tmp_path, "echo " + "a" * 64), "").code == "setup.no_id"
