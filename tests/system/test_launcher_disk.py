"""The launcher on disks that fail it: full, without inodes, read-only. What runs goes on; what fails does not stay."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import release_slots
from tests.support.fleet import wait_for
from tests.support.launcher_device import NEW, OLD, LauncherDevice


class DiskedDevice(LauncherDevice):
    """A device whose `boot/` is a filesystem of 32 KiB of its own."""

    def mount(self) -> None:
        words = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            "size=32k,nr_inodes=12,mode=755",
            "beamfleet-test",
            str(self.app / "boot"),
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.app / "boot")], check=True)

    def remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.app / "boot")], check=True)

    def fill(self, what: str) -> None:
        """Take all bytes, or all inodes."""
        boot = self.app / "boot"
        if what == "bytes":
            with (boot / "filler").open("wb", buffering=0) as filler:
                try:
                    while filler.write(b"x" * 4096):
                        pass
                except OSError:
                    return
        for number in range(20):
            try:
                (boot / f"filler{number}").touch()
            except OSError:
                return

    def empty(self) -> None:
        for filler in (self.app / "boot").glob("filler*"):
            filler.unlink()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[DiskedDevice]:
    made = DiskedDevice(tmp_path, {"trial_deadline_s": 20})
    made.mount()
    try:
        for name in (OLD, NEW):
            release_slots.tiny(made.slot(name))
        made.start()
        yield made
        made.stop()
    finally:
        made.unmount()


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_disk_still_has_the_room_that_was_kept_for_the_state(bench: DiskedDevice, what: str) -> None:
    before = bench.install(OLD).starts
    bench.fill(what)
    os.kill(bench.vm(), signal.SIGKILL)
    state = bench.runs(OLD, after=before)
    assert (state.cause, state.phase) == ("crash", "committed")
    assert (bench.app / "boot/reserve").exists(), "the old state's room is kept in turn"


def test_without_the_kept_room_a_full_disk_takes_no_state(bench: DiskedDevice) -> None:
    before = bench.install(OLD).starts
    (bench.app / "boot/reserve").unlink()
    bench.fill("bytes")
    os.kill(bench.vm(), signal.SIGKILL)
    wait_for("another VM", lambda: bench.boot.started(before + 1), deadline_s=20)
    assert bench.boot.state().starts == before
    bench.empty()
    bench.boot.ring()
    bench.until("the state to be written", lambda s: s.starts == before + 1)


def test_a_committed_release_comes_back_on_a_disk_that_takes_nothing_any_more(bench: DiskedDevice) -> None:
    before = bench.install(OLD).starts
    first = bench.vm()
    bench.remount("ro")
    os.kill(first, signal.SIGKILL)
    wait_for(
        "another VM", lambda: bench.vm_pid() not in (None, first) and bench.boot.started(before + 1), deadline_s=20
    )
    assert bench.boot.state().starts == before, "nothing of it could be written"
    bench.remount("rw")
    bench.boot.ring()
    state = bench.until("the state to be written", lambda s: s.starts == before + 1)
    assert (state.slot, state.phase, state.cause) == (OLD, "committed", "crash")


def test_a_trial_whose_start_cannot_be_counted_counts_as_failed_and_may_be_tried_again(bench: DiskedDevice) -> None:
    before = bench.install(OLD).starts
    bench.boot.request(f"swap {NEW} 1")
    bench.runs(NEW, after=before)
    first = bench.vm()
    bench.remount("ro")
    os.kill(first, signal.SIGKILL)
    wait_for(
        "the old release",
        lambda: (
            (pid := bench.vm_pid()) not in (None, first)
            and f"/slots/{OLD}/" in str(Path(f"/proc/{pid}/exe").readlink())
        ),
        deadline_s=30,
    )
    bench.remount("rw")
    bench.boot.ring()
    state = bench.until("the state to be written", lambda s: s.phase == "reverted")
    assert (state.slot, state.failed) == (OLD, f"{NEW}:1:uncounted")
    assert bench.outcome(f"swap {NEW} 1") == "ok"


def test_a_trial_ends_at_its_deadline_although_nothing_can_be_written(bench: DiskedDevice) -> None:
    before = bench.install(OLD).starts
    bench.boot.request(f"swap {NEW} 1")
    bench.runs(NEW, after=before)
    first = bench.vm()
    bench.remount("ro")
    wait_for(
        "the old release",
        lambda: (
            (pid := bench.vm_pid()) not in (None, first)
            and f"/slots/{OLD}/" in str(Path(f"/proc/{pid}/exe").readlink())
        ),
        deadline_s=60,
    )
    bench.remount("rw")
    bench.boot.ring()
    assert bench.until("the state to be written", lambda s: s.phase == "reverted").failed == f"{NEW}:1:unconfirmed"


def test_a_request_that_cannot_be_answered_durably_waits_and_is_answered_later(bench: DiskedDevice) -> None:
    before = bench.install(OLD)
    bench.remount("ro")
    number = bench.boot.request(f"swap {NEW} 1")
    wait_for("a look", lambda: "could not be written" in bench.console(), deadline_s=20)
    assert (bench.app / f"requests/{number:010d}").exists()
    assert bench.boot.state().slot == OLD
    assert bench.vm_pid() is not None
    bench.remount("rw")
    bench.boot.ring()
    assert bench.runs(NEW, after=before.starts).phase == "trial"


def test_a_state_file_that_was_lost_is_made_again_from_what_current_names(bench: DiskedDevice) -> None:
    before = bench.install(OLD).starts
    bench.stop()
    (bench.app / "boot/state").write_bytes(b"")
    bench.start()
    wait_for("the release", lambda: bench.ours("beam.smp"), deadline_s=20)
    state = bench.until("a state", lambda s: s.slot == OLD)
    assert (state.phase, before) == ("committed", before)
