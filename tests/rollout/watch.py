"""What must hold at every moment of every history, said in other words than the rules are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from beamfleet_bundles.names import Target
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import DEADLINE, FINAL, IN_FLIGHT, Progress, State, is_evidence

from tests.rollout.behaviours import Behaviour, SimDevice
from tests.rollout.memory_rows import Kept, Row
from tests.rollout.memory_world import MemoryWorld
from tests.rollout.world import Act, Look, Op, Reports, Restart, Said

ZONES = {name: ZoneInfo(name) for name in (
    "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia",
)}  # fmt: skip


@dataclass(slots=True)
class Watch:
    """Watches one history."""

    world: MemoryWorld
    devices: Mapping[str, SimDevice]
    bad: frozenset[str]
    covered: set[str] = field(default_factory=set)
    proven_bad: set[tuple[str, str, int]] = field(default_factory=set)
    given: set[tuple[str, str, int]] = field(default_factory=set)
    """(device, manifest, attempt) that came to a bad end, and that were offered."""
    first_places: dict[int, set[str]] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)
    """Rollouts that stopped once; those that an operator had a hand in."""
    phases: dict[int, int] = field(default_factory=dict)
    approved: set[tuple[int, int]] = field(default_factory=set)
    committed: dict[tuple[int, str], int] = field(default_factory=dict)
    gone: set[tuple[int, str]] = field(default_factory=set)
    """Of rollouts: the phase they were last in, (rollout, phase) that were approved; of members: since when they are
    committed, which were superseded."""

    def offered(self, world: MemoryWorld, kept: Kept, row: Row, now: int) -> None:
        """An offer is about to be made."""
        member, device, plan = row.member, world.devices[row.device], kept.plan
        assert kept.facts.progress is Progress.RUNNING, "an offer of a rollout that does not run"
        assert now < kept.facts.expires, "an offer after the end"
        assert not device.pinned, "an offer to a pinned device"
        assert _inside(plan, device.zone, now), "an offer outside the window"
        assert device.network in plan.network, "an offer over a network that is not allowed"
        assert member.manifest not in world.quarantine, "an offer of what is in quarantine"
        pair = (row.device, member.manifest, member.attempt)
        assert pair not in self.proven_bad, "an offer of what came to a bad end on this device"
        self.given.add(pair)
        target = Target.parse(world.bundles[member.manifest].target)
        assert device.said is not None, "an offer to a device that nobody knows"
        machine = device.said.machine
        assert (target.arch, target.libc) == (machine.arch, machine.libc), "an offer that does not fit"
        assert target.hardware in (None, machine.hardware), "an offer for another board"
        flying = sum(other.member.state in IN_FLIGHT for other in kept.rows.values())
        for limit in (plan.max_parallel, plan.phases[kept.facts.phase].max_parallel):
            assert not limit or flying < limit, "more than max_parallel in flight"
        newer = [
            other.id for other in world.rollouts.values() if other.id > kept.id and self._was_offered(other, row.device)
        ]
        assert not newer, "a device goes back to an older rollout"
        heard = [
            other.id for other in world.rollouts.values() if row.device in other.rows and other.rows[row.device].heard
        ]
        assert heard == [kept.id], "an offer to a device that belongs to another rollout"
        if kept.facts.phase == 0:
            self.first_places.setdefault(kept.id, set()).add(row.device)

    @staticmethod
    def _was_offered(kept: Kept, name: str) -> bool:
        return name in kept.rows and kept.rows[name].before != ""

    def delivered(self, name: str, said: Said) -> None:
        """The centre is about to read this."""
        known = self.world.devices[name].said
        if known is not None and (said.boot, said.seq) <= (known.boot, known.seq):
            self.covered.add("out of order")
            return
        if said.update is not None and said.update[0] in ("reverted", "failed"):
            word, manifest, attempt, reason = said.update
            self._ended(name, manifest, attempt, is_evidence(State(word), reason))
        if said.failed is not None:
            self._ended(name, said.failed[0], said.failed[1], is_evidence(State.REVERTED, said.failed[2]))

    def _ended(self, name: str, manifest: str, attempt: int, evidence: bool) -> None:
        if evidence and (name, manifest, attempt) in self.given:
            self.proven_bad.add((name, manifest, attempt))

    def after(self, op: Op) -> None:
        """An op has happened."""
        if isinstance(op.event, Act):
            self.touched.add(op.event.rollout)
            self.covered.add(op.event.word)
        if isinstance(op.event, Restart):
            self.covered.add("restart")
        for kept in self.world.rollouts.values():
            self._members(kept, op)
            self._goes_on(kept, op)
            if kept.facts.progress is not Progress.RUNNING and kept.id not in self.stopped:
                self.stopped.add(kept.id)
                self.covered.add(str(kept.facts.progress))
                self._stopped(kept)

    def _members(self, kept: Kept, op: Op) -> None:
        """What its members are now, and may be."""
        bad: dict[int | None, int] = {}
        for name, row in kept.rows.items():
            member = row.member
            if member.state is State.COMMITTED:
                self.committed.setdefault((kept.id, name), op.now)
            else:
                self.committed.pop((kept.id, name), None)
            if member.state in (State.REVERTED, State.FAILED) and member.evidence:
                bad[member.phase] = bad.get(member.phase, 0) + 1
            if member.state is State.SUPERSEDED and (kept.id, name) not in self.gone:
                self.gone.add((kept.id, name))
                winner = self.world.rollouts[int(member.reason.removeprefix("rollout "))]
                owned = kept.facts.progress not in (Progress.ABORTED, Progress.EXPIRED) and op.now < kept.facts.expires
                assert not owned or winner.rank > kept.rank, "a lower rollout took a device from a higher one"
            waits = isinstance(op.event, Look) and kept.facts.progress is Progress.COMPLETED
            assert not waits or member.state is not State.PENDING, "a completed rollout has somebody waiting"
        advanced = isinstance(op.event, Look | Reports)
        if not advanced or kept.facts.progress is not Progress.RUNNING or kept.id in self.touched:
            return
        counting = sum(row.member.state not in (State.SKIPPED, State.SUPERSEDED) for row in kept.rows.values())
        for index, number in bad.items():
            size = kept.plan.phases[index or 0].devices.up(counting)
            tolerated = kept.plan.phases[index or 0].failures.down(size)
            assert number <= tolerated, f"it runs with {number} bad devices, {tolerated} are tolerated"

    def _goes_on(self, kept: Kept, op: Op) -> None:
        """Whether it may be in the phase that it is in."""
        before = self.phases.get(kept.id, 0)
        self.phases[kept.id] = kept.facts.phase
        if isinstance(op.event, Act) and op.event.word == "approve" and op.event.rollout == kept.id:
            self.approved.add((kept.id, before))
        for index in range(before, kept.facts.phase):
            phase = kept.plan.phases[index]
            assert not phase.gate or (kept.id, index) in self.approved, "nobody approved it"
            proofs = [
                self.committed.get((kept.id, name))
                for name, row in kept.rows.items()
                if row.member.state is State.COMMITTED and row.member.phase is not None and row.member.phase <= index
            ]
            assert any(since is not None and op.now - since >= phase.soak for since in proofs), "nobody proved it"

    def _stopped(self, kept: Kept) -> None:
        """A rollout stopped for the first time."""
        if kept.facts.progress is Progress.HALTED:
            for row in kept.rows.values():
                assert row.member.state not in ("offered", "downloading", "verifying", "staged", "waiting"), "not held"
        if kept.plan.version not in self.bad or kept.kind != "update" or kept.id in self.touched:
            return
        if len(self.world.rollouts) > 1 or not self._honest():
            return
        unlucky = {name: device for name, device in self.devices.items() if device.bad}
        reached = [name for name, device in unlucky.items() if any(each in self.bad for each, _ in device.trials)]
        plan = kept.plan
        if len(unlucky) < len(self.devices):
            places = [phase.devices.up(len(kept.rows)) for phase in plan.phases]
            if not plan.max_parallel or any(phase.failures.down(places[-1]) for phase in plan.phases):
                return
            self.covered.add("bad for some")
        lost = sum(row.member.lost or row.member.tries > 0 for row in kept.rows.values())
        allowed = plan.phases[0].devices.up(len(kept.rows)) + plan.max_parallel + lost
        assert len(reached) <= allowed, f"a bad manifest reached {len(reached)} devices, {allowed} are allowed"
        for name in unlucky:
            ours = kept.rows.get(name)
            good = ours is not None and ours.member.state is State.COMMITTED and ours.member.offered
            assert not good, "a bad manifest was committed"
        self.covered.add("bad release")

    def _honest(self) -> bool:
        odd = (Behaviour.LIAR, Behaviour.CLONED)
        stick = any(
            device.update is not None and device.update[2] == 0 and device.update[1] for device in self.devices.values()
        )
        return not stick and not any(device.behaviour in odd for device in self.devices.values())

    def ended(self, now: int) -> None:
        """Long after everything: all is at its end, and it is the truth."""
        for kept in self.world.rollouts.values():
            assert kept.facts.progress not in (Progress.RUNNING, Progress.PAUSED), f"rollout {kept.id} never ended"
            assert now > kept.facts.expires
            for row in kept.rows.values():
                self.covered.add(f"{row.member.state} {row.member.reason}".strip())
                assert row.member.state in FINAL, f"{row.device} is {row.member.state} for ever in rollout {kept.id}"
                self._true(row)
                self._helped(kept, row)

    def _true(self, row: Row) -> None:
        device, member = self.devices[row.device], row.member
        if device.behaviour in (Behaviour.LIAR, Behaviour.CLONED) or not row.heard or not member.manifest:
            return
        runs = device.phase != "trial" and device.manifest(device.version) == member.manifest
        if member.state is State.COMMITTED:
            assert runs or member.manifest in device.committed, f"{row.device} has never committed it"
        said = self.world.devices[row.device].said
        known = said is not None and said.seq == device.seq
        if runs and known and not (member.state is State.REVERTED and member.evidence):
            withdrawn = member.state is State.SKIPPED and not member.offered
            assert member.state is State.COMMITTED or withdrawn, f"{row.device} runs it and is {member.state}"
        if member.state is State.REVERTED and member.evidence:
            assert any(manifest == member.manifest for manifest, _ in device.spent), f"{row.device} never reverted"
        if member.state is State.REVERTED:
            tried = {(device.manifest(version), attempt) for version, attempt in device.trials}
            assert (member.manifest, member.attempt) in tried, f"{row.device} never tried this attempt"

    def _helped(self, kept: Kept, row: Row) -> None:
        """Who fails at first for no fault of the release gets there in the end."""
        device, member = self.devices[row.device], row.member
        mends = device.behaviour in (Behaviour.GOOD, Behaviour.NETWORK, Behaviour.POWER) and not device.bad
        if not mends or not row.heard or kept.id in self.touched or not kept.plan.retries or not self._honest():
            return
        if kept.facts.progress is Progress.COMPLETED and member.state in (State.REVERTED, State.FAILED):
            assert member.reason == DEADLINE, f"{row.device} was given up too soon: {member.reason}"


def _inside(plan: Plan, zone: str, now: int) -> bool:
    """Whether the wall clock there is in a window, counted from the window's beginning."""
    if not plan.window:
        return True
    wall = datetime.fromtimestamp(now, ZONES.get(zone, UTC)).replace(tzinfo=None)
    midnight = wall.replace(hour=0, minute=0, second=0)
    for window in plan.window:
        length = (window.end - window.start) % 1440 or 1440
        for day in (midnight, midnight - timedelta(days=1)):
            begin = day + timedelta(minutes=window.start)
            if day.weekday() in window.days and begin <= wall < begin + timedelta(minutes=length):
                return True
    return False
