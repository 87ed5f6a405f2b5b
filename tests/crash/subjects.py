"""Owns what is recorded: the shipped worker, agent and launcher at their work, and how a disk is read afterwards.

Each runs under the tracer, which stops it before each call that changes files. There the witness is told what is
promised from now on, and there, if so wished, somebody else's fsync comes between.
"""

import hashlib
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from beamfleet_agent import moves
from beamfleet_agent.boot import Boot
from beamfleet_agent.errors import AgentError
from beamfleet_agent.journal import Journal, Ledger, encode
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import Reports
from beamfleet_agent.slots import present
from beamfleet_agent.telemetry import rhythm
from beamfleet_agent.update import step
from beamfleet_agent.update_state import Ground, Release, State, Update
from beamfleet_bundles import offline
from beamfleet_bundles.highwater import HighWater

from tests.crash import device, tracer
from tests.crash.bootloader import NEW, OLD, Bootloader, whole_state
from tests.crash.device import VAR
from tests.crash.invariants import JOURNAL, STATE, TRUST, Facts, Witness
from tests.crash.tracer import Call
from tests.support.fleet import FleetError

PATIENCE_S = 60.0
Noise = Callable[[], None]


class Subject(Protocol):
    """Something that ships, on a device at `root` whose `var/lib/beamfleet` is the recorded disk."""

    links: frozenset[str]
    """Where `current` may lead."""

    @abstractmethod
    def run(self, root: Path, witness: Witness, noise: Noise) -> None:
        """Do the work. Error: AssertionError when it did not succeed."""

    @abstractmethod
    def facts(self, root: Path, *, deep: bool) -> Facts:
        """What is found after a power cut; `deep`: also whether the next process can go on from there."""


class Worker:
    """The worker stages a release, removes one that nobody needs, keeps the two in use, and pins what it trusts."""

    links = frozenset({""})

    def __init__(self, bundle: Path, slot: str, kept: list[str]) -> None:
        self._bundle, self._slot, self._kept = bundle, slot, kept

    def run(self, root: Path, witness: Witness, noise: Noise) -> None:
        witness.version(STATE, Path(Paths(str(root)).boot, "state").read_text())
        witness.relied(STATE, "nobody writes it")
        witness.version(TRUST, trust(root))
        witness.relied(TRUST, "it was there before")
        for slot in self._kept:
            witness.whole(slot)
        between = _between(noise)

        def seen(_pid: int, call: Call | None) -> None:
            between(call)
            if call is not None and call.paths == (device.STDOUT,) and b'"result"' in call.data:
                witness.version(TRUST, trust(root))
                witness.relied(TRUST, "the slot was reported")
                witness.whole(self._slot)

        (root / device.STDOUT).write_bytes(b"")
        trace = tracer.run(lambda: device.stage(root, self._bundle), root, seen=seen)
        assert trace.status == 0, (root / device.STDOUT).read_text()

    def facts(self, root: Path, *, deep: bool) -> Facts:
        troubles = []
        versions = {STATE: Path(Paths(str(root)).boot, "state").read_text(), TRUST: trust(root)}
        slots = dict.fromkeys(present(Paths(str(root)).slots), "")
        slots |= dict(line.split(": ", 1) for line in device.damaged(root))
        try:
            with device.slots(root).lock():
                pass
        except Exception as error:  # noqa: BLE001 - whatever stops the next worker is the finding
            troubles.append(f"the next worker cannot begin: {error}")
        if deep and (status := _in_a_child(lambda: device.stage(root, self._bundle))):
            troubles.append(f"the next worker ends with {status}: {(root / device.STDOUT).read_text()}")
        elif deep and (self._slot not in present(Paths(str(root)).slots) or device.damaged(root)):
            troubles.append(f"the next worker left {device.damaged(root)}")
        return Facts(versions, 0, 0, {}, slots, current(root), tuple(troubles))


class Agent:
    """The agent's journal and requests through an update that fails, one that reverts and one that is committed."""

    links = frozenset({f"slots/{OLD}"})

    def run(self, root: Path, witness: Witness, noise: Noise) -> None:
        between = _between(noise)
        witness.version(STATE, whole_state(root / device.APP))
        witness.relied(STATE, "nobody writes it")
        trace = tracer.run(lambda: _journalled(root, witness), root, seen=lambda _pid, call: between(call))
        assert trace.status == 0

    def facts(self, root: Path, *, deep: bool) -> Facts:
        found = _facts(root)
        if deep and (status := _in_a_child(lambda: _journalled(root, Witness(lambda _line: None)))):
            return replace(found, troubles=(*found.troubles, f"the next agent ends with {status}"))
        return found


class Launcher:
    """The launcher through swap and trial to `goal`, while an agent journals each state as soon as it can be seen."""

    links = frozenset({f"slots/{OLD}", f"slots/{NEW}"})

    def __init__(self, goal: str) -> None:
        self._goal = goal

    def run(self, root: Path, witness: Witness, noise: Noise) -> None:
        between, agent = _between(noise), _Onlooker(root, witness)
        agent.look()
        for slot in (OLD, NEW):
            witness.whole(slot)

        def seen(call: Call | None) -> None:
            between(call)
            agent.look()
            if call is None:
                return
            folder, _, name = call.paths[-1].rpartition("/")
            if call.name == "open" and name.startswith("started."):
                witness.started(int(name.partition(".")[2]))
            elif call.name == "unlink" and folder == f"{device.APP}/requests":
                witness.answered(int(name))

        made = Bootloader(root, self._goal)
        trace = made.traced(seen=seen, filed=witness.filed, patience_s=PATIENCE_S)
        agent.look()
        assert (trace.status, made.boot.state().phase) == (0, self._goal), Path(f"{root}.log").read_text()

    def facts(self, root: Path, *, deep: bool) -> Facts:
        found = _facts(root)
        if not deep:
            return found
        try:
            Bootloader(root, self._goal).recover()
        except FleetError as error:
            return replace(found, troubles=(*found.troubles, f"the next launcher is stuck: {error}"))
        return found


class _Onlooker:
    """An agent that looks at boot/state whenever it can have changed, and journals what follows."""

    def __init__(self, root: Path, witness: Witness) -> None:
        paths = Paths(str(root))
        self._boot, self._journal, self._witness = Boot(paths.app_dir, paths.run_app), Journal(paths.journal), witness
        self._state = State(Update("swapping", NEW, NEW * 2, "tiny", "2", 1, 1, "assignment"))
        self._app, self._seen = root / device.APP, ""

    def look(self) -> None:
        """What the agent does when boot/ has changed."""
        text = whole_state(self._app)
        if text == self._seen:
            return
        self._seen = text
        self._witness.version(STATE, text)
        ground = self._boot.state().ground()
        self._state, _ = step(self._state._replace(ground=ground), moves.BootChanged(ground))
        if _journal(self._journal, self._state, Ledger(boot=1, starts=self._boot.state().starts), self._witness):
            self._witness.relied(STATE, "the agent has journalled what it saw")


def trust(root: Path) -> str:
    """What the device trusts, in one line. Raises what the next worker would."""
    paths = Paths(str(root))
    directory = Path(paths.trust)
    mark = HighWater.load(directory)
    newest = offline.trusted_root(directory, Path(paths.trust_root).read_bytes())
    return f"root {mark.root}, {hash_of(newest)}, targets {hash_of(*offline.known_targets(directory))}"


def hash_of(*documents: bytes) -> str:
    """A short name of these bytes."""
    return hashlib.sha256(b"\0".join(documents)).hexdigest()[:8]


def current(root: Path) -> str:
    """Where `current` leads."""
    try:
        return str((root / device.APP / "current").readlink())
    except OSError:
        return ""


def _between(noise: Noise) -> Callable[[Call | None], None]:
    """Before a call: somebody else's fsync, if the call before it changed the disk."""
    changed = False

    def before(call: Call | None) -> None:
        nonlocal changed
        if changed:
            noise()
        changed = call is not None and any(path.startswith(f"{VAR}/") for path in call.paths)

    return before


def _journal(journal: Journal, state: State, ledger: Ledger, witness: Witness) -> bool:
    """Whether anything was to be written; from then on the agent acts and reports."""
    witness.version(JOURNAL, encode(state, ledger).decode())
    if not journal.write(state, ledger):
        return False
    witness.relied(JOURNAL, "its act came after it")
    return True


def _journalled(root: Path, witness: Witness) -> int:
    """The agent's way with each event: decide, journal, act; its acts here are requests and reports."""
    paths = Paths(str(root))
    boot, journal = Boot(paths.app_dir, paths.run_app), Journal(paths.journal)
    reports = Reports(Ledger(boot=1), lambda _kind, _payload, _expiry: False, rhythm("wired"), heard=True)
    state = State(salt="gw-1")
    for event in _events():
        before = state.update
        state, actions = step(state, event)
        if (before.phase, before.slot) != (state.update.phase, state.update.slot):
            reports.event("update", state.update.reason, state.update.detail, state.update.slot)
        _journal(journal, state, reports.ledger, witness)
        for action in actions:
            if isinstance(action, moves.Request):
                witness.filed(boot.request(action.line), action.line)
    assert state.update.phase == "committed"
    assert len(state.spent) == 2
    return 0


def _events() -> list[moves.Event]:
    """What a device lives through: attempt 1 fails to be fetched, attempt 2 reverts, attempt 3 stays."""
    old, new = (Release(slot * 2, "tiny", slot[0]) for slot in (OLD, NEW))
    runs = Ground(OLD, "", "committed", 0)
    events: list[moves.Event] = [moves.Started(runs, frozenset({OLD}))]
    for attempt in (1, 2, 3):
        events += [moves.Assigned(f"document {attempt}"), moves.Checked(attempt, attempt, new)]
        if attempt == 1:
            events += [moves.Failed("slot.no_space", "the slot needs more")]
            continue
        on_trial = Ground(NEW, OLD, "trial", attempt)
        events += [moves.Verified(new), moves.Staged(new), moves.Sound(old), moves.BootChanged(on_trial)]
        events += [moves.Observed("probe", "status 1")]
        if attempt == 2:
            events += [moves.BootChanged(Ground(OLD, "", "reverted", 0, "revert", NEW, 2, "crash"))]
            events += [moves.Started(Ground(OLD, "", "reverted", 0, "revert", NEW, 2, "crash"), frozenset({OLD, NEW}))]
        else:
            events += [moves.Observed("", ""), moves.Proven(), moves.BootChanged(on_trial._replace(phase="committed"))]
    return events


def _facts(root: Path) -> Facts:
    """What boot/, requests/, `current` and the journal say; the slots are those of `furnish`."""
    paths, app = Paths(str(root)), root / device.APP
    boot, troubles, versions = Boot(paths.app_dir, paths.run_app), list[str](), dict[str, str]()
    try:
        versions[STATE] = whole_state(app)
    except (OSError, ValueError) as error:
        troubles.append(str(error))
    if Journal(paths.journal).read() is not None:
        versions[JOURNAL] = Path(paths.journal).read_text()
    elif Path(paths.journal).exists():
        troubles.append(f"the journal is torn: {Path(paths.journal).read_bytes()[:80]!r}")
    state = boot.state()
    requests = {int(path.name): path.read_text().strip() for path in Path(paths.requests).glob("[0-9]*")}
    slots = {name: _damage(Path(paths.slot(name))) for name in present(paths.slots)}
    try:
        journal = Journal(paths.journal)
        was = journal.read() or (State(), Ledger())
        journal.write(was[0], was[1]._replace(boot=was[1].boot + 1))
    except AgentError as error:
        troubles.append(f"the next agent cannot write: {error}")
    return Facts(versions, state.starts, state.last_request, requests, slots, current(root), tuple(troubles))


def _damage(slot: Path) -> str:
    executable = slot / "erts/bin/beam.smp"
    try:
        same = executable.read_bytes() == Path(shutil.which("sleep") or "/bin/sleep").read_bytes()
        return "" if same and (slot / ".beamfleet/launch").read_text() else "a file is not as it was"
    except OSError as error:
        return str(error)


def _in_a_child(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
