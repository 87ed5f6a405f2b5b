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
from tests.crash.device import STDOUT, Staged
from tests.crash.lint import Lint
from tests.crash.tracer import Fault

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
]


@pytest.mark.parametrize("error", [0, errno.EIO, errno.ENOSPC], ids=["SIGKILL", "EIO", "ENOSPC"])
def test_the_next_worker_ends_what_a_worker_with_a_fault_at_any_call_began(
    room: Path, installed: Path, bundles: list[Staged], figures: Counter[str], error: int
) -> None:
    _, old, new = bundles
    root = room / "device"
    whole = device.staged(device.renew(installed, root), new.path)
    assert whole.status == 0
    assert not Lint(device.rules(new.slot)).findings(whole.calls)
    for call in whole.calls:
        if call.paths == (STDOUT,):
            continue
        figures["syscall_faults"] += 1
        what = f"{Fault(call.ordinal, error).name} at {call.ordinal} of {len(whole.calls)}, {call.name} {call.paths}"
        lint = Lint(device.rules(new.slot))
        broken = device.staged(device.renew(installed, root), new.path, Fault(call.ordinal, error))
        if error:
            last = json.loads((root / STDOUT).read_text().splitlines()[-1])
            assert (broken.status, "error" in last) in {(1, True), (0, False)}, f"{what}: {broken.status} {last}"
        assert not device.damaged(root), what
        found = lint.findings(broken.calls)
        again = device.staged(root, new.path)
        assert again.status == 0, f"{what}: {(root / STDOUT).read_text()}"
        assert not device.damaged(root), what
        assert present(str(root / device.APP / "slots")) == {old.slot, new.slot}, what
        assert not list((root / device.APP / "staging").iterdir()), what
        if error == 0:  # what a failed fsync left is the kernel's secret
            assert not found + lint.findings(again.calls), what
