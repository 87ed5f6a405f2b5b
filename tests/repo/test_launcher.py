"""The launcher stays small enough to be read in one go, and what it starts is laid down with it."""

import re
from pathlib import Path

from beamfleet_agent.setup import DEVICE_FILES, SCRIPTS

DEVICE = Path(__file__).parents[2] / "agent/beamfleet_agent/device"
MAX_LINES, MAX_COLUMNS = 200, 120


def test_the_launcher_is_shorter_than_two_hundred_lines() -> None:
    assert len((DEVICE / "launcher").read_text().splitlines()) < MAX_LINES


def test_no_line_of_a_device_script_is_longer_than_a_screen() -> None:
    long = [
        f"{name}:{number}"
        for name in SCRIPTS
        for number, line in enumerate((DEVICE / name).read_text().splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]
    assert long == []


def test_every_script_that_a_script_names_is_laid_down() -> None:
    named = {
        name
        for script in SCRIPTS
        for name in re.findall(r"\$(?:lib|root/usr/lib/beamfleet)/([a-z_]+)", (DEVICE / script).read_text())
    }
    code = "".join(line.partition(" # ")[0] for line in (DEVICE / "launcher").read_text().splitlines(keepends=True))
    named |= set(re.findall(r"\b(?:child|marked) ([a-z]+)", code))
    assert named - {"hooks.d", "beamfleet_link"} <= set(DEVICE_FILES)


def test_every_script_of_the_device_is_in_the_list() -> None:
    there = {path.name for path in DEVICE.iterdir() if path.is_file() and path.suffix == ""}
    assert there == set(SCRIPTS)
