"""The heart table: whatever ends the VM, the service is back, the state names why, and no two VMs ever overlapped.

The bounds are those that heart and launcher are built for: a VM that ended is started again within 5 s, a hang is
noticed within the beat and its slack. How long the boot takes is the machine's affair; it is printed, not judged.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.heart.conftest import Make, Told
from tests.heart.device import PRODUCTS, SUPERVISORS, HeartDevice, ended
from tests.support.fleet import wait_for
from tests.support.launcher_device import OLD, boot_clock_ms

pytestmark = pytest.mark.suite(name="heart")

KINDS = pytest.mark.parametrize("kind", PRODUCTS)
STARTED_AGAIN_MS = 5000
HANG_NOTICED_MS = 25_000
KILLED = f"status {128 + signal.SIGKILL}"


@dataclass(frozen=True, slots=True)
class Row:
    """What happens to the VM, and what the state says afterwards; `detail` is how it begins."""

    what: str
    happen: Callable[[HeartDevice], None]
    cause: str
    detail: str = ""
    noticed_ms: int = 12_000


def order(expressions: str) -> Callable[[HeartDevice], None]:
    return lambda device: device.order(expressions)


ROWS = (
    Row("killed", lambda device: os.kill(device.vm(), signal.SIGKILL), "crash", KILLED),
    Row("hangs", lambda device: os.kill(device.vm(), signal.SIGSTOP), "hang", noticed_ms=HANG_NOTICED_MS),
    Row("halt(0)", order("halt(0)."), "exit", "status 0"),
    Row("halt(1)", order("halt(1)."), "crash", "status 1"),
    Row("halt(abort)", order("halt(abort)."), "crash", "status 134"),
    Row("init:stop(0)", order("init:stop(0)."), "exit", "status 0"),
    Row("init:stop(1)", order("init:stop(1)."), "crash", "status 1"),
    Row("init:reboot()", order("init:reboot()."), "exit", "status 0"),
    Row(
        "a permanent application dies",
        lambda device: device.order(f"exit(whereis({SUPERVISORS[device.kind]}), kill)."),
        "crash",
        "status 1, Kernel pid terminated (application_controller)",
    ),
    Row("heart killed", lambda device: os.kill(device.heart(), signal.SIGKILL), "crash", "status 1"),
    Row(
        "keeper killed",
        lambda device: os.kill(device.keepers()[1], signal.SIGKILL),
        "killed",
        "nobody told how it ended",
    ),
)


@KINDS
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_the_service_is_back_and_the_state_says_why(
    make: Make, told: Told, kind: str, row: Row, request: pytest.FixtureRequest
) -> None:
    if row.detail == KILLED:
        request.getfixturevalue("no_oom")
    device = make(kind)
    before = device.serve()
    absence = device.absence(lambda: row.happen(device))
    state = device.boot.state()
    assert (state.starts, state.cause, state.phase) == (before + 1, row.cause, "committed")
    assert state.detail.startswith(row.detail)
    if absence.down_ms > STARTED_AGAIN_MS or absence.noticed_ms > row.noticed_ms:
        told(f"{absence}; once more, for the machine may have had something else to do")
        absence = device.absence(lambda: row.happen(device))
    assert absence.noticed_ms <= row.noticed_ms
    assert absence.down_ms <= STARTED_AGAIN_MS
    device.alone()
    told(absence)


@KINDS
def test_init_restart_keeps_the_process_and_troubles_nobody(make: Make, told: Told, kind: str) -> None:
    device = make(kind)
    before, vm, asked_ms = device.serve(), device.vm(), boot_clock_ms()
    device.order("init:restart().")
    facts = device.answers(asked_ms)
    begun_ms = facts["started_ms"]
    assert isinstance(begun_ms, int)
    assert (facts["os_pid"], device.vm(), device.boot.state().starts) == (vm, vm, before)
    device.alone()
    told(f"away {begun_ms - asked_ms} ms, same process")


@KINDS
def test_a_launcher_that_is_restarted_replaces_the_vm_of_the_dead_one(make: Make, told: Told, kind: str) -> None:
    device = make(kind)
    before = device.serve()
    device.kill()
    assert device.http(), "the release outlives its launcher"
    absence = device.absence(device.start)
    state = device.boot.state()
    assert (state.starts, state.cause, state.phase) == (before + 1, "killed", "committed")
    device.alone()
    told(absence)


@pytest.mark.usefixtures("no_oom")
@KINDS
def test_a_vm_whose_parents_are_frozen_is_a_zombie_and_still_replaced_once(make: Make, told: Told, kind: str) -> None:
    device = make(kind)
    before, heart, keepers = device.serve(), device.heart(), device.keepers()
    for pid in keepers:
        os.kill(pid, signal.SIGSTOP)

    def happen() -> None:
        os.kill(device.vm(), signal.SIGKILL)
        wait_for("heart to give up on the zombie", lambda: heart not in device.ours(), deadline_s=40)
        for pid in keepers:
            os.kill(pid, signal.SIGCONT)

    absence = device.absence(happen)
    assert (device.boot.state().starts, device.boot.state().cause) == (before + 1, "crash")
    device.alone()
    told(absence)


@pytest.mark.parametrize("agent", [False, True], ids=["launcher and heart", "launcher, heart and agent"])
@KINDS
def test_all_that_are_killed_at_once_come_back_where_an_init_respawns(
    make: Make, told: Told, kind: str, agent: bool
) -> None:
    device = make(kind)
    device.serve()
    device.stop()
    before = device.boot.state().starts
    device.start_all()
    device.runs(OLD, after=before)
    device.answers(0)
    first = wait_for("the agent", device.agent_pid, deadline_s=30)
    launcher, heart = device.launcher_pid(), device.heart()
    assert launcher

    def happen() -> None:
        for pid in (launcher, heart, *([first] if agent else [])):
            os.kill(pid, signal.SIGKILL)

    absence = device.absence(happen)
    state = device.boot.state()
    assert (state.starts, state.cause, state.phase) == (before + 2, "killed", "committed")
    wait_for("an agent", device.agent_pid, deadline_s=30)
    assert (device.agent_pid() == first) is not agent
    device.alone()
    told(absence)


@KINDS
def test_a_killed_agent_is_none_of_the_releases_business(make: Make, kind: str) -> None:
    device = make(kind)
    device.serve()
    device.stop()
    before = device.boot.state().starts
    device.start_all()
    device.runs(OLD, after=before)
    vm = device.answers(0)["os_pid"]
    agent = wait_for("the agent", device.agent_pid, deadline_s=30)
    os.kill(agent, signal.SIGKILL)
    wait_for("another agent", lambda: device.agent_pid() not in (None, agent), deadline_s=30)
    facts = device.http()
    assert facts
    assert (facts["os_pid"], device.boot.state().starts) == (vm, before + 1)
    device.alone()


@pytest.mark.parametrize("late_s", [0, 4], ids=["at once", "late"])
@KINDS
def test_a_command_that_the_release_gave_to_heart_makes_no_second_vm(make: Make, kind: str, late_s: int) -> None:
    device = make(kind)
    before, told = device.serve(), device.app / "data/foreign"
    start = f"exec sh {device.root}/usr/lib/beamfleet/start {device.root} {device.slot(OLD)} 99"
    device.order(f'ok = heart:set_cmd("echo $$ >foreign.new; mv foreign.new foreign; sleep {late_s}; {start}").')
    wait_for("heart to have its order", (device.app / "data/taken").exists, deadline_s=10)
    heart = device.heart()
    device.order("halt(1).")
    device.runs(OLD, after=before)
    wait_for("the old heart to be gone", lambda: ended(heart), deadline_s=20)
    if told.exists():
        wait_for("its command to be over", lambda: ended(int(told.read_text())), deadline_s=20)
    device.answers(0)
    assert device.boot.state().starts == before + 1
    device.alone()
