"""What the launcher does for probes: runs their commands, without a trace on the disk, and restarts a release."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import release_slots
from tests.support.fleet import wait_for
from tests.support.launcher_device import NEW, OLD, LauncherDevice

CHECK = """#!/bin/sh
echo "$1 $PWD ${BEAMFLEET_DATA##*/} ${HOME##*/} $(ls -d "$ROOTDIR/erts-"*/bin >/dev/null && echo slot)" >>checked
[ "$1" != hang ] || exec sleep 60
exit "$1"
"""
COMMANDS = """probe_command=bin/check 0
probe_readiness_command=bin/check 3
probe_liveness_command=bin/check hang
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LauncherDevice]:
    made = LauncherDevice(tmp_path)
    release_slots.tiny(made.slot(OLD))
    release_slots.tiny(made.slot(NEW), {"bin/check": CHECK}, COMMANDS)
    made.start()
    yield made
    made.stop()


def test_a_restart_that_a_probe_wants_counts_as_no_failed_boot_and_says_why(bench: LauncherDevice) -> None:
    before = bench.install().starts
    for _ in range(2):
        first = bench.vm()
        assert bench.outcome(f"restart {OLD} {before} liveness: GET :80/a?b=1: 503") == "ok"
        state = bench.runs(OLD, after=before)
        assert (state.phase, state.cause, state.detail) == ("committed", "probe", "liveness: GET :80/a?b=1: 503")
        assert (state.starts, state.boots) == (before + 1, 1)
        assert first not in bench.ours()
        before = state.starts


def test_a_restart_of_what_does_not_run_is_refused(bench: LauncherDevice) -> None:
    starts = bench.install().starts
    for line, result in (
        (f"restart {NEW} {starts} why", "not_running"),
        (f"restart {OLD} {starts - 1} why", "not_running"),
        (f"restart {OLD}", "not_running"),
        ("restart", "not_running"),
        (f"restart {OLD} {starts} $(reboot)", "malformed"),
        (f"restart {OLD} {starts} {'x' * 121}", "malformed"),
    ):
        assert bench.outcome(line) == f"refused:{result}", line
    assert (bench.boot.state().starts, bench.boot.state().cause) == (starts, "update")


def test_nothing_is_restarted_in_a_trial_or_when_it_is_stopped(bench: LauncherDevice) -> None:
    bench.boot.request(f"swap {OLD} 1")
    starts = bench.runs(OLD, after=0).starts
    assert bench.outcome(f"restart {OLD} {starts} why") == "refused:trial_running"
    assert bench.outcome(f"confirm {OLD} 1") == "ok"
    assert bench.outcome("stop") == "ok"
    assert bench.outcome(f"restart {OLD} {starts} why") == "refused:not_running"
    assert not bench.ours()


def test_each_probe_has_a_command_and_an_answer_of_its_own(bench: LauncherDevice) -> None:
    bench.install(NEW, 7)
    assert bench.probe("", NEW, 7) == (NEW, 7, 0)
    assert bench.probe("readiness", NEW, 7) == (NEW, 7, 3)
    assert bench.probe("liveness", NEW, 7) == (NEW, 7, 124), "one second is the time of a probe that states none"
    told = (bench.app / "data/checked").read_text().splitlines()
    assert told == [f"{word} {bench.app}/data data data slot" for word in ("0", "3", "hang")]


def test_a_probe_of_another_release_kind_or_time_is_not_run(bench: LauncherDevice) -> None:
    starts = bench.install(NEW, 7).starts
    for kind, slot, attempt in (("readiness", OLD, 7), ("readiness", NEW, 6), ("other", NEW, 7), ("../state", NEW, 7)):
        (bench.run / "asks/odd").write_text(f"{slot} {attempt} {kind}\n")
        bench.boot.ring()
        wait_for("the question to be taken", lambda: not list((bench.run / "asks").iterdir()), deadline_s=10)
    assert bench.probe("readiness", NEW, 7) == (NEW, 7, 3)
    assert (bench.app / "data/checked").read_text().count("\n") == 1
    assert bench.outcome("stop") == "ok"
    bench.boot.ask_probe("readiness", NEW, 7)
    wait_for("the question to be taken", lambda: not list((bench.run / "asks").iterdir()), deadline_s=10)
    assert bench.outcome("start") == "ok"
    bench.runs(NEW, after=starts)
    assert (bench.app / "data/checked").read_text().count("\n") == 1, "no VM, no probe"


def test_probes_write_nothing_to_the_disk_and_leave_no_child_behind(bench: LauncherDevice) -> None:
    bench.install(NEW, 7)
    wait_for("the answered request to be deleted", lambda: not list((bench.app / "requests").iterdir()), deadline_s=10)
    places = [bench.app, bench.app / "boot", bench.app / "boot/state", bench.app / "requests"]
    before = [place.stat().st_mtime_ns for place in places]
    for _ in range(5):
        bench.probe("readiness", NEW, 7)
    assert [place.stat().st_mtime_ns for place in places] == before
    launcher = bench.launcher_pid()
    children = Path(f"/proc/{launcher}/task/{launcher}/children")

    def settled() -> bool:
        return len(children.read_text().split()) <= 2  # the keeper of the VM, and what the launcher rests in

    wait_for("its children to be gone", settled, deadline_s=10)
