"""The launcher under BusyBox ash with BusyBox's tools, and of others only flock and setpriv of util-linux."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import release_slots
from tests.support.fleet import wait_for
from tests.support.launcher_device import NEW, OLD, LauncherDevice

UTIL_LINUX = ("flock", "setpriv")


@pytest.fixture
def ash(tmp_path: Path) -> Iterator[LauncherDevice]:
    busybox = shutil.which("busybox")
    assert busybox is not None
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        (tools / name).symlink_to(busybox)
    for name in UTIL_LINUX:
        found = shutil.which(name)
        assert found is not None
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(found)
    made = LauncherDevice(tmp_path / "device", command=("/usr/bin/env", f"PATH={tools}"))
    for name in (OLD, NEW):
        release_slots.tiny(made.slot(name))
    made.start()
    yield made
    made.stop()


def test_ash_takes_an_update_through_trial_commit_crash_revert_and_the_launchers_death(ash: LauncherDevice) -> None:
    told = ash.root / "told"
    hooks = ash.root / "usr/lib/beamfleet/hooks.d/post-swap"
    hooks.mkdir(mode=0o755)
    (hooks / "10-tell").write_text(f"#!/bin/sh\necho $BEAMFLEET_HOOK >>{told}\n")
    (hooks / "10-tell").chmod(0o755)
    before = ash.install(OLD).starts
    assert told.read_text() == "post-swap\n"
    launcher = ash.launcher_pid()
    assert Path(f"/proc/{launcher}/exe").readlink().name == "busybox"
    os.kill(ash.vm(), signal.SIGKILL)
    state = ash.runs(OLD, after=before)
    assert (state.cause, state.detail) == ("crash", "status 137")
    ash.boot.request(f"swap {NEW} 1")
    trial = ash.runs(NEW, after=state.starts)
    state = ash.until("the revert", lambda s: s.phase == "reverted", 30)
    assert state.failed == f"{NEW}:1:unconfirmed"
    state = ash.runs(OLD, after=trial.starts)
    ash.kill()
    ash.start()
    state = ash.runs(OLD, after=state.starts)
    assert (state.cause, state.phase) == ("killed", "reverted")
    assert ash.outcome("stop") == "ok"
    wait_for("the VM to be gone", lambda: not ash.ours(), deadline_s=20)


def test_ash_runs_the_command_of_a_probe_and_restarts_a_release_for_it(ash: LauncherDevice) -> None:
    slot = "c" * 32
    release_slots.tiny(ash.slot(slot), {"bin/check": "#!/bin/sh\nexit 7\n"}, "probe_liveness_command=bin/check\n")
    starts = ash.install(slot, 4).starts
    assert ash.probe("liveness", slot, 4) == (slot, 4, 7)
    assert ash.outcome(f"restart {slot} {starts} liveness: it's ill") == "refused:malformed"
    assert ash.outcome(f"restart {slot} {starts} liveness: the command ended with 7") == "ok"
    state = ash.runs(slot, after=starts)
    assert (state.starts, state.cause, state.detail) == (starts + 1, "probe", "liveness: the command ended with 7")


def test_ash_goes_back_from_a_release_whose_vm_is_broken(ash: LauncherDevice) -> None:
    before = ash.install(OLD).starts
    next(ash.slot(NEW).glob("erts-*/bin/beam.smp")).write_bytes(b"garbage")
    ash.boot.request(f"swap {NEW} 1")
    assert ash.until("the revert", lambda s: s.phase == "reverted").failed == f"{NEW}:1:crash"
    ash.runs(OLD, after=before + 3)
