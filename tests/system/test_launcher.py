"""The launcher alone, with real BEAMs and no agent: start, trial, confirm, revert, crash, hang, stop, rollback.

The slots hold a whole release made of this machine's OTP (kernel, stdlib); requests go through the agent's `Boot`.
"""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import release_slots
from tests.support.fleet import FleetError, wait_for
from tests.support.launcher_device import NEW, OLD, LauncherDevice


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LauncherDevice]:
    made = LauncherDevice(tmp_path)
    for name in (OLD, NEW):
        release_slots.tiny(made.slot(name))
    made.start()
    yield made
    made.stop()


def test_a_trial_becomes_permanent_when_it_is_confirmed(bench: LauncherDevice) -> None:
    bench.boot.request(f"swap {OLD} 1")
    state = bench.runs(OLD, after=0)
    assert (state.phase, state.cause, state.boots) == ("trial", "update", 1)
    assert str((bench.app / "current").readlink()) == f"slots/{OLD}"
    assert bench.outcome(f"confirm {OLD} 1") == "ok"
    assert bench.boot.state().phase == "committed"
    assert bench.boot.state().starts == state.starts, "a commit restarts nothing"
    wait_for("the answered request to be deleted", lambda: not list((bench.app / "requests").iterdir()), deadline_s=10)


def test_the_running_release_tells_its_applications_without_distribution(bench: LauncherDevice) -> None:
    starts = bench.install().starts
    directory = os.open(bench.run, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"/proc/self/fd/{directory}/app/link.sock")
        answer = json.loads(link.makefile().read())
    os.close(directory)
    assert answer["boot"] == starts
    assert {name for name, _ in answer["applications"]} == {"kernel", "stdlib"}
    flags = Path(f"/proc/{bench.vm()}/cmdline").read_bytes().split(b"\0")
    assert flags.count(b"-heart") == 1
    assert not {b"-sname", b"-name", b"-setcookie"} & set(flags)


def test_a_trial_that_nobody_confirms_is_reverted_and_says_so(bench: LauncherDevice) -> None:
    before = bench.install().starts
    bench.boot.request(f"swap {NEW} 1")
    bench.until("the trial", lambda s: s.phase == "trial")
    state = bench.until("the revert", lambda s: s.phase == "reverted", 20)
    assert state.failed == f"{NEW}:1:unconfirmed"
    bench.runs(OLD, after=before + 1)
    assert str((bench.app / "current").readlink()) == f"slots/{OLD}"


def test_a_release_with_a_broken_vm_is_reverted_after_three_boots_and_refused_in_the_same_attempt(
    bench: LauncherDevice,
) -> None:
    bench.install()
    (bench.slot(NEW) / next(iter(bench.slot(NEW).glob("erts-*"))).name / "bin/beam.smp").write_bytes(b"garbage")
    before = bench.boot.state().starts
    bench.boot.request(f"swap {NEW} 1")
    state = bench.until("the revert", lambda s: s.phase == "reverted")
    assert (state.failed_slot, state.failed_attempt, state.failed_cause) == (NEW, 1, "crash")
    assert bench.runs(OLD, after=before + 3).starts == before + 4
    assert bench.outcome(f"swap {NEW} 1") == "refused:reverted"


def test_a_first_install_that_fails_leaves_no_vm_and_takes_the_next_one(bench: LauncherDevice) -> None:
    (bench.slot(NEW) / "releases/1/start.boot").write_bytes(b"\x83truncated")
    bench.boot.request(f"swap {NEW} 1")
    state = bench.until("the revert", lambda s: s.phase == "reverted")
    assert state.slot == ""
    assert not bench.ours()
    assert bench.install(OLD).phase == "committed"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (f"swap {'c' * 32} 1", "refused:no_such_slot"),
        ("swap ../../etc 1", "refused:malformed"),
        (f"swap {NEW}", "refused:malformed"),
        (f"swap {NEW} 1a", "refused:malformed"),
        (f"confirm {NEW} 1", "refused:not_running"),
        (f"confirm {OLD} 2", "refused:not_running"),
        ("rollback", "refused:no_previous"),
        ("reboot now", "refused:unknown_verb"),
        (f"swap {OLD} 1", "ok"),
        (f"confirm {OLD} 1", "ok"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_disturbs_nothing(
    bench: LauncherDevice, line: str, answer: str
) -> None:
    before = bench.install()
    assert bench.outcome(line) == answer
    after = bench.boot.state()
    assert (after.slot, after.phase, after.starts) == (OLD, "committed", before.starts)


def test_a_link_and_a_stray_file_in_requests_are_left_alone(bench: LauncherDevice) -> None:
    bench.install()
    bait = bench.root / "bait"
    bait.write_text(f"swap {NEW} 1\n")
    (bench.app / "requests/0000000099").symlink_to(bait)
    (bench.app / "requests/0000000098x").write_text(f"swap {NEW} 1\n")
    assert bench.outcome(f"confirm {NEW} 1") == "refused:not_running"
    assert bench.boot.state().slot == OLD


def test_a_killed_vm_is_a_crash_and_a_frozen_one_a_hang(bench: LauncherDevice) -> None:
    before = bench.install().starts
    os.kill(bench.vm(), signal.SIGKILL)
    state = bench.runs(OLD, after=before)
    assert (state.cause, state.phase) == ("crash", "committed")
    assert len(bench.inside("dd")) == 1, "the log of the first has ended with it"
    os.kill(bench.vm(), signal.SIGSTOP)
    state = bench.runs(OLD, after=state.starts, deadline_s=40)
    assert (state.cause, state.phase) == ("hang", "committed")


def test_a_new_launcher_ends_the_vm_of_the_old_one_before_it_starts_its_own(bench: LauncherDevice) -> None:
    before = bench.install().starts
    first = bench.vm()
    bench.kill()
    assert bench.vm() == first, "the VM outlives its launcher"
    bench.start()
    state = bench.runs(OLD, after=before)
    assert state.cause == "killed"
    assert first not in bench.ours()


def test_a_second_launcher_on_the_same_root_gives_way(bench: LauncherDevice) -> None:
    bench.install()
    second = subprocess.run(
        ["sh", str(bench.root / "usr/lib/beamfleet/launcher"), str(bench.root)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert second.returncode == 75
    assert "another launcher, process " in second.stderr


def test_a_stop_holds_over_a_restart_of_the_launcher(bench: LauncherDevice) -> None:
    before = bench.install().starts
    assert bench.outcome("stop") == "ok"
    wait_for("the VM to be gone", lambda: not bench.ours(), deadline_s=20)
    bench.stop()
    bench.start()
    assert bench.outcome(f"confirm {OLD} 1") == "ok"
    assert not bench.ours()
    assert bench.outcome("start") == "ok"
    assert bench.runs(OLD, after=before).cause == "operator"


def test_a_rollback_is_a_trial_of_the_previous_release(bench: LauncherDevice) -> None:
    bench.install(OLD)
    before = bench.install(NEW).starts
    assert bench.outcome("rollback") == "ok"
    state = bench.runs(OLD, after=before)
    assert (state.phase, state.cause, state.previous) == ("trial", "rollback", NEW)
    assert bench.outcome(f"confirm {OLD} 0") == "ok"
    assert bench.boot.state().phase == "committed"


def test_a_damaged_state_file_falls_back_to_what_current_names(bench: LauncherDevice) -> None:
    before = bench.install().starts
    bench.stop()
    path = bench.app / "boot/state"
    path.write_bytes(path.read_bytes().replace(b"phase=committed", b"phase=trial"))
    bench.start()
    state = bench.runs(OLD, after=before)
    assert state.phase == "committed"


def test_the_idle_launcher_sleeps(bench: LauncherDevice) -> None:
    bench.install()
    launcher = bench.launcher_pid()
    assert bench.boot.ring(), "one wake-up, so that everything before is done"

    def switches() -> int:
        status = Path(f"/proc/{launcher}/status").read_text()
        return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    def settled() -> bool:
        first = switches()
        try:
            wait_for("a wake-up", lambda: switches() != first, deadline_s=2, every_s=0.2)
        except FleetError:
            return True
        return False

    wait_for("two seconds without a wake-up", settled, deadline_s=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_to_the_whole_group_is_a_clean_stop(bench: LauncherDevice, number: signal.Signals) -> None:
    before = bench.install()
    bench.kill()
    bench.start(new_group=True)
    bench.runs(OLD, after=before.starts)
    launcher = bench.launcher_pid()
    assert launcher is not None
    os.killpg(launcher, number)
    wait_for("the launcher to end", lambda: bench.launcher_pid() is None, deadline_s=20)
    bench.until_gone()
    assert bench.boot.state().boot_id == "", "it says that it was stopped, not cut off"


def test_a_killed_keeper_costs_the_vm_and_nothing_else(bench: LauncherDevice) -> None:
    before = bench.install().starts
    first = bench.vm()
    os.kill(int((bench.run / "keeper.pid").read_text()), signal.SIGKILL)
    state = bench.runs(OLD, after=before)
    assert (state.cause, state.detail) == ("killed", "nobody told how it ended")
    assert first not in bench.ours()


def test_a_confirm_before_the_new_vm_is_there_commits_nothing(bench: LauncherDevice) -> None:
    bench.install()
    bench.kill()
    bench.boot.request(f"swap {NEW} 1")
    number = bench.boot.request(f"confirm {NEW} 1")
    bench.start()
    state = bench.until("both to be answered", lambda s: s.last_request == number)
    assert (state.phase, state.result) == ("trial", "refused:not_started")


def test_what_the_release_prints_is_kept_to_a_bound(bench: LauncherDevice) -> None:
    bench.install()
    bench.stop()
    with (bench.root / "etc/beamfleet/launcher.conf").open("a") as conf:
        conf.write("log_max_bytes=100000\n")
    before = bench.boot.state().starts
    release_slots.lay(bench.slot(OLD), bench.slot("c" * 32), arguments=("-eval", "spam(), halt(3)."))
    noisy = "F=fun(0,_)->ok;(N,F)->io:put_chars(lists:duplicate(1000,$x)),F(N-1,F) end,F(2000,F)."
    launch = bench.slot("c" * 32) / ".beamfleet/launch"
    launch.write_text(launch.read_text().replace("spam(), halt(3).", noisy))
    bench.start()
    bench.boot.request(f"swap {'c' * 32} 1")
    bench.runs("c" * 32, after=before)
    logs = [bench.run / "vm.log", bench.run / "vm.log.1"]  # the first one is away for a moment when it is turned over
    wait_for("the log to be turned over", logs[1].exists, deadline_s=20)
    sizes = [path.stat().st_size for path in logs if path.exists()]
    assert sum(sizes) <= 2 * (100_000 + 65_536)


def test_the_launcher_and_its_keeper_share_three_megabytes_at_most(bench: LauncherDevice) -> None:
    bench.install()
    release = set(bench.ours())
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in bench.inside() if pid not in release}
    assert sorted(names.values()) == ["dd", "sh", "sh", "sh", "sh"], "launcher, its ear, keeper, its log and its writer"
    assert sum(proportional_kb(pid) for pid in names) <= 3 * 1024


def proportional_kb(pid: int) -> int:
    """The proportional set size of a process: what it shares counts by its share."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("\nPss:")[1].split()[0])
