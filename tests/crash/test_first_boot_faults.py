"""A first boot in another machine, and the end of a device, killed or failed at each call that changes files.

Whatever happens, nobody goes on under an id with the identity of another, what was set aside is whole, and the next
attempt ends what this one began.
"""

import errno
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.provisioning import first_boot
from beamfleet_agent.retirement import Retirement
from beamfleet_agent.settings import load

from tests.agent.authority import Authority
from tests.agent.device import identify, words
from tests.agent.machine import card, write
from tests.crash import device, tracer
from tests.crash.device import STDOUT
from tests.crash.lint import Claim, Lint, Rules
from tests.crash.shares import shared
from tests.crash.tracer import Call, Fault

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
    pytest.mark.timeout(900),
]

SIDE_BY_SIDE = 2
ONE, OTHER = "00005e000001", "00005e000002"
SETTINGS = "etc/beamfleet/agent.toml"
ERRORS = [0, errno.EIO, errno.ENOSPC]


@pytest.fixture(scope="module")
def machines(room: Path) -> Path:
    """What two machines say of themselves."""
    for name in (ONE, OTHER):
        card(room / "machines" / name, "eth0", ":".join(name[at : at + 2] for at in range(0, 12, 2)))
    return room / "machines"


@pytest.fixture(scope="module")
def enrolled(room: Path, machines: Path) -> Path:
    """The medium of a device that has run in the machine ONE, to be copied."""
    root = room / "enrolled"
    paths = Paths(str(root))
    given = {**words(""), "token": "batch", "id_from": "mac", "env": {"SECRET": "1"}}
    write(Path(paths.provision), json.dumps(given))
    first_boot(str(root), str(machines / ONE))
    identify(paths, *Authority(room / "pki").issue(ONE))
    Path(paths.token).unlink()
    Path(paths.journal).write_text("of the one")
    return root


def told(work: Callable[[], object], root: Path, fault: Fault | None = None) -> tracer.Trace:
    """`work` under the tracer; its last word is its answer, or the error that it ended with."""

    def speaking() -> int:
        with (root / STDOUT).open("w") as sys.stdout, open(os.devnull, "w") as sys.stderr:
            try:
                answer = work()
            except (AgentError, OSError) as error:
                print(json.dumps({"error": str(error)}), flush=True)
                return 1
            print(json.dumps({"result": answer}), flush=True)
        return 0

    (root / STDOUT).write_bytes(b"")
    return tracer.run(speaking, root, fault)


def every_fault(
    template: Path, work: Callable[[Path], object], wrong: Callable[[Path], str], end: Callable[[Path], str], error: int
) -> tuple[int, list[str]]:
    """(number of calls, findings): `wrong` after each fault, `end` after the next attempt."""
    room = template.parent
    whole = told(lambda: work(root), root := device.renew(template, room / f"whole-{error}"))
    assert whole.status == 0, (root / STDOUT).read_text()
    calls = [call for call in whole.calls if call.paths != (STDOUT,)]

    def tried(number: int, call: Call) -> str:
        root = device.renew(template, room / f"tried-{error}-{number}")
        told(lambda: work(root), root, fault := Fault(call.ordinal, error))
        found = wrong(root)
        if not found and (again := told(lambda: work(root), root)).status != 0:
            found = f"the next attempt ends with {again.status}: {(root / STDOUT).read_text()}"
        found = found or end(root)
        return f"{fault.name} at {call.ordinal}, {call.name} {call.paths}: {found}" if found else ""

    return len(calls), shared(SIDE_BY_SIDE, calls, tried)


@pytest.mark.parametrize("error", ERRORS, ids=["SIGKILL", "EIO", "ENOSPC"])
def test_the_next_boot_ends_what_a_first_boot_with_a_fault_at_any_call_began(
    enrolled: Path, machines: Path, figures: Counter[str], error: int
) -> None:
    pair = Path(Paths(str(enrolled)).pair).read_bytes()

    def wrong(root: Path) -> str:
        paths = Paths(str(root))
        places = [Path(paths.pair), Path(f"{paths.identity}.{ONE}/pair.pem")]
        if [place.read_bytes() for place in places if place.exists()] != [pair]:
            return "the identity that was there is not"
        if load(paths.settings).device == OTHER:
            return done(root)
        return ""

    def done(root: Path) -> str:
        paths = Paths(str(root))
        facts = {
            "device": load(paths.settings).device == OTHER,
            "no pair": not Path(paths.pair).exists(),
            "token": Path(paths.token).exists() and Path(paths.token).read_text() == "batch\n",
            "aside": Path(f"{paths.identity}.{ONE}/pair.pem").exists(),
            "no journal": not Path(paths.journal).exists(),
        }
        return ", ".join(name for name, true in facts.items() if not true)

    calls, found = every_fault(enrolled, lambda root: first_boot(str(root), str(machines / OTHER)), wrong, done, error)
    figures["syscall_faults"] += calls
    figures["syscall_faults_first_boot"] += calls
    assert not found, "\n".join(found)
    assert calls > 30


def test_a_first_boot_is_durable_when_it_says_so(enrolled: Path, machines: Path, room: Path) -> None:
    root = room / "durable"
    shutil.copytree(enrolled, root)

    def claims(call: Call) -> list[Claim] | None:
        said = call.paths == (STDOUT,) and b'"result"' in call.data
        return [Claim(SETTINGS), Claim("var/lib/beamfleet/identity/token")] if said else None

    rules = Rules(
        lasting=lambda path: path.startswith(("etc/beamfleet/", "var/lib/beamfleet/identity")),
        pointer=lambda path: path == SETTINGS,
        claims=claims,
    )
    trace = told(lambda: first_boot(str(root), str(machines / OTHER)), root)
    assert trace.status == 0
    assert Lint(rules).findings(trace.calls) == []


@pytest.mark.parametrize("error", ERRORS[:2], ids=["SIGKILL", "EIO"])
def test_a_decommissioning_with_a_fault_at_any_call_is_ended_by_the_next(
    enrolled: Path, figures: Counter[str], error: int
) -> None:
    def work(root: Path) -> object:
        try:
            return Retirement(str(root)).carry_out()
        except AgentError as refused:
            if refused.code == "agent.not_set_up":  # all was done before
                return []
            raise

    def done(root: Path) -> str:
        paths = Paths(str(root))
        left = [*Path(paths.etc).iterdir(), *Path(paths.var).iterdir()]
        return ", ".join(map(str, left))

    calls, found = every_fault(enrolled, work, lambda _root: "", done, error)
    figures["syscall_faults"] += calls
    assert not found, "\n".join(found)
    assert calls > 10
