"""The worker killed, or failed with EIO and ENOSPC, at each call that changes files, from the first to the last.

It stages a release beside the one that runs and removes one that nobody needs. Whatever happens, every slot that has
its name is whole, and the next worker ends what this one began; nothing is reported before it is durable.
"""

import errno
import json
from collections import Counter
from pathlib import Path

import pytest
from beamfleet_agent.slots import present

from tests.crash import device, tracer
from tests.crash.device import STDOUT, Versions
from tests.crash.lint import Lint
from tests.crash.shares import shared
from tests.crash.tracer import Call, Fault

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
    pytest.mark.timeout(900),
]


SIDE_BY_SIDE = 2


@pytest.mark.parametrize("error", [0, errno.EIO, errno.ENOSPC], ids=["SIGKILL", "EIO", "ENOSPC"])
def test_the_next_worker_ends_what_a_worker_with_a_fault_at_any_call_began(
    room: Path, installed: Path, bundles: Versions, figures: Counter[str], error: int
) -> None:
    whole = device.staged(device.renew(installed, room / "device"), bundles.new.path)
    assert whole.status == 0
    assert not Lint(device.rules(bundles.new.slot)).findings(whole.calls)
    calls = [call for call in whole.calls if call.paths != (STDOUT,)]
    figures["syscall_faults"] += len(calls)
    figures["syscall_faults_worker"] += len(calls)

    def tried(number: int, call: Call) -> str:
        fault = Fault(call.ordinal, error)
        found = _after(device.renew(installed, room / f"device-{number}"), bundles, fault)
        return (
            f"{fault.name} at {call.ordinal} of {len(whole.calls)}, {call.name} {call.paths}: {found}" if found else ""
        )

    found = shared(SIDE_BY_SIDE, calls, tried)
    assert not found, "\n".join(found)


def _after(root: Path, bundles: Versions, fault: Fault) -> str:
    """What is wrong after this fault; empty when all is well."""
    lint = Lint(device.rules(bundles.new.slot))
    broken = device.staged(root, bundles.new.path, fault)
    if fault.error:
        last = json.loads((root / STDOUT).read_text().splitlines()[-1])
        if (broken.status, "error" in last) not in {(1, True), (0, False)}:
            return f"it ended with {broken.status} and {last}"
    if damaged := device.damaged(root):
        return f"damaged: {damaged}"
    found = lint.findings(broken.calls)
    again = device.staged(root, bundles.new.path)
    if again.status != 0:
        return (root / STDOUT).read_text()
    if damaged := device.damaged(root):
        return f"damaged by the next worker: {damaged}"
    if (there := present(str(root / device.APP / "slots"))) != {one.slot for one in bundles[1:]}:
        return f"the slots are {there}"
    if left := list((root / device.APP / "staging").iterdir()):
        return f"left: {left}"
    # what a failed fsync left is the kernel's secret
    return "" if fault.error else "; ".join(found + lint.findings(again.calls))
