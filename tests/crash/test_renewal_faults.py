"""The renewal of a certificate killed, or failed with EIO and ENOSPC, at each call that changes files.

Whatever happens, the device has a whole pair of its fleet in use, and the next worker ends what this one began.
"""

import errno
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beamfleet_agent.paths import Paths
from beamfleet_agent.worker import __main__ as worker
from beamfleet_bundles import pki
from beamfleet_bundles.errors import BundleError

from tests.agent.authority import Authority
from tests.agent.enrolment import DEVICE, SmallEnrolment
from tests.crash import device, tracer
from tests.crash.device import STDOUT, VAR
from tests.crash.lint import Claim, Lint, Rules
from tests.crash.shares import shared
from tests.crash.tracer import Call, Fault

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
    pytest.mark.timeout(900),
]

SIDE_BY_SIDE = 2
PAIR = f"{VAR}/identity/pair.pem"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallEnrolment]:
    made = SmallEnrolment(Authority(tmp_path_factory.mktemp("pki")))
    yield made
    made.close()


@pytest.fixture(scope="module")
def due(front: SmallEnrolment, room: Path) -> Path:
    """A device, to be copied, whose certificate has run out."""
    ended = datetime.now(UTC) - timedelta(hours=1)
    front.device(room / "due", front.authority.issue(DEVICE, ends=ended))
    return room / "due"


@pytest.mark.parametrize("error", [0, errno.EIO, errno.ENOSPC], ids=["SIGKILL", "EIO", "ENOSPC"])
def test_the_next_worker_ends_what_a_renewal_with_a_fault_at_any_call_began(
    room: Path, due: Path, front: SmallEnrolment, figures: Counter[str], error: int
) -> None:
    whole = traced(device.renew(due, room / "renewal"))
    assert whole.status == 0, (room / "renewal" / STDOUT).read_text()
    assert not Lint(rules()).findings(whole.calls)
    calls = [call for call in whole.calls if call.paths != (STDOUT,)]
    assert len(calls) > 15
    figures["syscall_faults"] += len(calls)
    figures["syscall_faults_renewal"] += len(calls)

    def tried(number: int, call: Call) -> str:
        fault = Fault(call.ordinal, error)
        found = after(device.renew(due, room / f"renewal-{number}"), front.authority, fault)
        return (
            f"{fault.name} at {call.ordinal} of {len(whole.calls)}, {call.name} {call.paths}: {found}" if found else ""
        )

    found = shared(SIDE_BY_SIDE, calls, tried)
    assert not found, "\n".join(found)


def after(root: Path, authority: Authority, fault: Fault) -> str:
    """What is wrong after this fault; empty when all is well."""
    lint, before = Lint(rules()), serial(root, authority)
    broken = traced(root, fault)
    if fault.error:
        last = json.loads((root / STDOUT).read_text().splitlines()[-1])
        if (broken.status, "error" in last) not in {(1, True), (0, False)}:
            return f"it ended with {broken.status} and {last}"
    if wrong := unusable(root, authority):
        return wrong
    made = [call for call in broken.calls if fault.error or call.ordinal < fault.ordinal]  # killed before it was made
    found = lint.findings(made)
    again = traced(root)
    if again.status != 0:
        return (root / STDOUT).read_text()
    if wrong := unusable(root, authority):
        return f"after the next worker: {wrong}"
    if serial(root, authority) == before:
        return "the next worker did not renew"
    left = sorted(path.name[:4] for path in (root / VAR / "identity").iterdir() if not path.name.startswith("."))
    if left not in (["old-", "pair"], ["pair"]):
        return f"left: {left}"
    # what a failed fsync left is the kernel's secret
    return "" if fault.error else "; ".join(found + lint.findings(again.calls))


def renewal(root: Path) -> int:
    """The worker's whole job, in this process; its exit code."""
    sys.argv = ["worker", str(os.getppid())]
    sys.stdin = io.StringIO(json.dumps({"job": "renew", "root": str(root)}) + "\n")
    with (root / STDOUT).open("w") as sys.stdout, open(os.devnull, "w") as sys.stderr:
        return worker.main()


def traced(root: Path, fault: Fault | None = None) -> tracer.Trace:
    """`renewal` under the tracer."""
    (root / STDOUT).write_bytes(b"")
    return tracer.run(lambda: renewal(root), root, fault)


def unusable(root: Path, authority: Authority) -> str:
    """What is wrong with the pair in use; empty when it is whole and of the fleet."""
    try:
        serial(root, authority)
    except (BundleError, AssertionError) as error:
        return f"the pair is no good: {error}"
    return ""


def serial(root: Path, authority: Authority) -> str:
    """The serial of the pair in use. Error: BundleError, AssertionError."""
    certificate, _ = pki.load_pair(Path(Paths(str(root)).pair))
    facts = pki.read_certificate(certificate)
    assert facts.name == DEVICE
    assert pki.is_issued_by(certificate, authority.certificate)
    return facts.serial


def rules() -> Rules:
    """A worker that reports a switch has made it durable; the pair appears by rename alone, and never goes."""

    def claims(call: Call) -> list[Claim] | None:
        return [Claim(PAIR)] if call.paths == (STDOUT,) and b'"result"' in call.data else None

    return Rules(
        lasting=lambda path: path.startswith(f"{VAR}/identity/"), pointer=lambda path: path == PAIR, claims=claims
    )
