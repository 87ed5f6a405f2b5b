"""Owns reading the fleet: devices with what they last said, found by label; and changing their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, exists, func, insert, select

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.rollout import FINAL, Progress
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store.assignments import keep_publication
from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.gate import REVOKED
from beamfleet_server.store.tables import (
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
    """A device and the newest word of its application; `state`, `progress`, `health` are the messages as they came."""

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
    health: Mapping[str, Any] | None
    rollout: int | None
    labels: Mapping[str, str] = field(default_factory=dict)


class Devices:
    """The fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, selector: Selector, after: str, limit: int) -> list[Device]:
        """At most `limit` devices that match, by name, beginning after the name `after`."""
        query = _devices().where(*matching(selector), devices.c.name > after).order_by(devices.c.name).limit(limit)
        return self._database.read(lambda connection: _read(connection, query))

    def find(self, name: str) -> Device:
        """The device of this name; error `device.unknown`."""
        found = self._database.read(lambda connection: _read(connection, _devices().where(devices.c.name == name)))
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
            connection.execute(delete(devices).where(devices.c.id == device_id))  # and, with it, all rows about it

        self._database.write(change)

    def counts(self) -> tuple[int, int]:
        """How many devices there are, and how many are online."""
        query = select(func.count(), func.count().filter(devices.c.online)).select_from(devices)
        total, online = self._database.read(lambda connection: connection.execute(query).one())
        return int(total), int(online)


def unknown(name: str) -> ServerError:
    """The error for a device that is not there."""
    return ServerError("device.unknown", f"there is no device {name[:80]!r}", "see: beamfleet device list")


def matching(selector: Selector) -> Sequence[Any]:
    """Conditions on `devices` that hold for what `selector` means."""
    return [
        exists().where(labels.c.device_id == devices.c.id, labels.c.key == key, labels.c.value == value)
        for key, value in selector.terms
    ]


def _devices() -> Select[Any]:
    underway = (
        select(func.max(rollout_devices.c.rollout_id))
        .join_from(rollout_devices, rollouts)
        .where(
            rollout_devices.c.device_id == devices.c.id,
            rollout_devices.c.state.not_in(sorted(FINAL)),
            rollouts.c.state == Progress.RUNNING,
        )
        .scalar_subquery()
    )
    app = applications.c
    return select(
        devices.c.id,
        devices.c.name,
        devices.c.enrolled,
        devices.c.online,
        devices.c.last_seen,
        devices.c.agent,
        devices.c.profile,
        app.product,
        app.version,
        app.manifest,
        app.phase,
        app.attempt,
        app.state,
        app.progress,
        app.health,
        underway.label("rollout"),
    ).join_from(devices, applications, and_(app.device_id == devices.c.id, app.app == MAIN))


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
    return [Device(labels=given[row.pop("id")], **row) for row in rows]
