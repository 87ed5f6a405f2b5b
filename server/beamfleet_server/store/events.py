"""Owns the log of what happened in the fleet: appended inside other changes, read by id, never altered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from beamfleet_server.store.acts import ACTING
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import devices, events

TOUCHED = "events"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be kept. `boot` and `seq` are the device's own count for those that it reported."""

    time: int
    kind: str
    cause: str = ""
    detail: str = ""
    device_id: int | None = None
    rollout_id: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    boot: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it was kept; `device` is its name."""

    id: int
    time: int
    device: str | None
    kind: str
    cause: str
    detail: str
    rollout: int | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody asks for; what is empty means all."""

    device: str | None = None
    kinds: frozenset[str] = frozenset()
    causes: frozenset[str] = frozenset()
    rollout: int | None = None

    def takes(self, event: Event) -> bool:
        """True for an event that is asked for."""
        return (
            self.device in (None, event.device)
            and (not self.kinds or event.kind in self.kinds)
            and (not self.causes or event.cause in self.causes)
            and self.rollout in (None, event.rollout)
        )


ALL = Wanted()


def append(database: Database, connection: Connection, new: Sequence[NewEvent]) -> None:
    """Inside a change: keep these events."""
    if new:
        rows = [
            {
                "time": event.time,
                "kind": event.kind,
                "cause": event.cause,
                "detail": event.detail,
                "device_id": event.device_id,
                "rollout_id": event.rollout_id,
                "data": dict(event.data),
                "boot": event.boot,
                "seq": event.seq,
            }
            for event in new
        ]
        connection.execute(insert(events), rows)
        database.touch(TOUCHED)


class Events:
    """The log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, *new: NewEvent) -> None:
        """Keep these events."""
        self._database.write(lambda connection: append(self._database, connection, new))

    def post(self, *new: NewEvent) -> None:
        """Keep these events, without waiting for it; they are no part of what somebody does right now."""
        acting = ACTING.set(None)
        try:
            self._database.submit(lambda connection: append(self._database, connection, new))
        finally:
            ACTING.reset(acting)

    def after(self, last: int, limit: int, wanted: Wanted = ALL) -> list[Event]:
        """At most `limit` events with an id above `last`, oldest first."""
        return self._read(select_events(wanted).where(events.c.id > last).order_by(events.c.id).limit(limit))

    def newest(self, limit: int, wanted: Wanted = ALL) -> list[Event]:
        """The newest events, newest first."""
        return self._read(select_events(wanted).order_by(events.c.id.desc()).limit(limit))

    def last_id(self) -> int:
        """The id of the newest event, 0 without any."""
        return self._database.read(lambda connection: connection.scalar(select(func.max(events.c.id)))) or 0

    def _read(self, query: Select[Any]) -> list[Event]:
        return self._database.read(lambda connection: [Event(*row) for row in connection.execute(query)])


def select_events(wanted: Wanted) -> Select[Any]:
    """The query whose rows are the fields of `Event`."""
    query = select(
        events.c.id,
        events.c.time,
        devices.c.name,
        events.c.kind,
        events.c.cause,
        events.c.detail,
        events.c.rollout_id,
        events.c.data,
    ).join_from(events, devices, isouter=True)
    if wanted.device is not None:
        query = query.where(devices.c.name == wanted.device)
    if wanted.kinds:
        query = query.where(events.c.kind.in_(sorted(wanted.kinds)))
    if wanted.causes:
        query = query.where(events.c.cause.in_(sorted(wanted.causes)))
    if wanted.rollout is not None:
        query = query.where(events.c.rollout_id == wanted.rollout)
    return query
