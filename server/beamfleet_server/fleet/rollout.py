"""Owns the rules of a rollout: (rollout, its members with their newest reports) -> orders. Pure.

    canary    the canaries are offered the release; nobody else sees it
    rest      all canaries are committed: everyone else is offered it
    done      every member is committed or skipped

One member that reverted or failed halts the rollout: no more offers, and those that have not swapped are put on hold.
Truth: a member is committed when its newest report says that `boot/state` is committed on that manifest, or has gone
back to it from another one, and not before. A revert or failure counts for the attempt it belongs to: an old one is no
evidence against a new attempt.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    """Where a member is. The last five are final."""

    PENDING = "pending"
    OFFERED = "offered"
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    STAGED = "staged"
    SWAPPING = "swapping"
    TRIAL = "trial"
    COMMITTED = "committed"
    REVERTED = "reverted"
    FAILED = "failed"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"


class Progress(StrEnum):
    """Whether a rollout goes on."""

    RUNNING = "running"
    COMPLETED = "completed"
    HALTED = "halted"
    ABORTED = "aborted"


class Phase(StrEnum):
    """How far a rollout may go."""

    CANARY = "canary"
    REST = "rest"
    DONE = "done"


NOT_SWAPPED = frozenset({State.OFFERED, State.DOWNLOADING, State.VERIFIED, State.STAGED})
BAD = frozenset({State.REVERTED, State.FAILED})
GONE = frozenset({State.SKIPPED, State.SUPERSEDED})
FINAL = BAD | GONE | {State.COMMITTED}
UNDERWAY = {str(state): state for state in (*NOT_SWAPPED - {State.OFFERED}, State.SWAPPING, State.TRIAL)}
SETTLED = frozenset({"committed", "reverted", "fallback"})
"""Phases of `boot/state` in which what runs has been committed, now or before what failed came and went."""
ID_LENGTH = 32
"""Hex digits of a manifest's hash that name a slot."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a device last said: `boot/state` (manifest, phase, failed) and its update. Manifests are 64 hex digits or
    empty."""

    manifest: str = ""
    phase: str = ""
    failed: str = ""
    update_phase: str = ""
    update_manifest: str = ""
    update_attempt: int = 0
    update_reason: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A device in a rollout. `manifest` is what it shall run; empty while it has not said what it is, or if nothing
    fits."""

    device: int
    name: str
    manifest: str
    attempt: int
    online: bool = False
    state: State = State.PENDING
    canary: bool = False
    offered: bool = False
    reason: str = ""
    report: Report = Report()


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as far as the rules care; `canary` is the number of devices that go first."""

    canary: int
    progress: Progress = Progress.RUNNING
    phase: Phase = Phase.CANARY


@dataclass(frozen=True, slots=True)
class Move:
    """Note that a member is in `state`, because of `reason`."""

    device: int
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Elect:
    """Make a member a canary."""

    device: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Sign and send the assignment with the member's manifest; the member is `offered` from then on."""

    device: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Sign and send an empty assignment: keep what runs, drop what has not swapped."""

    device: int


@dataclass(frozen=True, slots=True)
class Enter:
    """Go on to the next phase."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Finish:
    """The rollout ends."""

    progress: Progress
    reason: str = ""


Order = Move | Elect | Offer | Hold | Enter | Finish


def advance(rollout: Rollout, members: Sequence[Member]) -> list[Order]:
    """What has to happen now that the members have reported what they have. Calling it again after that gives
    nothing."""
    orders: list[Order] = []
    current: dict[int, Member] = {}
    for member in members:
        state, reason = observed(member)
        if (state, reason) != (member.state, member.reason):
            orders.append(Move(member.device, state, reason))
        current[member.device] = replace(member, state=state, reason=reason)
    if rollout.progress is not Progress.RUNNING:
        return orders
    bad = [member for member in current.values() if member.state in BAD]
    if bad:
        first = min(bad, key=lambda member: member.name)
        return orders + _stop(
            current.values(), Progress.HALTED, f"{first.name} {first.state}: {first.reason or 'no reason given'}"
        )
    phase = rollout.phase
    if phase is Phase.CANARY:
        for member in _elect(rollout.canary, current.values()):
            orders += (Elect(member.device), Offer(member.device))
            current[member.device] = replace(member, state=State.OFFERED, canary=True)
        if _proved(rollout.canary, current.values()):
            phase = Phase.REST
            orders.append(Enter(phase))
    if phase is Phase.REST:
        for member in _free(current.values()):
            orders.append(Offer(member.device))
            current[member.device] = replace(member, state=State.OFFERED)
    if all(member.state in FINAL for member in current.values()):
        orders += _finish(current.values())
    return orders


def abort(members: Iterable[Member], reason: str) -> list[Order]:
    """An operator ends the rollout: no more offers, and those that have not swapped are put on hold."""
    return _stop(members, Progress.ABORTED, reason)


def supersede(members: Iterable[Member], reason: str) -> list[Order]:
    """A newer rollout takes these members over: what was offered and has not swapped is withdrawn."""
    orders: list[Order] = []
    for member in members:
        if member.state not in FINAL:
            orders.append(Move(member.device, State.SUPERSEDED, reason))
            if member.state in NOT_SWAPPED:
                orders.append(Hold(member.device))
    return orders


def observed(member: Member) -> tuple[State, str]:
    """The member's state and reason, given its newest report."""
    report = member.report
    kept = (member.state, member.reason)
    withdrawn = member.state is State.SKIPPED and member.offered
    if (member.state in FINAL and not withdrawn) or not member.manifest:
        return kept
    if report.phase in SETTLED and report.manifest == member.manifest:
        return State.COMMITTED, ""
    if not member.offered:
        return kept
    if (report.update_manifest, report.update_attempt) == (member.manifest, member.attempt):
        if report.update_phase in ("reverted", "failed"):
            return State(report.update_phase), report.update_reason
        state = UNDERWAY.get(report.update_phase, member.state)
        return (
            kept if withdrawn and state in NOT_SWAPPED else (state, "" if state is not member.state else member.reason)
        )
    slot, _, rest = report.failed.partition(":")
    attempt, _, cause = rest.partition(":")
    if (slot, attempt) == (member.manifest[:ID_LENGTH], str(member.attempt)):
        return State.REVERTED, cause
    return kept


def _free(members: Iterable[Member]) -> list[Member]:
    return [member for member in members if member.state is State.PENDING and member.manifest]


def _serving(members: Iterable[Member]) -> list[Member]:
    return [member for member in members if member.canary and member.state not in GONE]


def _elect(wanted: int, members: Collection[Member]) -> list[Member]:
    """Canaries are online first, then by name; one that was skipped or superseded is replaced."""
    missing = max(0, wanted - len(_serving(members)))
    return sorted(_free(members), key=lambda member: (not member.online, member.name))[:missing]


def _proved(wanted: int, members: Collection[Member]) -> bool:
    """All canaries are committed, and there are as many as were wanted, or nobody is left who could become one."""
    serving = _serving(members)
    enough = len(serving) >= wanted or all(member.state is not State.PENDING for member in members)
    return enough and all(member.state is State.COMMITTED for member in serving)


def _stop(members: Iterable[Member], progress: Progress, reason: str) -> list[Order]:
    orders: list[Order] = []
    for member in members:
        if member.state in NOT_SWAPPED:
            orders += (Move(member.device, State.SKIPPED, f"held: {reason}"), Hold(member.device))
    return [*orders, Finish(progress, reason)]


def _finish(members: Iterable[Member]) -> list[Order]:
    states = [member.state for member in members]
    if State.SUPERSEDED in states and State.COMMITTED not in states:
        return [Finish(Progress.ABORTED, "superseded by a newer rollout")]
    return [Finish(Progress.COMPLETED)]
