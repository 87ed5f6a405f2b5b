"""The launcher alone, with real BEAMs and no agent: start, trial, confirm, revert, crash, hang, stop, rollback.

The slots hold a whole release made of this machine's OTP (kernel, stdlib); requests go through the agent's `Boot`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beamfleet_agent.boot import Boot, BootState

from tests.support.fleet import FleetError, read_pid, wait_for

DEVICE = Path(__file__).parents[2] / "agent/beamfleet_agent/device"
OLD, NEW = "a" * 32, "b" * 32
LAUNCH = "kind=systools\nname=tiny\nvsn=1\nerts={erts}\nboot=releases/1/start\nconfig=\nargs_file=\n"


def otp() -> tuple[Path, str]:
    """Root directory and ERTS version of the installed OTP."""
    expression = 'io:format("~s ~s", [code:root_dir(), erlang:system_info(version)]), halt().'
    done = subprocess.run(["erl", "-noshell", "-eval", expression], capture_output=True, text=True, check=True)
    root, erts = done.stdout.split()
    return Path(root), erts


class Bench:
    """One device directory with two slots and a launcher process."""

    def __init__(self, root: Path) -> None:
        self.root, self.app, self.run = root, root / "var/lib/beamfleet/apps/main", root / "var/run/beamfleet/main"
        for folder in ("boot", "requests", "data", "dump", "slots"):
            (self.app / folder).mkdir(parents=True)
        self.run.mkdir(parents=True)
        (root / "etc/beamfleet").mkdir(parents=True)
        (root / "etc/beamfleet/launcher.conf").write_text(
            "trial_deadline_s=6\nmax_trial_boots=3\napp_user=\nrespawned=yes\nheart_beat_timeout_s=11\n"
        )
        shutil.copytree(DEVICE, root / "usr/lib/beamfleet")
        self._lay_slots()
        self.boot = Boot(str(self.app), str(self.run))
        self.launcher: subprocess.Popen[bytes] | None = None

    def _lay_slots(self) -> None:
        otp_root, erts = otp()
        for name in (OLD, NEW):
            slot = self.slot(name)
            shutil.copytree(otp_root / f"erts-{erts}/bin", slot / f"erts-{erts}/bin")
            for library in ("kernel", "stdlib"):
                found = next((otp_root / "lib").glob(f"{library}-*"))
                shutil.copytree(found / "ebin", slot / "lib" / found.name / "ebin")
            (slot / "releases/1").mkdir(parents=True)
            shutil.copy(otp_root / "bin/start_clean.boot", slot / "releases/1/start.boot")
            (slot / ".beamfleet").mkdir()
            (slot / ".beamfleet/launch").write_text(LAUNCH.format(erts=erts))

    def slot(self, name: str) -> Path:
        """Where a slot lies."""
        return self.app / "slots" / name

    def start(self) -> None:
        """Start the launcher."""
        with (self.root / "launcher.log").open("ab") as log:
            self.launcher = subprocess.Popen(
                ["sh", str(self.root / "usr/lib/beamfleet/launcher"), str(self.root)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self) -> int:
        """TERM to the launcher; its exit code."""
        assert self.launcher is not None
        self.launcher.terminate()
        return self.launcher.wait(30)

    def until(self, what: str, look: Callable[[BootState], bool], deadline_s: float = 30) -> BootState:
        """The first state that fits."""

        def fits() -> BootState | None:
            state = self.boot.state()
            return state if look(state) else None

        try:
            return wait_for(what, fits, deadline_s=deadline_s)
        except FleetError as error:
            log = (self.root / "launcher.log").read_text()
            raise FleetError(f"{error}\n{self.boot.state()!r} {self.boot.state().result}\n{log}") from None

    def runs(self, name: str, *, after: int, deadline_s: float = 30) -> BootState:
        """Until a VM start newer than `after` of this slot has run its boot script."""
        return self.until(
            f"{name[0]} to run",
            lambda s: s.slot == name and s.starts > after and self.boot.started(s.starts),
            deadline_s,
        )

    def install(self, name: str = OLD, attempt: int = 1) -> BootState:
        """Swap to a slot and confirm it."""
        after = self.boot.state().starts
        self.boot.request(f"swap {name} {attempt}")
        self.runs(name, after=after)
        self.boot.request(f"confirm {name} {attempt}")
        return self.until("the commit", lambda s: s.phase == "committed" and s.slot == name)

    def vm(self) -> int:
        """The pid of the BEAM."""
        pid = read_pid(self.run / "vm.pid")
        assert pid is not None
        return pid

    def outcome(self, line: str) -> str:
        """What the launcher answers to a request."""
        number = self.boot.request(line)
        return self.until(f"an answer to {line}", lambda s: s.last_request == number).result

    def ours(self) -> list[int]:
        """Every process that runs from our slots."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if str((entry / "exe").readlink()).startswith(str(self.app / "slots")):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.start()
    yield made
    assert made.launcher is not None
    if made.launcher.poll() is None:
        assert made.stop() == 0
    assert not made.ours()


def test_a_trial_becomes_permanent_when_it_is_confirmed(bench: Bench) -> None:
    bench.boot.request(f"swap {OLD} 1")
    state = bench.runs(OLD, after=0)
    assert (state.phase, state.cause, state.boots) == ("trial", "update", 1)
    assert str((bench.app / "current").readlink()) == f"slots/{OLD}"
    assert bench.outcome(f"confirm {OLD} 1") == "ok"
    assert bench.boot.state().phase == "committed"
    assert bench.boot.state().starts == state.starts, "a commit restarts nothing"
    assert not list((bench.app / "requests").iterdir())


def test_the_running_release_tells_its_applications_without_distribution(bench: Bench) -> None:
    starts = bench.install().starts
    directory = os.open(bench.run, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"/proc/self/fd/{directory}/link.sock")
        answer = json.loads(link.makefile().read())
    os.close(directory)
    assert answer["boot"] == starts
    assert {application["name"] for application in answer["applications"]} == {"kernel", "stdlib"}
    flags = Path(f"/proc/{bench.vm()}/cmdline").read_bytes().split(b"\0")
    assert flags.count(b"-heart") == 1
    assert not {b"-sname", b"-name", b"-setcookie"} & set(flags)


def test_a_trial_that_nobody_confirms_is_reverted_and_says_so(bench: Bench) -> None:
    before = bench.install().starts
    bench.boot.request(f"swap {NEW} 1")
    bench.until("the trial", lambda s: s.phase == "trial")
    state = bench.until("the revert", lambda s: s.phase == "reverted", 20)
    assert state.failed == f"{NEW}:1:unconfirmed"
    bench.runs(OLD, after=before + 1)
    assert str((bench.app / "current").readlink()) == f"slots/{OLD}"


def test_a_release_with_a_broken_vm_is_reverted_after_three_boots_and_refused_in_the_same_attempt(bench: Bench) -> None:
    bench.install()
    (bench.slot(NEW) / next(iter(bench.slot(NEW).glob("erts-*"))).name / "bin/beam.smp").write_bytes(b"garbage")
    before = bench.boot.state().starts
    bench.boot.request(f"swap {NEW} 1")
    state = bench.until("the revert", lambda s: s.phase == "reverted")
    assert (state.failed_slot, state.failed_attempt, state.failed_cause) == (NEW, 1, "crash")
    assert bench.runs(OLD, after=before + 3).starts == before + 4
    assert bench.outcome(f"swap {NEW} 1") == "refused:reverted"


def test_a_first_install_that_fails_leaves_no_vm_and_takes_the_next_one(bench: Bench) -> None:
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
def test_a_request_that_makes_no_sense_is_refused_and_disturbs_nothing(bench: Bench, line: str, answer: str) -> None:
    before = bench.install()
    assert bench.outcome(line) == answer
    after = bench.boot.state()
    assert (after.slot, after.phase, after.starts) == (OLD, "committed", before.starts)


def test_a_link_and_a_stray_file_in_requests_are_left_alone(bench: Bench) -> None:
    bench.install()
    bait = bench.root / "bait"
    bait.write_text(f"swap {NEW} 1\n")
    (bench.app / "requests/0000000099").symlink_to(bait)
    (bench.app / "requests/0000000098x").write_text(f"swap {NEW} 1\n")
    assert bench.outcome(f"confirm {NEW} 1") == "refused:not_running"
    assert bench.boot.state().slot == OLD


def test_a_killed_vm_is_a_crash_and_a_frozen_one_a_hang(bench: Bench) -> None:
    before = bench.install().starts
    os.kill(bench.vm(), signal.SIGKILL)
    state = bench.runs(OLD, after=before)
    assert (state.cause, state.phase) == ("crash", "committed")
    os.kill(bench.vm(), signal.SIGSTOP)
    state = bench.runs(OLD, after=state.starts, deadline_s=40)
    assert (state.cause, state.phase) == ("hang", "committed")


def test_a_new_launcher_ends_the_vm_of_the_old_one_before_it_starts_its_own(bench: Bench) -> None:
    before = bench.install().starts
    first = bench.vm()
    assert bench.launcher is not None
    bench.launcher.kill()
    bench.launcher.wait()
    assert read_pid(bench.run / "vm.pid") == first, "the VM outlives its launcher"
    bench.start()
    state = bench.runs(OLD, after=before)
    assert state.cause == "killed"
    assert first not in bench.ours()


def test_a_second_launcher_on_the_same_root_gives_way(bench: Bench) -> None:
    bench.install()
    second = subprocess.run(
        ["sh", str(bench.root / "usr/lib/beamfleet/launcher"), str(bench.root)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert second.returncode == 75
    assert "another launcher" in second.stderr


def test_a_stop_holds_over_a_restart_of_the_launcher(bench: Bench) -> None:
    before = bench.install().starts
    assert bench.outcome("stop") == "ok"
    wait_for("the VM to be gone", lambda: not bench.ours(), deadline_s=20)
    assert bench.stop() == 0
    bench.start()
    assert bench.outcome(f"confirm {OLD} 1") == "ok"
    assert not bench.ours()
    assert bench.outcome("start") == "ok"
    assert bench.runs(OLD, after=before).cause == "operator"


def test_a_rollback_is_a_trial_of_the_previous_release(bench: Bench) -> None:
    bench.install(OLD)
    before = bench.install(NEW).starts
    assert bench.outcome("rollback") == "ok"
    state = bench.runs(OLD, after=before)
    assert (state.phase, state.cause, state.previous) == ("trial", "rollback", NEW)
    assert bench.outcome(f"confirm {OLD} 0") == "ok"
    assert bench.boot.state().phase == "committed"


def test_a_damaged_state_file_falls_back_to_what_current_names(bench: Bench) -> None:
    before = bench.install().starts
    assert bench.stop() == 0
    path = bench.app / "boot/state"
    path.write_bytes(path.read_bytes().replace(b"phase=committed", b"phase=trial"))
    bench.start()
    state = bench.runs(OLD, after=before)
    assert state.phase == "committed"


def test_the_idle_launcher_sleeps(bench: Bench) -> None:
    bench.install()
    assert bench.launcher is not None
    assert bench.boot.ring(), "one wake-up, so that everything before is done"

    def switches() -> int:
        assert bench.launcher is not None
        status = Path(f"/proc/{bench.launcher.pid}/status").read_text()
        return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    def settled() -> bool:
        first = switches()
        try:
            wait_for("a wake-up", lambda: switches() != first, deadline_s=2, every_s=0.2)
        except FleetError:
            return True
        return False

    wait_for("two seconds without a wake-up", settled, deadline_s=20)
