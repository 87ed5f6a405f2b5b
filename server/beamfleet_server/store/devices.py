"""Owns reading the fleet: devices with what they last said, found by label; and changing their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
    Text,
    bindparam,
    cast,
    delete,
    exists,
    func,
    insert,
    select,
    type_coerce,
    update,
)

from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.fleet.states import FINAL, NOT_SWAPPED, PINNED, Progress, State
from beamfleet_server.store.assignments import Sign, Task, assign, keep_publication
from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import TOUCHED
from beamfleet_server.store.gate import REVOKED
from beamfleet_server.store.health_tables import health
from beamfleet_server.store.label_text import labels_as_text
from beamfleet_server.store.samples import forget
from beamfleet_server.store.standing import reporting, verdict
from beamfleet_server.store.tables import (
    IN_SERVICE,
    applications,
    certificates,
    devices,
    labels,
    revocations,
    rollout_devices,
    rollouts,
    tokens,
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device and the newest word of its application; `state` and `progress` are the messages as they came, `verdict`
    is that of this moment, `reasons` and `sections` are of its newest health report, which was `received` then.
    `clone`: when one of two machines with its identity came back last. `retired`: since when it is out of service;
    `replaced_by`, `replaces`: which one has its place, and whose place it has."""

    name: str
    enrolled: int | None
    online: bool
    last_seen: int | None
    agent: str
    profile: str
    product: str
    version: str
    manifest: str
    phase: str
    attempt: int
    state: Mapping[str, Any] | None
    progress: Mapping[str, Any] | None
    rollout: int | None
    verdict: Any
    reasons: Sequence[Sequence[str]] | None
    received: int | None
    starts: int | None
    clock_offset_s: int | None
    dropped: int | None
    sections: Mapping[str, Any] | None
    offline_reason: str
    offline_since: int | None
    clone: int | None = None
    pinned: str = ""
    pinned_by: str = ""
    retired: int | None = None
    retired_by: str = ""
    replaced_by: str = ""
    replaces: str = ""
    timezone: str = ""
    network: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Devices:
    """The fleet; `sign` makes the assignment that withdraws what a pinned device was offered, by `clock` it is told
    who has not reported for too long."""

    def __init__(self, database: Database, sign: Sign, clock: Clock) -> None:
        self._database = database
        self._sign = sign
        self._clock = clock
        self._listed = _listed()  # to compose it takes as long as to read fifty devices
        self._serving = self._listed.where(IN_SERVICE)

    def page(self, selector: Selector, after: str, limit: int, *, retired: bool = False) -> Sequence[Any]:
        """At most `limit` devices that match, by name, beginning after the name `after`: rows of `_listed`. retired:
        also those that are out of service."""
        query = self._listed if retired else self._serving
        if selector.terms:
            query = query.where(*matching(selector))
        values = {"now": self._clock(), "after": after, "limit": limit}
        return self._database.read(lambda connection: connection.execute(query, values).all())

    def find(self, name: str) -> Device:
        """The device of this name; error `device.unknown`."""
        query = _devices(self._clock()).where(devices.c.name == name)
        found = self._database.read(lambda connection: _read(connection, query))
        if not found:
            raise unknown(name)
        return found[0]

    def set_labels(self, name: str, changes: Mapping[str, str | None]) -> None:
        """Give a device these labels; a value of None takes one away. Error `device.unknown`."""

        def change(connection: Connection) -> None:
            device_id = connection.scalar(select(devices.c.id).where(devices.c.name == name))
            if device_id is None:
                raise unknown(name)
            for key, value in changes.items():
                connection.execute(delete(labels).where(labels.c.device_id == device_id, labels.c.key == key))
                if value is not None:
                    connection.execute(insert(labels).values(device_id=device_id, key=key, value=value))
            self._database.touch(TOUCHED)

        self._database.write(change)

    def remove(self, name: str, now: int) -> None:
        """Delete a device and everything that is kept of it; what remains is that its certificates, by serial, are
        refused until they expire. Error `device.unknown`."""

        def change(connection: Connection) -> None:
            device_id = connection.scalar(select(devices.c.id).where(devices.c.name == name))
            if device_id is None:
                raise unknown(name)
            held = select(certificates.c.serial, certificates.c.not_after, certificates.c.revoked).where(
                certificates.c.device_id == device_id, certificates.c.not_after > now
            )
            for serial, not_after, revoked in connection.execute(held).all():
                row = {"serial": serial, "not_after": not_after, "revoked": revoked or now}
                connection.execute(insert(revocations).values(row))
            self._database.touch(REVOKED + name)
            keep_publication(connection)
            connection.execute(delete(tokens).where(tokens.c.device == name))
            forget(connection, device_id)
            connection.execute(delete(devices).where(devices.c.id == device_id))  # and, with it, all rows about it

        self._database.write(change)

    def pin(self, name: str, reason: str, by: str, now: int) -> None:
        """Let rollouts leave this device alone, from now on; what it was offered and has not swapped is withdrawn.
        Error `device.unknown`."""

        def change(connection: Connection) -> None:
            device_id = _pin(connection, name, reason or "pinned", by)
            withdraw_offers(self._database, connection, device_id, self._sign, now)

        self._database.write(change)

    def unpin(self, name: str) -> None:
        """Let rollouts have it again: those that begin or that it joins from now on. Error `device.unknown`."""
        self._database.write(lambda connection: _pin(connection, name, "", ""))

    def reachable(self, name: str) -> bool:
        """Whether a device is online and its agent answers to what it is asked now: older ones do not say how often
        they speak. Errors `device.unknown`, `device.offline`."""
        query = select(devices.c.online, devices.c.keepalive_s).where(devices.c.name == name)
        found = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if found is None:
            raise unknown(name)
        if not found.online:
            raise ServerError("device.offline", f"{name} is offline", "ask again when it is back")
        return bool(found.keepalive_s)

    def counts(self) -> tuple[int, int]:
        """How many devices are in service, and how many of them are online."""
        query = select(func.count(), func.count().filter(devices.c.online)).select_from(devices).where(IN_SERVICE)
        total, online = self._database.read(lambda connection: connection.execute(query).one())
        return int(total), int(online)


def withdraw_offers(database: Database, connection: Connection, device_id: int, sign: Sign, now: int) -> None:
    """Inside a change: a device is pinned; what it was offered and has not swapped is withdrawn."""
    member = rollout_devices.c
    ours = (member.device_id == device_id, member.state.in_((State.PENDING, *NOT_SWAPPED)))
    offered = select(member.attempt, member.rollout_id).where(*ours, member.state != State.PENDING)
    tasks = [Task(device_id, None, *row) for row in connection.execute(offered)]
    left = {"state": State.SKIPPED, "reason": PINNED, "detail": "", "next_try": None, "deadline": None}
    connection.execute(update(rollout_devices).where(*ours).values(**left, updated=now))
    assign(database, connection, tasks, sign, now)


def _pin(connection: Connection, name: str, reason: str, by: str) -> int:
    device_id: int | None = connection.scalar(select(devices.c.id).where(devices.c.name == name))
    if device_id is None:
        raise unknown(name)
    connection.execute(update(devices).where(devices.c.id == device_id).values(pinned=reason, pinned_by=by))
    return device_id


def unknown(name: str) -> ServerError:
    """The error for a device that is not there."""
    return ServerError("device.unknown", f"there is no device {name[:80]!r}", "see: beamfleet device list")


def matching(selector: Selector) -> Sequence[Any]:
    """Conditions on `devices` that hold for what `selector` means."""
    return [
        exists().where(labels.c.device_id == devices.c.id, labels.c.key == key, labels.c.value == value)
        for key, value in selector.terms
    ]


def _underway() -> ColumnElement[int]:
    """The running rollout in which a device has not come to its end."""
    return (
        select(func.max(rollout_devices.c.rollout_id))
        .join_from(rollout_devices, rollouts)
        .where(
            rollout_devices.c.device_id == devices.c.id,
            rollout_devices.c.state.not_in(sorted(FINAL)),
            rollouts.c.state == Progress.RUNNING,
        )
        .scalar_subquery()
        .label("rollout")
    )


def _listed() -> Select[Any]:
    """What lists show, with the parameters `now`, `after` and `limit`. Labels, state, progress and returns are texts of
    JSON, of which little is read."""
    app = applications.c
    query = select(
        devices.c.name,
        labels_as_text().label("labels"),
        type_coerce(devices.c.online, Integer).label("online"),
        devices.c.last_seen,
        devices.c.enrolled,
        app.product,
        app.version,
        app.manifest,
        app.phase,
        app.attempt,
        cast(app.state, Text).label("state"),
        cast(app.progress, Text).label("progress"),
        verdict(bindparam("now", type_=BigInteger)).label("verdict"),
        health.c.received,
        _underway(),
        cast(devices.c.returns, Text).label("returns"),
        devices.c.pinned,
        devices.c.retired,
        devices.c.replaced_by,
    )
    after = devices.c.name > bindparam("after", type_=String)
    return query.select_from(reporting()).where(after).order_by(devices.c.name).limit(bindparam("limit", type_=Integer))


def _devices(now: int) -> Select[Any]:
    app = applications.c
    older = devices.alias("older")
    place = (older.c.replaced_by == devices.c.name, older.c.replaced_by != "", older.c.handed_over.is_not(None))
    return select(
        devices.c.id,
        devices.c.name,
        devices.c.enrolled,
        devices.c.online,
        devices.c.last_seen,
        devices.c.agent,
        devices.c.profile,
        devices.c.returns,
        devices.c.pinned,
        devices.c.pinned_by,
        devices.c.retired,
        devices.c.retired_by,
        devices.c.replaced_by,
        func.coalesce(select(func.max(older.c.name)).where(*place).scalar_subquery(), "").label("replaces"),
        devices.c.offline_reason,
        devices.c.offline_since,
        app.timezone,
        app.network,
        app.product,
        app.version,
        app.manifest,
        app.phase,
        app.attempt,
        app.state,
        app.progress,
        verdict(now).label("verdict"),
        *(health.c[name] for name in ("reasons", "received", "starts", "clock_offset_s", "dropped", "sections")),
        _underway(),
    ).select_from(reporting())


def _read(connection: Connection, query: Select[Any]) -> list[Device]:
    rows = [dict(row) for row in connection.execute(query).mappings()]
    given: dict[int, dict[str, str]] = {row["id"]: {} for row in rows}
    if rows:
        for device_id, key, value in connection.execute(
            select(labels.c.device_id, labels.c.key, labels.c.value)
            .where(labels.c.device_id.in_(list(given)))
            .order_by(labels.c.key)
        ):
            given[device_id][key] = value
    return [Device(labels=given[row.pop("id")], clone=max(row.pop("returns"), default=None), **row) for row in rows]
