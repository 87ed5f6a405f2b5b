"""The launcher killed at each call that changes files: start, swap, trial, then commit or revert, then a clean stop.

What boot/state and `current` say is the old or the new, and a new launcher ends what the dead one began.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.crash import bootloader, device, tracer
from tests.crash.bootloader import NEW, OLD, Bootloader
from tests.crash.lint import Lint
from tests.crash.tracer import Fault
from tests.support.fleet import FleetError

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("goal", ["committed", "reverted"])
def test_a_new_launcher_ends_what_a_launcher_that_was_killed_at_any_call_began(
    room: Path, running: Path, figures: Counter[str], goal: str
) -> None:
    root = room / "device"
    whole = Bootloader(device.renew(running, root), goal).traced()
    assert whole.status == 0
    assert not Lint(bootloader.rules()).findings(whole.calls)
    for call in whole.calls:
        if "started." in call.paths[-1] and call.name == "open":
            continue  # the stand-in's
        figures["syscall_faults"] += 1
        fault = Fault(call.ordinal, 0)
        what = f"{fault.name} at {call.ordinal} of {len(whole.calls)}: {call.program} {call.name} {call.paths}"
        broken = Bootloader(device.renew(running, root), goal)
        broken.traced(fault)
        assert not broken.half(), what
        try:
            assert broken.recover().slot == (NEW if goal == "committed" else OLD), what
        except FleetError as error:
            pytest.fail(f"{what}: {error}")
        assert not broken.running(), what
