"""Owns saying what a plan would come to before it begins: who gets what, who is excluded, and why. Reading only."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, case, func, select

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import State
from beamfleet_server.fleet.window import is_open, next_change
from beamfleet_server.store import bundles
from beamfleet_server.store.aiming import aim
from beamfleet_server.store.database import pieces
from beamfleet_server.store.joining import UNDERWAY, candidates, owned
from beamfleet_server.store.selecting import population, reasons, zone
from beamfleet_server.store.tables import IN_SERVICE, devices, rollout_devices, rollouts

CHUNK = 2000
NAMED = 5
"""How many devices an error or a reason names."""
OWNED = "owned"
"""Why a device is excluded that a rollout of a higher rank owns."""


@dataclass(frozen=True, slots=True)
class PhaseSize:
    """A phase and how many devices it reaches, with those of the phases before."""

    name: str
    size: int
    soak: int
    gate: bool


@dataclass(frozen=True, slots=True)
class Share:
    """A bundle and how many devices get it; `pack_size` in bytes. Empty strings for devices that nobody knows yet."""

    target: str
    version: str
    manifest: str
    devices: int
    pack_size: int


@dataclass(frozen=True, slots=True)
class Excluded:
    """Devices that are left out for the same reason: how many, and some of their names."""

    reason: str
    devices: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Zone:
    """Devices in one time zone; `next`: when their window opens or closes (Unix seconds)."""

    zone: str
    devices: int
    open: bool
    next: int | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a plan would come to. `already`: devices that run it; `bytes`: of all packs, at most."""

    devices: int
    already: int
    bytes: int
    phases: tuple[PhaseSize, ...]
    bundles: tuple[Share, ...]
    excluded: tuple[Excluded, ...]
    zones: tuple[Zone, ...]
    superseded: tuple[int, ...]


def preview(connection: Connection, plan: Plan, now: int) -> Preview:
    """What the plan would come to. Errors `rollout.no_devices`, `rollout.no_target`."""
    found = candidates(connection, None, plan, aim(connection, plan), now).subquery("found")
    grouped = (
        select(found.c.state, found.c.reason, found.c.bundle_id, func.count(), func.min(found.c.name))
        .group_by(found.c.state, found.c.reason, found.c.bundle_id)
        .order_by(func.count().desc(), found.c.reason)
    )
    groups = connection.execute(grouped).all()
    if not groups:
        raise no_devices(connection, plan, now)
    going = [row for row in groups if row.state != State.SKIPPED]
    if not going:
        raise _no_target(connection, plan, [row[4] for row in groups])
    known = {bundle.id: bundle for bundle in bundles.by_id(connection, {row[2] for row in going if row[2] is not None})}
    shares = [
        Share(known[row[2]].target, known[row[2]].version, known[row[2]].manifest, row[3], known[row[2]].pack_size)
        if row[2] is not None
        else Share("", "", "", row[3], 0)
        for row in going
        if row.state == State.PENDING
    ]
    number = sum(row[3] for row in going)
    names = {row.reason: row[3] for row in groups if row.state == State.SKIPPED}
    left_out = [
        Excluded(why, amount, _named(connection, found.c.name, found.c.reason == why)) for why, amount in names.items()
    ]
    return Preview(
        devices=number,
        already=sum(row[3] for row in going if row.state == State.COMMITTED),
        bytes=sum(share.devices * share.pack_size for share in shares),
        phases=tuple(PhaseSize(phase.name, phase.devices.up(number), phase.soak, phase.gate) for phase in plan.phases),
        bundles=tuple(shares),
        excluded=(*left_out, *_unmeant(connection, plan, now)),
        zones=_zones(connection, plan, now),
        superseded=_superseded(connection, found.c.device_id),
    )


def no_devices(connection: Connection, plan: Plan, now: int) -> ServerError:
    """The error for a plan that means nobody."""
    if not (connection.scalar(select(func.count()).select_from(devices).where(IN_SERVICE)) or 0):
        hint = "make one: beamfleet flash --root DIR --id ID, then DIR/run"
        return ServerError("rollout.no_devices", "the fleet has no device yet", hint)
    if any(each.reason == OWNED for each in _unmeant(connection, plan, now)):
        what = "every device that matches is in a rollout of a higher priority"
        return ServerError("rollout.no_devices", what, "see: beamfleet rollout history")
    hint = "see: beamfleet device list; labels are changed with: beamfleet device label"
    if strange := _unknown(connection, plan.devices.ids):
        named = ", ".join(strange[:NAMED]) + (" and more" if len(strange) > NAMED else "")
        return ServerError("rollout.no_devices", f"no device matches; there is no {named}", hint)
    return ServerError("rollout.no_devices", f"no device matches {plan.devices}", hint)


def _unknown(connection: Connection, names: Sequence[str]) -> list[str]:
    """Those of the names that no device in service has."""
    known: set[str] = set()
    for some in pieces(sorted(names), CHUNK):
        known.update(connection.scalars(select(devices.c.name).where(IN_SERVICE, devices.c.name.in_(some))))
    return [name for name in names if name not in known]


def no_target(connection: Connection, rollout_id: int, plan: Plan) -> ServerError:
    """The error for a rollout whose members all get nothing."""
    members = rollout_devices.c
    query = select(devices.c.name).join_from(rollout_devices, devices).where(members.rollout_id == rollout_id)
    return _no_target(connection, plan, connection.scalars(query.order_by(devices.c.name).limit(NAMED + 1)).all())


def _no_target(connection: Connection, plan: Plan, without: Sequence[str]) -> ServerError:
    named = ", ".join(without[:NAMED]) + (" and more" if len(without) > NAMED else "")
    targets = sorted(bundle.target for bundle in bundles.of_release(connection, plan.product, plan.version))
    return ServerError(
        "rollout.no_target",
        f"{plan.product} {plan.version} has no bundle for {named}, or they are pinned",
        f"it is published for {', '.join(targets)}; build and publish one for the devices' targets",
    )


def _unmeant(connection: Connection, plan: Plan, now: int) -> list[Excluded]:
    """Devices that do not match, by the first reason; and those that another rollout owns."""
    asked = reasons(connection, plan)
    whens: list[tuple[ColumnElement[bool], str]] = [(~condition, word) for word, condition in asked]
    whens += [(taken, OWNED) for taken in owned(connection, None, plan.priority, now)]
    if not whens:
        return []
    why = case(*whens, else_="").label("why")
    inner = select(devices.c.name, why).select_from(population()).subquery("inner_")
    query = select(inner.c.why, func.count()).where(inner.c.why != "").group_by(inner.c.why).order_by(inner.c.why)
    return [
        Excluded(word, number, _named(connection, inner.c.name, inner.c.why == word))
        for word, number in connection.execute(query).all()
    ]


def _named(connection: Connection, name: ColumnElement[str], condition: ColumnElement[bool]) -> tuple[str, ...]:
    return tuple(connection.scalars(select(name).where(condition).order_by(name).limit(NAMED)))


def _zones(connection: Connection, plan: Plan, now: int) -> tuple[Zone, ...]:
    if not plan.window:
        return ()
    where = zone().label("zone")
    meant = [condition for _, condition in reasons(connection, plan)]
    inner = select(where).select_from(population()).where(*meant).subquery("inner_")
    query = select(inner.c.zone, func.count()).group_by(inner.c.zone).order_by(func.count().desc(), inner.c.zone)
    return tuple(
        Zone(name, number, is_open(plan.window, name, now), next_change(plan.window, name, now))
        for name, number in connection.execute(query)
    )


def _superseded(connection: Connection, device: ColumnElement[int]) -> tuple[int, ...]:
    members = rollout_devices.c
    query = (
        select(members.rollout_id)
        .join_from(rollout_devices, rollouts)
        .where(members.state.in_(UNDERWAY), members.device_id.in_(select(device)))
        .distinct()
    )
    return tuple(sorted(connection.scalars(query)))
