"""Owns counting the members of a rollout, in numbers that do not grow with the fleet: what `fleet.decision` decides by.

Every function works inside a change of `advancing`.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select

from beamfleet_server.fleet.decision import BATCH, Counts, Tally
from beamfleet_server.fleet.plan import NETWORKS, Plan
from beamfleet_server.fleet.states import IN_FLIGHT, NOT_SWAPPED, State
from beamfleet_server.fleet.window import is_open
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.selecting import network, zone
from beamfleet_server.store.tables import applications, bundles, devices, quarantine, rollout_devices

MEMBERS = rollout_devices.c


@dataclass(frozen=True, slots=True)
class Gate:
    """What lets a member through right now: zones in which the windows are open, closed ones, and bundles that are in
    quarantine. None of the zones counts without windows."""

    plan: Plan
    open: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    quarantined: tuple[int, ...] = ()

    @property
    def bound(self) -> bool:
        """Whether it takes a look at the devices themselves."""
        return bool(self.plan.window) or self.barring

    @property
    def barring(self) -> bool:
        """Whether some class of network is not allowed."""
        return set(self.plan.network) != set(NETWORKS)

    def ready(self, now: int) -> list[ColumnElement[bool]]:
        """What holds for pending members that may be offered something; on `bounded`."""
        ready = [MEMBERS.bundle_id.is_not(None), or_(MEMBERS.next_try.is_(None), MEMBERS.next_try <= now)]
        pinned = devices.alias("pinned_device")
        ready.append(~exists().where(pinned.c.id == MEMBERS.device_id, pinned.c.pinned != ""))
        if self.quarantined:
            ready.append(MEMBERS.bundle_id.not_in(self.quarantined))
        if self.plan.window:
            ready.append(zone().in_(self.open))
        if self.barring:
            ready.append(network().in_(self.plan.network))
        return ready

    def shut(self) -> ColumnElement[bool]:
        """The window of a device is closed; on `bounded`."""
        return zone().in_(self.closed)

    def barred(self) -> ColumnElement[bool]:
        """Its network is not allowed; on `bounded`."""
        return network().not_in(self.plan.network)


def gate(connection: Connection, rollout_id: int, plan: Plan, now: int) -> Gate:
    """The gate of a rollout at this time."""
    held = select(bundles.c.id).join_from(quarantine, bundles, bundles.c.manifest == quarantine.c.manifest)
    kept = tuple(connection.scalars(held.where(quarantine.c.lifted.is_(None), bundles.c.product == plan.product)))
    if not plan.window:
        return Gate(plan, quarantined=kept)
    zones = zones_of(connection, rollout_id)
    opened = tuple(name for name in zones if is_open(plan.window, name, now))
    return Gate(plan, opened, tuple(name for name in zones if name not in opened), kept)


def zones_of(connection: Connection, rollout_id: int) -> list[str]:
    """The time zones of those members that have still something to do."""
    at_work = (State.PENDING, *IN_FLIGHT)
    name = zone().label("zone")
    query = bounded(select(name)).where(MEMBERS.rollout_id == rollout_id, MEMBERS.state.in_(at_work)).distinct()
    return sorted(connection.scalars(query))


def bounded(query: Select[Any]) -> Select[Any]:
    """The query over members joined with their devices and what those say."""
    return (
        query.select_from(rollout_devices)
        .join(devices, devices.c.id == MEMBERS.device_id)
        .join(applications, and_(applications.c.device_id == MEMBERS.device_id, applications.c.app == MAIN))
    )


def count(connection: Connection, rollout_id: int, plan: Plan, through: Gate, now: int) -> Counts:
    """The rollout's members in numbers. What may be offered or held is counted up to one batch."""
    grouped = (
        select(MEMBERS.phase, MEMBERS.state, func.count())
        .where(MEMBERS.rollout_id == rollout_id)
        .group_by(MEMBERS.phase, MEMBERS.state)
    )
    by: dict[tuple[int | None, str], int] = {(row[0], row[1]): row[2] for row in connection.execute(grouped)}
    ended = (State.REVERTED, State.FAILED)
    evident: dict[int | None, int] = {}
    if any(state in ended for _, state in by):
        proof = (
            select(MEMBERS.phase, func.count())
            .where(MEMBERS.rollout_id == rollout_id, MEMBERS.state.in_(ended), MEMBERS.evidence)
            .group_by(MEMBERS.phase)
        )
        evident = {row[0]: row[1] for row in connection.execute(proof)}

    def number(phase: int | None, *states: State) -> int:
        return sum(by.get((phase, state), 0) for state in states)

    def tally(phase: int | None) -> Tally:
        bad = evident.get(phase, 0)
        return Tally(
            in_flight=number(phase, *IN_FLIGHT),
            not_swapped=number(phase, *NOT_SWAPPED),
            committed=number(phase, State.COMMITTED),
            bad=bad,
            lost=number(phase, *ended) - bad,
            retrying=number(phase, State.PENDING) if phase is not None else 0,
        )

    def all_of(state: State) -> int:
        return sum(amount for (_, its), amount in by.items() if its == state)

    phases = tuple(tally(phase) for phase in range(len(plan.phases)))
    pending = number(None, State.PENDING)
    flying = sum(each.not_swapped for each in phases) + number(None, *NOT_SWAPPED)
    shut = _some(connection, through, _held(rollout_id, through.shut())) if flying and through.closed else 0
    barred = 0
    if flying and through.barring:
        also_open = [~through.shut()] if through.closed else []
        barred = _some(connection, through, [*_held(rollout_id, through.barred()), *also_open])
    return Counts(
        total=sum(by.values()),
        phases=phases,
        loose=tally(None),
        pending=pending,
        pending_ready=_some(connection, through, waiting(rollout_id, through, now, placed=False)) if pending else 0,
        retry_ready=_some(connection, through, waiting(rollout_id, through, now, placed=True))
        if any(each.retrying for each in phases)
        else 0,
        skipped=all_of(State.SKIPPED),
        superseded=all_of(State.SUPERSEDED),
        closed=shut,
        barred=barred,
    )


def waiting(rollout_id: int, through: Gate, now: int, *, placed: bool) -> list[ColumnElement[bool]]:
    """What holds for pending members, with a place or without, that may be offered something."""
    place = MEMBERS.phase.is_not(None) if placed else func.coalesce(MEMBERS.phase, -1) < 0  # by the index of the draw
    return [MEMBERS.rollout_id == rollout_id, MEMBERS.state == State.PENDING, place, *through.ready(now)]


def _held(rollout_id: int, condition: ColumnElement[bool]) -> list[ColumnElement[bool]]:
    return [MEMBERS.rollout_id == rollout_id, MEMBERS.state.in_(NOT_SWAPPED), condition]


def _some(connection: Connection, through: Gate, conditions: list[ColumnElement[bool]]) -> int:
    """How many there are, at most a batch."""
    query = select(MEMBERS.device_id)
    if through.bound:
        query = bounded(query)
    few = query.where(*conditions).limit(BATCH).subquery("few")
    return connection.execute(select(func.count()).select_from(few)).scalar_one()
