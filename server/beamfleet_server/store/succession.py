"""Owns what a device gets of the one that it replaces: labels, pin, and the place in the rollout that told that one.

Every function works inside a change. Retiring the older one is `retirement`'s; `enrolment` asks here when a device is
new that somebody waits for."""

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from beamfleet_server.fleet.decision import may_join, owns, rank
from beamfleet_server.fleet.states import FINAL, NOT_SWAPPED, OWNING, Progress, State
from beamfleet_server.store.database import Database
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import devices, labels, rollout_devices, rollouts

MEMBERS = rollout_devices.c
UNHEARD = (State.SKIPPED, State.SUPERSEDED)
GOING = tuple(state for state in State if state not in FINAL)
SUCCEEDED = "succeeded"
"""The kind of the event that says whose place a device has."""


def awaited(connection: Connection, name: str) -> int | None:
    """The device (by id) whose place `name` is to have as soon as it is there."""
    waits = (devices.c.replaced_by == name, devices.c.replaced_by != "", devices.c.handed_over.is_(None))
    return connection.scalar(select(devices.c.id).where(*waits).limit(1))


def hand_over(database: Database, connection: Connection, old_id: int, new_id: int, now: int) -> bool:
    """Give the device `new_id` what `old_id` had; whether a pin is among it. Where both have a label, it is that of the
    older one; what only the newer one has, it keeps."""
    old = connection.execute(select(devices).where(devices.c.id == old_id)).one()
    ours = connection.execute(select(labels.c.key, labels.c.value).where(labels.c.device_id == old_id)).all()
    for key, value in ours:
        connection.execute(delete(labels).where(labels.c.device_id == new_id, labels.c.key == key))
        connection.execute(insert(labels).values(device_id=new_id, key=key, value=value))
    if old.pinned:
        pin = {"pinned": old.pinned, "pinned_by": old.pinned_by}
        connection.execute(update(devices).where(devices.c.id == new_id).values(pin))
    else:
        _take_place(connection, old_id, new_id, now)
    connection.execute(update(devices).where(devices.c.id == old_id).values(handed_over=now))
    event = NewEvent(now, SUCCEEDED, "replaced", f"it has the place of {old.name}", new_id)
    append(database, connection, [event])
    return bool(old.pinned)


def _take_place(connection: Connection, old_id: int, new_id: int, now: int) -> None:
    """The newer device is a member where the older one was told, in its phase and with its draw, and pending: what ran
    on the other board proves nothing for this one."""
    open_ = (rollouts.c.kind == "update", rollouts.c.state.in_(OWNING), rollouts.c.expires > now)
    told = select(MEMBERS.rollout_id, MEMBERS.phase, MEMBERS.draw, rollouts.c.priority)
    told = told.join_from(rollout_devices, rollouts, rollouts.c.id == MEMBERS.rollout_id)
    place = connection.execute(told.where(MEMBERS.device_id == old_id, MEMBERS.heard, *open_).limit(1)).first()
    if place is None:
        return
    held = _memberships(connection, new_id)
    this = (MEMBERS.device_id == new_id, MEMBERS.rollout_id == place.rollout_id)
    if any(row.rollout_id == place.rollout_id for row in held):
        loose = (MEMBERS.state == State.PENDING, MEMBERS.phase.is_(None))
        taken = {"phase": place.phase, "draw": place.draw, "updated": now}
        connection.execute(update(rollout_devices).where(*this, *loose).values(taken))
    elif _may_join(place, held, now):
        _supersede(connection, new_id, place.rollout_id, now)
        row = {
            "rollout_id": place.rollout_id,
            "device_id": new_id,
            "attempt": 1,
            "phase": place.phase,
            "draw": place.draw,
            "state": State.PENDING,
            "reason": "",
            "updated": now,
        }
        connection.execute(insert(rollout_devices).values(row))
    else:
        return
    connection.execute(
        update(rollout_devices)
        .where(MEMBERS.device_id == old_id, MEMBERS.rollout_id == place.rollout_id)
        .values(heard=False)
    )


def _memberships(connection: Connection, device_id: int) -> list[Row[Any]]:
    query = select(
        MEMBERS.rollout_id,
        MEMBERS.state,
        MEMBERS.phase,
        MEMBERS.offered_at,
        rollouts.c.priority,
        rollouts.c.expires,
        rollouts.c.state.label("progress"),
    ).join_from(rollout_devices, rollouts, rollouts.c.id == MEMBERS.rollout_id)
    return list(connection.execute(query.where(MEMBERS.device_id == device_id)))


def _may_join(place: Any, held: list[Row[Any]], now: int) -> bool:
    owners = [
        rank(row.priority, row.rollout_id)
        for row in held
        if row.state not in UNHEARD and owns(Progress(row.progress), row.expires, now)
    ]
    offered = [row.rollout_id for row in held if row.offered_at is not None or row.phase is not None]
    return may_join(rank(place.priority, place.rollout_id), max(owners, default=None), offered)


def _supersede(connection: Connection, device_id: int, rollout_id: int, now: int) -> None:
    """What the device was in before is over for it."""
    ours = (MEMBERS.device_id == device_id, MEMBERS.rollout_id != rollout_id)
    over = {
        "state": State.SUPERSEDED,
        "reason": f"rollout {rollout_id}",
        "withdrawal": MEMBERS.state.in_(NOT_SWAPPED),
        "deadline": None,
        "updated": now,
    }
    connection.execute(update(rollout_devices).where(*ours, MEMBERS.state.in_(GOING)).values(over))
    connection.execute(update(rollout_devices).where(*ours, MEMBERS.heard).values(heard=False))
