"""Where nothing respawns the launcher (respawned=no) heart's command is the launcher: who comes back, who does not."""

import os
import signal
import sys

import pytest

from tests.heart.conftest import Make, Told
from tests.heart.device import PRODUCTS, ended
from tests.support.fleet import FleetError, wait_for
from tests.support.launcher_device import OLD

pytestmark = [pytest.mark.suite(name="heart"), pytest.mark.usefixtures("no_oom")]

KINDS = pytest.mark.parametrize("kind", PRODUCTS)
ALONE = {"respawned": "no"}
NO_REAPER = """
import ctypes, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to us, and we leave them unreaped
subprocess.Popen(sys.argv[1:])
signal.pause()
"""


@KINDS
def test_a_crash_with_the_launcher_alive_brings_no_second_launcher(make: Make, told: Told, kind: str) -> None:
    device = make(kind, settings=ALONE)
    before, launcher = device.serve(), device.launcher_pid()
    absence = device.absence(lambda: os.kill(device.vm(), signal.SIGKILL))
    assert device.launcher_pid() == launcher
    assert (device.boot.state().starts, device.boot.state().cause) == (before + 1, "crash")
    device.alone()
    told(absence)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
@KINDS
def test_heart_brings_a_dead_launcher_back_when_the_vm_ends(
    make: Make, told: Told, kind: str, how: signal.Signals
) -> None:
    device = make(kind, settings=ALONE)
    before = device.serve()
    device.kill()
    assert device.launcher_pid() is None
    absence = device.absence(lambda: os.kill(device.vm(), how))
    state = device.boot.state()
    assert (state.starts, state.cause, state.phase) == (before + 1, "killed", "committed")
    assert device.launcher_pid()
    again = device.absence(lambda: os.kill(device.vm(), signal.SIGKILL))
    assert device.boot.state().cause == "crash", "the launcher that heart started does the work of any other"
    device.alone()
    told(absence)
    told(again)


@KINDS
def test_with_launcher_and_heart_dead_nobody_comes_and_an_init_can_bring_it_back(
    make: Make, told: Told, kind: str
) -> None:
    device = make(kind, settings=ALONE)
    before, vm = device.serve(), device.vm()
    device.kill()
    os.kill(device.heart(), signal.SIGKILL)
    wait_for("the VM to follow its heart", lambda: ended(vm) and not device.ours(), deadline_s=20)
    with pytest.raises(FleetError):
        wait_for("anybody", lambda: device.launcher_pid() or device.ours(), deadline_s=3)
    device.start()
    state = device.runs(OLD, after=before)
    assert (state.cause, state.phase) == ("killed", "committed")
    device.answers(0)
    device.alone()


@KINDS
def test_a_vm_that_nobody_reaps_is_replaced_once(make: Make, told: Told, kind: str) -> None:
    device = make(kind, settings=ALONE, command=(sys.executable, "-c", NO_REAPER))
    before = device.serve()
    for pid in device.keepers():
        os.kill(pid, signal.SIGKILL)
    absence = device.absence(lambda: os.kill(device.vm(), signal.SIGKILL))
    state = device.boot.state()
    assert (state.starts, state.cause) == (before + 1, "killed")
    device.alone()
    told(absence)
