"""Owns what a rollout does next: (rollout, counts of its members, clock) -> orders. Pure: no member is ever seen.

    not running   what has not swapped is put on hold; an aborted or expired one drops what is pending
    expired       it ends
    halted        more of a phase's places are bad than it tolerates
    hold          what may not go on now: its window closed, its class of network is not allowed
    retry, offer  members that have a place and are due, then new ones, within `max_parallel` and the phase's places
    prove         enough of the places are committed, for `soak`; then the gate; then the next phase
    finish        nobody is pending, in flight or waiting for a retry

A place is taken by what is in flight, committed, bad or to be tried again; what is lost, skipped or superseded frees
it. Nothing but a member that committed in its place proves a phase: not one that ran the release already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import ENDED, OWNING, Progress

BATCH = 500
"""Most offers, and most holds, that one call orders: it bounds the time for which a halt has to wait."""

Gate = Literal["", "waiting", "approved"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as its row has it. `phase` is an index into the plan's; `proved_since` and `expires` are Unix seconds;
    `forgiven`: bad members that a person has seen and let it go on nevertheless, counted from the first phase on."""

    plan: Plan
    expires: int
    progress: Progress = Progress.RUNNING
    phase: int = 0
    proved_since: int | None = None
    gate: Gate = ""
    forgiven: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Members with a place in one phase. `not_swapped` are among `in_flight`; `bad` ended with evidence, `lost`
    without; `retrying` are pending and keep their place."""

    in_flight: int = 0
    not_swapped: int = 0
    committed: int = 0
    bad: int = 0
    lost: int = 0
    retrying: int = 0

    @property
    def started(self) -> int:
        """Places that are taken."""
        return self.in_flight + self.committed + self.bad + self.retrying

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.in_flight + other.in_flight,
            self.not_swapped + other.not_swapped,
            self.committed + other.committed,
            self.bad + other.bad,
            self.lost + other.lost,
            self.retrying + other.retrying,
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """The members of a rollout in numbers.

    phases: by index; `loose`: those without a phase. pending: without a place. `*_ready`: of those, the ones that may
    be offered now: they have a bundle that is not quarantined, their window is open, their network allowed, their retry
    due. closed, barred: not swapped, and the window or the network does not allow it now (a member is counted once).
    """

    total: int
    phases: tuple[Tally, ...]
    loose: Tally = Tally()
    pending: int = 0
    pending_ready: int = 0
    retry_ready: int = 0
    skipped: int = 0
    superseded: int = 0
    closed: int = 0
    barred: int = 0

    @property
    def counting(self) -> int:
        """What sizes are shares of."""
        return self.total - self.skipped - self.superseded

    @property
    def all(self) -> Tally:
        """Every member that has been offered something."""
        return sum(self.phases, self.loose)

    def upto(self, phase: int) -> Tally:
        """The phases up to this one; who has no phase is counted here, but proves nothing."""
        return sum(self.phases[: phase + 1], replace(self.loose, committed=0))


@dataclass(frozen=True, slots=True)
class Retry:
    """Offer at most `limit` members that have a place, are pending and ready what they shall run."""

    limit: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Give at most `limit` pending members that are ready a place in `phase`, and offer them what they shall run: those
    that are online first, so that nobody's turn is spent on who is away; then the draw decides, then the device's name.
    """

    limit: int
    phase: int


@dataclass(frozen=True, slots=True)
class Hold:
    """At most `limit` members that have not swapped are pending again, each with its place, and get an assignment with
    no target. why: `window` and `network` mean only those whom that concerns; else the progress that it has."""

    limit: int
    why: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Every pending member is skipped."""

    why: str


@dataclass(frozen=True, slots=True)
class Prove:
    """The phase is proven from now on: `proved_since`."""


@dataclass(frozen=True, slots=True)
class Unprove:
    """It is not any more."""


@dataclass(frozen=True, slots=True)
class AskGate:
    """A person has to approve the next phase: `gate` is `waiting`."""


@dataclass(frozen=True, slots=True)
class Enter:
    """Go on to this phase, with `proved_since` None and `gate` empty."""

    phase: int


@dataclass(frozen=True, slots=True)
class Halt:
    """The rollout is halted, and what it brings is quarantined for the fleet."""

    reason: str
    phase: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """A completed rollout runs again: somebody joined or returned."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The rollout ends."""

    progress: Progress
    reason: str = ""


Order = Retry | Offer | Hold | Drop | Prove | Unprove | AskGate | Enter | Halt | Reopen | Finish


def decide(rollout: Rollout, counts: Counts, now: int) -> list[Order]:
    """What has to happen now, in this order. Calling it again after that gives nothing but further batches."""
    everyone = counts.all
    expired = now >= rollout.expires
    if rollout.progress in (Progress.RUNNING, Progress.PAUSED) and expired:
        ended = _withdraw(Progress.EXPIRED, counts)
        return [Finish(Progress.EXPIRED, f"{everyone.committed} of {counts.counting} committed"), *ended]
    if rollout.progress is Progress.COMPLETED:
        waiting = counts.pending or everyone.retrying or everyone.in_flight
        if expired:
            return _withdraw(Progress.EXPIRED, counts)
        if not waiting and too_many(rollout, counts) is None:
            return []
        return [Reopen(), *_Course(replace(rollout, progress=Progress.RUNNING), counts, now).orders()]
    if rollout.progress is not Progress.RUNNING:
        return _withdraw(rollout.progress, counts, ended=expired)
    return _Course(rollout, counts, now).orders()


def too_many(rollout: Rollout, counts: Counts) -> tuple[int, str] | None:
    """(phase, reason) of the first phase with more bad members than it tolerates, or None."""
    forgiven = rollout.forgiven
    for index in range(rollout.phase + 1):
        bad = counts.phases[index].bad + (counts.loose.bad if index == rollout.phase else 0)
        excused = min(bad, forgiven)
        forgiven -= excused
        phase = rollout.plan.phases[index]
        before = rollout.plan.phases[index - 1].devices.up(counts.counting) if index else 0
        places = max(0, phase.devices.up(counts.counting) - before)
        tolerated = phase.failures.down(places)
        if bad - excused > tolerated:
            told = f"{bad - excused} of {places} failed in phase {phase.name}"
            return index, f"{told}, {tolerated or 'none'} {'are' if tolerated > 1 else 'is'} tolerated"
    return None


def _withdraw(progress: Progress, counts: Counts, *, ended: bool = False) -> list[Order]:
    """What has not swapped is held; at the end, or when its time is over, nobody stays pending."""
    orders: list[Order] = []
    everyone = counts.all
    if everyone.not_swapped:
        orders.append(Hold(min(BATCH, everyone.not_swapped), str(progress)))
    if (ended or progress in ENDED) and (counts.pending or everyone.retrying or everyone.not_swapped):
        orders.append(Drop(str(Progress.EXPIRED if progress not in ENDED else progress)))
    return orders


@dataclass
class _Course:
    """The way of a running rollout in one call; `rollout` and `counts` become what they are after the orders so far."""

    rollout: Rollout
    counts: Counts
    now: int
    done: list[Order] = field(default_factory=list)
    offers: int = BATCH

    def orders(self) -> list[Order]:
        halt = too_many(self.rollout, self.counts)
        if halt is not None:
            return self._halt(*halt)
        self._hold()
        while self._on():
            pass
        return self.done

    def _halt(self, phase: int, reason: str) -> list[Order]:
        self.done.append(Halt(reason, phase))
        return self.done + _withdraw(Progress.HALTED, self.counts)

    def _hold(self) -> None:
        for number, why in ((self.counts.closed, "window"), (self.counts.barred, "network")):
            if number:
                self.done.append(Hold(min(BATCH, number), why))
                # They are counted as in flight in this call: nobody takes their turn before the store has held them.

    def _on(self) -> bool:
        """Offer what this phase may be offered; whether it went on to the next one."""
        self._retry()
        self._offer()
        phase = self.rollout.plan.phases[self.rollout.phase]
        last = self.rollout.phase == len(self.rollout.plan.phases) - 1
        reached = self.counts.upto(self.rollout.phase)
        everyone = self.counts.all
        idle = not (self.counts.pending or everyone.in_flight or everyone.retrying)
        if idle and not reached.committed:
            self._end(reached)
            return False
        if not (idle if last else self._proven(reached)):
            if self.rollout.proved_since is not None:
                self.done.append(Unprove())
            if not last and self._stuck(reached):
                self._halt(self.rollout.phase, f"phase {phase.name} cannot be proven: nobody in it committed")
            return False
        since = self.rollout.proved_since
        if since is None:
            since = self.now
            self.done.append(Prove())
        if self.now - since < phase.soak:
            return False
        if last:
            self._end(reached)
            return False
        if phase.gate and self.rollout.gate != "approved":
            if self.rollout.gate == "":
                self.done.append(AskGate())
            return False
        entered = self.rollout.phase + 1
        self.done.append(Enter(entered))
        self.rollout = replace(self.rollout, phase=entered, proved_since=None, gate="")
        return True

    def _retry(self) -> None:
        number = min(self._room(), self.counts.retry_ready)
        if number:
            self.done.append(Retry(number))
            self._take(Tally(in_flight=number, not_swapped=number, retrying=-number))
            self.counts = replace(self.counts, retry_ready=self.counts.retry_ready - number)

    def _offer(self) -> None:
        number = min(self._room(), self._places(), self.counts.pending_ready)
        if number > 0:
            self.done.append(Offer(number, self.rollout.phase))
            self._take(Tally(in_flight=number, not_swapped=number))
            pending, ready = self.counts.pending - number, self.counts.pending_ready - number
            self.counts = replace(self.counts, pending=pending, pending_ready=ready)

    def _take(self, change: Tally) -> None:
        self.offers -= change.in_flight
        phases = list(self.counts.phases)
        phases[self.rollout.phase] += change
        self.counts = replace(self.counts, phases=tuple(phases))

    def _room(self) -> int:
        limit = self.rollout.plan.parallel(self.rollout.phase)
        free = self.offers if limit is None else limit - self.counts.all.in_flight
        return max(0, min(free, self.offers))

    def _size(self) -> int:
        return self.rollout.plan.phases[self.rollout.phase].devices.up(self.counts.counting)

    def _bad(self, reached: Tally) -> int:
        """Those that nobody has forgiven: a forgiven one has given its place to another."""
        return max(0, reached.bad - self.rollout.forgiven)

    def _started(self, reached: Tally) -> int:
        return reached.started - reached.bad + self._bad(reached)

    def _places(self) -> int:
        return self._size() - self._started(self.counts.upto(self.rollout.phase))

    def _proven(self, reached: Tally) -> bool:
        """Enough of the places that can be filled at all are committed, and one at least; tolerated failures are not
        waited for."""
        fillable = min(self._size(), self._started(reached) + self.counts.pending) - self._bad(reached)
        share = self.rollout.plan.phases[self.rollout.phase].successes
        return reached.committed >= max(1, -(-fillable * share // 100))

    def _stuck(self, reached: Tally) -> bool:
        return not (reached.in_flight or reached.retrying) and self._places() <= 0

    def _end(self, reached: Tally) -> None:
        if self.counts.counting == 0 and self.counts.superseded:
            self.done.append(Finish(Progress.ABORTED, "superseded"))
        elif self._bad(reached) and not self.counts.all.committed:
            self._halt(self.rollout.phase, "nobody committed")
        else:
            self.done.append(Finish(Progress.COMPLETED, _balance(self.counts)))


def _balance(counts: Counts) -> str:
    parts = [f"{counts.all.committed} of {counts.counting} committed"]
    parts += [f"{counts.all.bad} failed"] if counts.all.bad else []
    parts += [f"{counts.all.lost} did not answer"] if counts.all.lost else []
    return ", ".join(parts)


def owns(progress: Progress, expires: int, now: int) -> bool:
    """Whether a rollout keeps its members from those of a lower rank."""
    return progress in OWNING and now < expires


def rank(priority: int, rollout_id: int) -> tuple[int, int]:
    """Of two rollouts that want a device, the one with the higher rank has it."""
    return priority, rollout_id


def may_join(ours: tuple[int, int], owner: tuple[int, int] | None, offered: Sequence[int]) -> bool:
    """Whether a device that matches joins the rollout of rank `ours`.

    owner: the highest rank of the rollouts that own it. offered: ids of the rollouts that ever offered it something; a
    device joins none that is older than one of them, so that it does not go to and fro with its labels.
    """
    return (owner is None or owner < ours) and all(other < ours[1] for other in offered)
