"""The reference: what a store has to do with the rules, one row after the other and nothing clever.

Everything it knows is in `rows`, `rollouts`, `devices` and two sets, which a restart copies; there is no other state.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace

from beamfleet_server.fleet import decision
from beamfleet_server.fleet.decision import Counts, decide, may_join
from beamfleet_server.fleet.draw import draw
from beamfleet_server.fleet.member import Member, observed, withdrawn
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import (
    FINAL,
    HELD,
    JOINABLE,
    NOT_SWAPPED,
    PINNED,
    STEP,
    TARGET,
    VERSION,
    Progress,
    State,
)
from beamfleet_server.fleet.targets import choose
from beamfleet_server.fleet.window import is_open

from tests.rollout.memory_counts import counted
from tests.rollout.memory_operators import act, pin, start
from tests.rollout.memory_rows import Bundle, Device, Kept, Row
from tests.rollout.world import (
    Act,
    Enrol,
    Event,
    Label,
    Lift,
    Look,
    Online,
    Op,
    Outcome,
    Pin,
    Publish,
    Reports,
    Restart,
    Said,
    Start,
    Unpin,
    manifest_of,
)

MOST_ROUNDS = 4
"""Calls of `decide` in one op until it orders nothing: more than one batch never is in these small fleets, but what was
held makes room for others."""


Offered = Callable[["MemoryWorld", Kept, Row, int], None]


class MemoryWorld:
    """A `World`. `offered` is called for each offer, before it is made; `decided` after each round of orders."""

    def __init__(self, offered: Offered | None = None) -> None:
        self.devices: dict[str, Device] = {}
        self.rollouts: dict[int, Kept] = {}
        self.bundles: dict[str, Bundle] = {}
        self.quarantine: set[str] = set()
        self.told: dict[str, list[tuple[str, int]]] = {}
        self.covered: set[str] = set()
        """What has ever happened, in words; not part of its state."""
        self.offered = offered
        self._signed: dict[str, tuple[str, int]] = {}
        self._open: dict[tuple[int, str], bool] = {}

    # --- the face

    def apply(self, op: Op) -> bool:
        accepted = self._happen(op.event, op.now)
        for name, words in self._signed.items():
            line = self.told.setdefault(name, [])
            if words[0] or not line or line[-1] != words:
                line.append(words)
        self._signed.clear()
        return accepted

    def outcome(self) -> Outcome:
        rows = [row for kept in self.rollouts.values() for row in kept.rows.values()]
        return Outcome(
            {
                kept.id: (str(kept.facts.progress), kept.facts.phase, kept.facts.gate)
                for kept in self.rollouts.values()
            },
            {
                (row.rollout, row.device): (
                    str(row.member.state), row.member.reason, row.member.attempt, row.member.phase, row.member.tries
                )
                for row in rows
            },
            {name: tuple(line) for name, line in self.told.items()},
            frozenset(self.quarantine),
        )  # fmt: skip

    def _happen(self, event: Event, now: int) -> bool:
        self._open.clear()
        match event:
            case Reports(said):
                self._reports(said, now)
            case Look():
                self._look(now)
            case Start(plan):
                return start(self, plan, now)
            case Act(word, number):
                return act(self, word, number, now)
            case Lift(version):
                held = {manifest for manifest in self.quarantine if self.bundles[manifest].version == version}
                self.quarantine -= held
                return bool(held)
            case Restart():
                rows = (self.devices, self.rollouts, self.bundles, self.quarantine, self.told)
                self.devices, self.rollouts, self.bundles, self.quarantine, self.told = deepcopy(rows)
            case _:
                self._note(event, now)
        return True

    def _note(self, event: Event, now: int) -> None:
        match event:
            case Publish(version, targets):
                for target in targets:
                    manifest = manifest_of(version, target)
                    self.bundles[manifest] = Bundle(version, target, manifest)
            case Enrol(name, labels):
                self.devices[name] = Device(name, dict(labels))
            case Label(name, changes):
                kept = self.devices[name].labels | dict(changes)
                self.devices[name].labels = {key: value for key, value in kept.items() if value is not None}
            case Pin(name):
                pin(self, self.devices[name], now)
            case Unpin(name):
                self.devices[name].pinned = False
            case Online(name, online, session):
                device = self.devices[name]
                if session >= device.session:
                    device.session, device.online = session, online
                    device.seen = now if online else device.seen

    # --- what devices say, and the clock

    def _reports(self, said: Iterable[tuple[str, Said]], now: int) -> None:
        changed = set()
        for name, state in said:
            device = self.devices[name]
            device.seen = now
            if device.said is None or (state.boot, state.seq) > (device.said.boot, device.said.seq):
                device.said = state
                changed.add(name)
        concerned = {kept.id for kept in self.rollouts.values() if any(name in kept.rows for name in changed)}
        self._advance(concerned, changed, now)

    def _look(self, now: int) -> None:
        everyone = set(self.devices)
        self._observe(everyone, now)
        for kept in sorted(self.rollouts.values(), key=lambda kept: kept.rank, reverse=True):
            if kept.kind == "update" and kept.facts.progress in JOINABLE and now < kept.facts.expires:
                self.join(kept, now)
        self._advance(set(self.rollouts), set(), now)

    def _advance(self, numbers: set[int], names: set[str], now: int) -> None:
        self._observe(names, now)
        for number in sorted(numbers):
            self._resolve(self.rollouts[number], now)
        for number in sorted(numbers):
            self.settle(self.rollouts[number], now)

    def _observe(self, names: set[str], now: int) -> None:
        for kept in self.rollouts.values():
            for name, row in kept.rows.items():
                if row.heard and name in names:
                    self._see(kept, row, now)

    def _see(self, kept: Kept, row: Row, now: int) -> None:
        after = observed(row.member, self.devices[row.device].report, kept.plan, now)
        if after is not row.member:
            self.covered.add(f"{row.member.state} > {after.state}")
        if withdrawn(row.member, after):
            self.sign(row.device, "", 0)
        said = self.devices[row.device].said
        if after.step and after.reason == STEP and said is not None and said.manifest == after.manifest:
            after = replace(after, manifest="", step=False)
        row.member = after

    # --- who is in it, and what it shall run

    def join(self, kept: Kept, now: int) -> int:
        """How many joined and were not skipped at once."""
        joined = 0
        for device in self.devices.values():
            if device.name in kept.rows or not kept.plan.devices.matches(device.candidate, kept.plan.salt):
                continue
            theirs = [other for other in self.rollouts.values() if device.name in other.rows]
            owners = [
                other.rank
                for other in theirs
                if other.owns(now) and other.rows[device.name].member.state not in (State.SUPERSEDED, State.SKIPPED)
            ]
            ever = [other.id for other in theirs if other.rows[device.name].before != ""]
            if may_join(kept.rank, max(owners, default=None), ever):
                joined += self.enter(kept, device, now)
        return joined

    def enter(self, kept: Kept, device: Device, now: int, manifest: str = "") -> bool:
        member = Member(manifest, updated=now)
        if device.pinned:
            member = replace(member, state=State.SKIPPED, reason=PINNED)
        elif manifest:
            member = replace(member, attempt=self._attempt(kept, device, manifest))
        elif device.said is not None:
            member = self._resolved(kept, device, member)
        heard = member.state is State.PENDING
        if heard:
            self._supersede(device, kept.id, now)
        kept.rows[device.name] = row = Row(kept.id, device.name, member, draw(kept.plan.salt, device.name), heard=heard)
        if heard:
            self._see(kept, row, now)
        return heard

    def _supersede(self, device: Device, winner: int, now: int) -> None:
        for other in self.rollouts.values():
            row = other.rows.get(device.name)
            if row is None:
                continue
            row.heard = False
            if row.member.state not in FINAL:
                if row.member.state in NOT_SWAPPED:
                    self.sign(device.name, "", 0)
                row.member = replace(
                    row.member, state=State.SUPERSEDED, reason=f"rollout {winner}", deadline=None, updated=now
                )

    def _resolve(self, kept: Kept, now: int) -> None:
        for row in kept.rows.values():
            device = self.devices[row.device]
            if row.member.state is State.PENDING and not row.member.manifest and device.said is not None:
                row.member = self._resolved(kept, device, row.member)
                if row.member.state is State.PENDING:
                    self._see(kept, row, now)

    def _resolved(self, kept: Kept, device: Device, member: Member) -> Member:
        assert device.said is not None
        version = kept.plan.aim(device.said.product, device.said.version, device.said.phase)
        if version is None:
            return replace(member, state=State.SKIPPED, reason=VERSION)
        machine = device.said.machine
        inventory = {"arch": machine.arch, "libc": machine.libc, "hardware": machine.hardware}
        bundle = choose([bundle for bundle in self.bundles.values() if bundle.version == version], inventory)
        if bundle is None:
            return replace(member, state=State.SKIPPED, reason=TARGET)
        step = version != kept.plan.version
        attempt = self._attempt(kept, device, bundle.manifest)
        return replace(member, manifest=bundle.manifest, attempt=attempt, step=step)

    def _attempt(self, kept: Kept, device: Device, manifest: str) -> int:
        earlier = [
            other.rows[device.name].member
            for other in self.rollouts.values()
            if other.id != kept.id and device.name in other.rows
        ]
        return 1 + max((each.attempt for each in earlier if each.manifest == manifest and each.offered), default=0)

    # --- what the rules order

    def counts(self, kept: Kept, now: int) -> Counts:
        return counted(self, kept, now)

    def ready(self, kept: Kept, row: Row, now: int) -> bool:
        device = self.devices[row.device]
        return (
            bool(row.member.manifest)
            and not device.pinned
            and row.member.manifest not in self.quarantine
            and row.member.next_try <= now
            and device.network in kept.plan.network
            and self.open(kept.plan, device.zone, now)
        )

    def open(self, plan: Plan, zone: str, now: int) -> bool:
        key = (id(plan), zone)
        if key not in self._open:
            self._open[key] = is_open(plan.window, zone, now)
        return self._open[key]

    def settle(self, kept: Kept, now: int) -> None:
        for _ in range(MOST_ROUNDS):
            orders = decide(kept.facts, self.counts(kept, now), now)
            if not orders:
                return
            for order in orders:
                self.covered.add(type(order).__name__ + (f" {order.why}" if isinstance(order, decision.Hold) else ""))
                self._move(kept, order, now)
                self._follow(kept, order, now)
        raise AssertionError(f"rollout {kept.id} is never at rest")

    def _move(self, kept: Kept, order: decision.Order, now: int) -> None:
        match order:
            case decision.Retry(limit):
                waiting = [row for row in self._pending(kept, now) if row.member.phase is not None]
                waiting.sort(key=lambda row: (row.member.phase, row.draw, row.device))
                for row in waiting[:limit]:
                    self._offer(kept, row, row.member.phase, now)
            case decision.Offer(limit, phase):
                waiting = [row for row in self._pending(kept, now) if row.member.phase is None]
                waiting.sort(key=lambda row: (
                    not self.devices[row.device].online, row.draw, row.device
                ))  # fmt: skip
                for row in waiting[:limit]:
                    self._offer(kept, row, phase, now)
            case decision.Hold(limit, why):
                held = [row for row in kept.rows.values() if row.member.state in NOT_SWAPPED]
                if why in ("window", "network"):
                    held = [row for row in held if self._why_not(kept, row, now) == why]
                for row in held[:limit]:
                    row.member = replace(
                        row.member, state=State.PENDING, reason=HELD, detail=why, deadline=None, next_try=0, updated=now
                    )
                    self.sign(row.device, "", 0)
            case decision.Drop(why):
                for row in kept.rows.values():
                    if row.member.state is State.PENDING:
                        row.member = replace(row.member, state=State.SKIPPED, reason=why, updated=now)

    def _follow(self, kept: Kept, order: decision.Order, now: int) -> None:
        facts = kept.facts
        match order:
            case decision.Prove():
                kept.facts = replace(facts, proved_since=now)
            case decision.Unprove():
                kept.facts = replace(facts, proved_since=None)
            case decision.AskGate():
                kept.facts = replace(facts, gate="waiting")
            case decision.Enter(phase):
                kept.facts = replace(facts, phase=phase, proved_since=None, gate="")
            case decision.Halt():
                kept.facts = replace(facts, progress=Progress.HALTED)
                self._quarantine(kept)
            case decision.Reopen():
                kept.facts = replace(facts, progress=Progress.RUNNING)
            case decision.Finish(progress):
                kept.facts = replace(facts, progress=progress)

    def _why_not(self, kept: Kept, row: Row, now: int) -> str:
        device = self.devices[row.device]
        if not self.open(kept.plan, device.zone, now):
            return "window"
        return "" if device.network in kept.plan.network else "network"

    def _pending(self, kept: Kept, now: int) -> list[Row]:
        return [row for row in kept.rows.values() if row.member.state is State.PENDING and self.ready(kept, row, now)]

    def _offer(self, kept: Kept, row: Row, phase: int | None, now: int) -> None:
        if self.offered is not None:
            self.offered(self, kept, row, now)
        said = self.devices[row.device].said
        row.before = row.before or (said.manifest if said else "") or "unknown"
        row.member = replace(
            row.member, state=State.OFFERED, reason="", detail="", offered=True, phase=phase, next_try=0,
            deadline=now + kept.plan.deadline, updated=now,
        )  # fmt: skip
        self.sign(row.device, self.bundles[row.member.manifest].version, row.member.attempt)

    def _quarantine(self, kept: Kept) -> None:
        if kept.kind == "update":
            self.quarantine |= {each.manifest for each in self.bundles.values() if each.version == kept.plan.version}
        bad = [row.member for row in kept.rows.values() if row.member.state in (State.REVERTED, State.FAILED)]
        self.quarantine |= {member.manifest for member in bad if member.evidence}

    def sign(self, name: str, version: str, attempt: int) -> None:
        self._signed[name] = (version, attempt)

    def keep(self, plan: Plan, kind: str, now: int) -> Kept:
        number = len(self.rollouts) + 1
        self.rollouts[number] = kept = Kept(number, plan, kind, decision.Rollout(plan, now + plan.expires))
        return kept
