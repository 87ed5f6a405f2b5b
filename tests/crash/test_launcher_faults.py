"""The launcher killed, or failed with EIO and ENOSPC, at each call that changes files, from the first to the last.

Start, swap, trial, then commit or revert, then a clean stop. What boot/state and `current` say is the old or the new,
and the launcher, or a new one, ends what was begun.
"""

import errno
from collections import Counter
from pathlib import Path

import pytest

from tests.crash import bootloader, device, tracer
from tests.crash.bootloader import NEW, OLD, Bootloader
from tests.crash.lint import Lint
from tests.crash.shares import shared
from tests.crash.tracer import Call, Fault
from tests.support.fleet import FleetError

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
    pytest.mark.timeout(1800),
]

SIDE_BY_SIDE = 3


@pytest.mark.parametrize("error", [0, errno.EIO, errno.ENOSPC], ids=["SIGKILL", "EIO", "ENOSPC"])
@pytest.mark.parametrize("goal", ["committed", "reverted"])
def test_a_launcher_ends_what_one_with_a_fault_at_any_call_began(
    room: Path, running: Path, figures: Counter[str], goal: str, error: int
) -> None:
    whole = Bootloader(device.renew(running, room / "device"), goal).traced(patience_s=20)
    assert whole.status == 0
    assert not Lint(bootloader.rules()).findings(whole.calls)
    calls = [call for call in whole.calls if not (call.name == "open" and "/started." in call.paths[-1])]
    figures["syscall_faults"] += len(calls)  # those of the stand-in are not the launcher's
    figures["syscall_faults_launcher"] += len(calls)

    def tried(number: int, call: Call) -> str:
        fault = Fault(call.ordinal, error)
        what = f"{fault.name} at {call.ordinal} of {len(whole.calls)}: {call.program} {call.name} {call.paths}"
        found = _after(Bootloader(device.renew(running, room / f"device-{number}"), goal), fault)
        return f"{what}: {found}" if found else ""

    found = shared(SIDE_BY_SIDE, calls, tried)
    assert not found, "\n".join(found)


def _after(broken: Bootloader, fault: Fault) -> str:
    """What is wrong after this fault; empty when all is well."""
    trace = broken.traced(fault)
    if half := broken.half():
        return half
    goal, slot = broken.goal, NEW if broken.goal == "committed" else OLD
    state = broken.boot.state()
    if trace.status != 0 or (state.phase, state.slot) != (goal, slot):
        try:
            state = broken.recover()
        except FleetError as error:
            return str(error)
    if state.slot != slot:
        return f"{state!r} is not what was wanted"
    return f"these still run: {broken.running()}" if broken.running() else ""
