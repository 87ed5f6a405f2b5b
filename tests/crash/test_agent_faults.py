"""The agent killed, or failed with EIO and ENOSPC, at each call of its journal and of a request to the launcher."""

import errno
import os
from collections import Counter
from pathlib import Path

import pytest
from beamfleet_agent.boot import Boot
from beamfleet_agent.errors import AgentError
from beamfleet_agent.journal import Journal, Ledger
from beamfleet_agent.update_state import State

from tests.crash import tracer
from tests.crash.lint import Claim, Lint, Rules
from tests.crash.tracer import Call, Fault

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
    pytest.mark.parametrize("error", [0, errno.EIO, errno.ENOSPC], ids=["SIGKILL", "EIO", "ENOSPC"]),
]

OLD, NEW = (State(sequence=1, spent=(("a" * 32, 1),)), Ledger(boot=1)), (State(sequence=2), Ledger(boot=2, starts=7))
SWAP = f"swap {'b' * 32} 1"


@pytest.fixture
def root(room: Path) -> Path:
    return room / "agent"


def fresh(root: Path) -> Path:
    """A device with the old journal and an empty `requests/`."""
    for folder in ("requests", "boot", "run"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path in (*(root / "requests").iterdir(), root / "journal"):
        path.unlink(missing_ok=True)
    (root / "report").write_bytes(b"")
    Journal(str(root / "journal")).write(*OLD)
    return root


def report(root: Path) -> None:
    """What the agent does once it believes that something is durable: here, a line that the trace sees."""
    descriptor = os.open(root / "report", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"reported\n")
    os.close(descriptor)


def rules(name: str, fragment: bytes) -> Rules:
    return Rules(
        lasting=lambda path: path in {name, str(Path(name).parent)},
        pointer=lambda path: path == name,
        claims=lambda call: [Claim(name, fragment)] if call.paths == ("report",) and call.name == "write" else None,
    )


def journalled(root: Path) -> int:
    journal = Journal(str(root / "journal"))
    assert journal.read() in {OLD, NEW}
    try:
        journal.write(*NEW)
    except AgentError:
        return 1
    report(root)
    return 0


def asked(root: Path) -> int:
    try:
        Boot(str(root), str(root / "run")).request(SWAP)
    except AgentError:
        return 1
    report(root)
    return 0


def requests(root: Path) -> list[str]:
    """What a launcher would find, in its order."""
    return [path.read_text() for path in sorted((root / "requests").glob("[0-9]*"))]


def faults(calls: tuple[Call, ...], error: int, figures: Counter[str]) -> list[Fault]:
    chosen = [Fault(call.ordinal, error) for call in calls if call.paths != ("report",)]
    figures["syscall_faults"] += len(chosen)
    figures["syscall_faults_agent"] += len(chosen)
    return chosen


def test_a_journal_write_with_a_fault_at_any_call_leaves_the_old_or_the_new_one(
    root: Path, error: int, figures: Counter[str]
) -> None:
    whole = tracer.run(lambda: journalled(root), fresh(root))
    kept = rules("journal", b'"sequence":2')
    assert (whole.status, Lint(kept).findings(whole.calls)) == (0, [])
    for fault in faults(whole.calls, error, figures):
        lint = Lint(kept)
        broken = tracer.run(lambda: journalled(root), fresh(root), fault)
        left = Journal(str(root / "journal")).read()
        assert left in {OLD, NEW}, fault
        assert broken.status == (1 if error else -9), fault
        found = lint.findings(broken.calls)
        again = tracer.run(lambda: journalled(root), root)
        assert (again.status, Journal(str(root / "journal")).read()) == (0, NEW), fault
        assert error or not found + lint.findings(again.calls), fault


def test_a_request_with_a_fault_at_any_call_is_not_there_or_whole(
    root: Path, error: int, figures: Counter[str]
) -> None:
    whole = tracer.run(lambda: asked(root), fresh(root))
    kept = rules("requests/0000000001", SWAP.encode())
    assert (whole.status, Lint(kept).findings(whole.calls)) == (0, [])
    for fault in faults(whole.calls, error, figures):
        broken = tracer.run(lambda: asked(root), fresh(root), fault)
        rang = whole.calls[fault.ordinal - 1].paths == ("run/doorbell",)  # nobody has to listen: the request lies there
        assert broken.status == (-9 if not error else 0 if rang else 1), fault
        assert set(requests(root)) <= {SWAP + "\n"}, fault
        assert not Lint(kept).findings(broken.calls), fault
        assert tracer.run(lambda: asked(root), root).status == 0, fault
        assert requests(root), fault
        assert set(requests(root)) == {SWAP + "\n"}, fault
