"""Owns what one member of a rollout comes to by what its device says and by the clock. Pure; the store does the same to
all members at once in SQL, and tests hold the two equal.

Truth: a member is committed when its device says that `boot/state` is settled on the wanted manifest, and not before.
What a device says of its update counts for the (manifest, attempt) it names: an old one says nothing about a new one.
Only the membership that the device joined last is told by its reports.

    in flight   follows the device's word; at its deadline it fails: `lost` while nobody has answered, bad after that
    no evidence goes back to pending, with a back-off and the next attempt, as long as tries are left
    failed      at a deadline: heals when the device turns out to have come further, or to have ended in another way
    lost        is pending again, without a place, when the device speaks
    pending     held or withdrawn, and the device had swapped already: it is where the device is
    committed   reverts if the release falls back later
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import (
    ALREADY,
    DEADLINE,
    ID_LENGTH,
    IN_FLIGHT,
    PUT_OFF,
    SETTLED,
    STEP,
    SWAPPED,
    WORDS,
    State,
    is_evidence,
)

RETURNED = "returned"
"""Why a lost member is pending again."""
FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Report:
    """What a device last said: `boot/state` (manifest, phase, and `failed`, apart) and its update. Manifests are 64 hex
    digits or empty; `seen` is when anything was heard from it (Unix seconds)."""

    manifest: str = ""
    phase: str = ""
    failed_slot: str = ""
    failed_attempt: int = 0
    failed_cause: str = ""
    update_phase: str = ""
    update_manifest: str = ""
    update_attempt: int = 0
    update_reason: str = ""
    update_detail: str = ""
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A device in a rollout, as its row has it.

    manifest: what it shall commit next, empty while nobody knows what it is; `step`: that is a stepping stone.
    phase: the index of the phase in which it has its place, None before its first offer. A lost one has none: its phase
    is only remembered.
    offered: this manifest was offered in this rollout. tries: retries so far; `next_try`: not offered before then.
    deadline: of what is in flight. updated: when state, reason or attempt last changed. All times are Unix seconds.
    """

    manifest: str
    attempt: int = 1
    state: State = State.PENDING
    reason: str = ""
    detail: str = ""
    phase: int | None = None
    offered: bool = False
    step: bool = False
    tries: int = 0
    next_try: int = 0
    deadline: int | None = None
    evidence: bool = False
    updated: int = 0

    @property
    def lost(self) -> bool:
        """Whether it never answered an offer in time."""
        return self.state is State.FAILED and self.reason == DEADLINE and not self.evidence


def observed(member: Member, report: Report, plan: Plan, now: int) -> Member:
    """The member, given its device's newest report and the clock."""
    if not member.manifest or member.state is State.SUPERSEDED:
        return member
    if member.state is State.SKIPPED and not member.offered:
        return member
    after = _followed(member, report, plan, now)
    if after.state in IN_FLIGHT and after.deadline is not None and now >= after.deadline:
        after = _late(after)
    return after if after == member else replace(after, updated=now)


def withdrawn(before: Member, after: Member) -> bool:
    """Whether an assignment with no target has to be signed, since the member left what it was offered."""
    left = before.state in IN_FLIGHT and after.state not in IN_FLIGHT
    return left and (
        (after.state is State.PENDING and after.reason != STEP)
        or (after.state is State.FAILED and after.reason == DEADLINE)
    )


class Word(NamedTuple):
    """What a device claims for the wanted manifest and this attempt."""

    state: State
    reason: str = ""
    detail: str = ""


def told(member: Member, report: Report) -> Word | None:
    """The device's word about this member; None if it says nothing about it."""
    if report.phase in SETTLED and report.manifest == member.manifest:
        return Word(State.COMMITTED)
    if not member.offered:
        return None
    if (report.update_manifest, report.update_attempt) == (member.manifest, member.attempt):
        if report.update_phase in ("reverted", "failed"):
            return Word(State(report.update_phase), report.update_reason, report.update_detail)
        if state := WORDS.get(report.update_phase):
            waits = state in (State.DOWNLOADING, State.STAGED) and report.update_reason == PUT_OFF
            return Word(State.WAITING if waits else state, report.update_reason, report.update_detail)
    cause = _launchers_word(member, report)
    return None if cause is None else Word(State.REVERTED, cause)


def _launchers_word(member: Member, report: Report) -> str | None:
    ours = (report.failed_slot, report.failed_attempt) == (member.manifest[:ID_LENGTH], member.attempt)
    return report.failed_cause if ours else None


def _followed(member: Member, report: Report, plan: Plan, now: int) -> Member:
    if member.state is State.COMMITTED:
        cause = _fell(member, report)
        return member if cause is None else _ended(member, Word(State.REVERTED, cause), plan, now)
    word = told(member, report)
    if word is not None and word.state is State.COMMITTED:
        proven_bad = member.state is State.REVERTED and member.evidence
        return member if proven_bad else _committed(member)
    if member.state is State.REVERTED:
        return member
    if member.state is State.FAILED:
        return _healed(member, word, report, plan, now)
    if word is None:
        return member
    if word.state in (State.REVERTED, State.FAILED):
        return _ended(member, word, plan, now)
    if member.state in IN_FLIGHT:
        return _in_flight(member, word, member.deadline)
    return _in_flight(member, word, now + plan.deadline) if word.state in SWAPPED else member


def _in_flight(member: Member, word: Word, deadline: int | None) -> Member:
    return replace(member, state=word.state, reason=word.reason, detail=word.detail, deadline=deadline, evidence=False)


def _committed(member: Member) -> Member:
    if member.step:
        return replace(
            member, state=State.PENDING, reason=STEP, detail="", offered=False, tries=0, next_try=0, deadline=None,
            evidence=False,
        )  # fmt: skip
    reason = "" if member.offered else ALREADY
    return replace(member, state=State.COMMITTED, reason=reason, detail="", deadline=None, evidence=False)


def _fell(member: Member, report: Report) -> str | None:
    """Why the committed release did not stay: its device runs another one as a fallback."""
    if not member.offered or report.phase != FALLBACK or report.manifest == member.manifest:
        return None
    return _launchers_word(member, report)


def _ended(member: Member, word: Word, plan: Plan, now: int) -> Member:
    evidence = is_evidence(word.state, word.reason)
    after = replace(member, reason=word.reason, detail=word.detail, deadline=None, evidence=evidence)
    if evidence or member.tries >= plan.retries:
        return replace(after, state=word.state)
    return replace(
        after,
        state=State.PENDING,
        attempt=member.attempt + 1,
        tries=member.tries + 1,
        next_try=now + plan.back_off(member.tries),
    )


def _healed(member: Member, word: Word | None, report: Report, plan: Plan, now: int) -> Member:
    if member.reason != DEADLINE or member.detail not in IN_FLIGHT:
        return member
    if word is not None and word.state in (State.REVERTED, State.FAILED):
        return _ended(member, word, plan, now)
    if word is not None and word.state in SWAPPED:
        further = IN_FLIGHT.index(word.state) > IN_FLIGHT.index(State(member.detail))
        return _in_flight(member, word, now + plan.deadline) if further else member
    if member.lost and report.seen > member.updated and member.tries < plan.retries:
        tries = member.tries + 1
        return replace(member, state=State.PENDING, reason=RETURNED, detail="", phase=None, tries=tries, next_try=0)
    return member


def _late(member: Member) -> Member:
    answered = member.state is not State.OFFERED
    return replace(
        member, state=State.FAILED, reason=DEADLINE, detail=str(member.state), deadline=None, evidence=answered
    )
