"""The unit files, users and directories as systemd's own tools read them, and the promises that README.md makes."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

FOLDER = ROOT / "systemd"
LAUNCHER, AGENT, SETUP = "beamfleet-launcher.service", "beamfleet-agent.service", "beamfleet-setup.service"
EXPOSURE = {LAUNCHER: 50, AGENT: 19}
"""The highest exposure, times ten, that `systemd-analyze security` may find."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """One of systemd's tools, its output read."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def settings(unit: str) -> dict[str, list[str]]:
    """The values of a unit by key, in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / unit).read_text().splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def with_programs_here(folder: Path, edit: str = "") -> list[Path]:
    """Copies of the units whose programs are there to be found; `edit` is added to each."""
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copies = []
    for unit in (LAUNCHER, AGENT, SETUP):
        text = re.sub(r"^(ExecStart=)\S+", rf"\1{program}", (FOLDER / unit).read_text(), flags=re.MULTILINE)
        copies.append(folder / unit)
        copies[-1].write_text(text.replace("[Service]\n", f"[Service]\n{edit}"))
    return copies


def test_systemd_has_no_word_to_say_about_the_units(tmp_path: Path) -> None:
    said = tool("systemd-analyze", "verify", "--man=no", *with_programs_here(tmp_path))
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_a_misspelt_key_would_be_seen(tmp_path: Path) -> None:
    said = tool("systemd-analyze", "verify", "--man=no", *with_programs_here(tmp_path, "Restrat=always\n"))
    assert "Restrat" in said.stderr


@pytest.mark.parametrize("unit", EXPOSURE)
def test_a_unit_is_exposed_no_more_than_it_has_to_be(unit: str) -> None:
    judged = tool(
        "systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE[unit]}", FOLDER / unit
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_the_two_units_live_without_each_other_and_without_a_network() -> None:
    for unit, other in ((LAUNCHER, AGENT), (AGENT, LAUNCHER)):
        words = settings(unit)
        bound = {key for key, values in words.items() for value in values if other in value}
        assert bound <= {"After"}
        assert not [key for key, values in words.items() for value in values if "network" in value]


def test_units_come_back_for_ever_and_wait_until_the_device_is_laid_down() -> None:
    for unit in (LAUNCHER, AGENT):
        words = settings(unit)
        assert words["Restart"] == ["always"]
        assert words["StartLimitIntervalSec"] == ["0"]
        assert words["ConditionPathExists"] == ["/etc/beamfleet/agent.toml"]


def test_the_release_has_time_to_stop_before_systemd_insists() -> None:
    state = (ROOT / "agent/beamfleet_agent/device/state").read_text()
    limits = {name: int(value) for name, value in re.findall(r"\b(stop_timeout_s|hook_timeout_s)=(\d+)", state)}
    assert int(settings(LAUNCHER)["TimeoutStopSec"][0]) > sum(limits.values())


def test_one_line_names_what_may_be_written_and_memory_runs_out_for_the_release_first() -> None:
    scores = {}
    for unit in (LAUNCHER, AGENT):
        words = settings(unit)
        assert words["ProtectSystem"] == ["strict"]
        assert words["ReadWritePaths"] == ["/var/lib/beamfleet /run/beamfleet"]
        assert words["OOMPolicy"] == ["continue"]
        scores[unit] = int(words["OOMScoreAdjust"][0])
    assert scores == {LAUNCHER: -900, AGENT: -500}


def test_every_setting_that_takes_something_away_is_explained() -> None:
    readme = (FOLDER / "README.md").read_text()
    keys = {key for unit in (LAUNCHER, AGENT) for key in settings(unit)}
    keys -= {"Description", "Documentation", "ExecStart", "WantedBy"}
    assert sorted(key for key in keys if f"`{key}" not in readme) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody")
def test_users_and_directories_are_made_as_they_are_written(tmp_path: Path) -> None:
    for part in ("etc", "var/lib", "run"):
        (tmp_path / part).mkdir(parents=True)
    users = tool("systemd-sysusers", f"--root={tmp_path}", FOLDER / "beamfleet.sysusers")
    assert users.returncode == 0, users.stderr
    accounts = (tmp_path / "etc/passwd").read_text()
    assert re.findall(r"^(\S+?):.*:(\S+)$", accounts, re.MULTILINE) == [
        ("beamfleet", "/usr/sbin/nologin"),
        ("beamfleet-app", "/usr/sbin/nologin"),
    ]
    made = tool("systemd-tmpfiles", "--create", f"--root={tmp_path}", FOLDER / "beamfleet.tmpfiles")
    assert (made.returncode, made.stderr) == (0, "")
    modes = {
        name: f"{(tmp_path / name).stat().st_mode & 0o7777:o}"
        for name in ("run/beamfleet", "run/beamfleet/main", "var/lib/beamfleet", "var/lib/beamfleet/apps")
    }
    assert modes == {
        "run/beamfleet": "1775", "run/beamfleet/main": "755",
        "var/lib/beamfleet": "1775", "var/lib/beamfleet/apps": "755",
    }  # fmt: skip


def test_a_first_boot_comes_before_what_it_lays_down_and_holds_nobody_up() -> None:
    words = settings(SETUP)
    assert words["Before"] == [f"{LAUNCHER} {AGENT}"]
    assert words["ConditionPathExists"] == ["/etc/beamfleet/provision.json"]
    assert (words["Type"], words["Restart"]) == (["oneshot"], ["on-failure"])
    assert not [key for key, values in words.items() for value in values if "network" in value]
    for unit in (LAUNCHER, AGENT):
        bound = {key for key, values in settings(unit).items() for value in values if SETUP in value}
        assert bound == {"After"}
