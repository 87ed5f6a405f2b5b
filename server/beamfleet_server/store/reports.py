"""Owns what devices report: a batch of messages becomes rows in one transaction.

Reports are idempotent, since a device repeats them until they are acknowledged: of two states the one with the higher
(boot, seq) counts, an event is kept once, `offline` of a session counts only while no newer session is known. The
message of a device that is not in the database changes nothing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select, tuple_, update

from beamfleet_server.store.database import Database
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import applications, devices, events

DEADLINE = "deadline"
"""Why a device is shown offline that only fell silent; the next word from it brings it back."""

Key = tuple[str, str]
"""(device, app) by name."""


@dataclass(frozen=True, slots=True)
class Report:
    """A message of a device, already checked against its schema: `kind` as in the topic, `message` as it came."""

    device: str
    app: str
    kind: str
    message: Mapping[str, Any]


@dataclass(slots=True)
class Outcome:
    """What a batch came to: the newest (boot, seq) that is committed for each sender that waits for it, the ids of
    devices with a new state, and the names that are not in the database."""

    acks: dict[Key, tuple[int, int]] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


class Reports:
    """Takes reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, reports: Sequence[Report], now: int) -> Outcome:
        """Commit the reports, in the order in which they came."""
        return self._database.write(lambda connection: _Batch(self._database, connection, now).apply(reports))

    def expire(self, silent_since: int, now: int) -> int:
        """Show those offline that have not been heard since then (Unix seconds); how many they are."""

        def change(connection: Connection) -> int:
            query = select(devices.c.id).where(devices.c.online, devices.c.last_seen < silent_since)
            silent = list(connection.scalars(query))
            values = {"online": False, "offline_reason": DEADLINE}
            connection.execute(update(devices).where(devices.c.id.in_(silent)).values(values))
            new = [NewEvent(now, "presence", "offline", "not heard from", device_id=device_id) for device_id in silent]
            append(self._database, connection, new)
            return len(silent)

        return self._database.write(change)


class _Batch:
    """One batch inside its transaction: rows are read once, changed in memory, written once."""

    def __init__(self, database: Database, connection: Connection, now: int) -> None:
        self._database = database
        self._connection = connection
        self._now = now
        self._devices: dict[str, dict[str, Any]] = {}
        self._applications: dict[Key, dict[str, Any]] = {}
        self._changes: dict[tuple[str, tuple[Any, ...]], dict[str, Any]] = defaultdict(dict)
        self._events: dict[tuple[int, int, int], NewEvent] = {}
        self._happened: list[NewEvent] = []
        self._outcome = Outcome()

    def apply(self, reports: Sequence[Report]) -> Outcome:
        self._load({report.device for report in reports})
        for report in reports:
            application = self._applications.get((report.device, report.app))
            if application is None:
                self._outcome.unknown.add(report.device)
                continue
            self._take(report, self._devices[report.device], application)
        self._save(devices, "devices", ("id",))
        self._save(applications, "applications", ("device_id", "app"))
        append(self._database, self._connection, self._happened + self._new_events())
        return self._outcome

    def _take(self, report: Report, device: dict[str, Any], application: dict[str, Any]) -> None:
        message = report.message
        if report.kind == "presence":
            self._presence(device, message)
            return
        self._heard(device)
        if report.kind == "state":
            self._state(application, message)
        elif report.kind == "event":
            self._event(device["id"], message)
        else:
            self._set_application(application, **{report.kind: dict(message)})
        if report.kind in ("state", "event"):
            newest = max((application["acked_boot"], application["acked_seq"]), (message["boot"], message["seq"]))
            self._set_application(application, acked_boot=newest[0], acked_seq=newest[1])
            self._outcome.acks[report.device, report.app] = newest

    def _presence(self, device: dict[str, Any], message: Mapping[str, Any]) -> None:
        if message["session"] < device["session"]:
            return
        if message["online"]:
            facts = {"agent": message["agent"], "profile": message["profile"], "last_seen": self._now}
            self._show(device, online=True, reason="", detail="")
            self._set_device(device, session=message["session"], **facts)
        else:
            self._show(device, online=False, reason=message["reason"], detail=message["reason"])
            self._set_device(device, session=message["session"])

    def _heard(self, device: dict[str, Any]) -> None:
        self._set_device(device, last_seen=self._now)
        if not device["online"] and device["offline_reason"] == DEADLINE:
            self._show(device, online=True, reason="", detail="heard again")

    def _show(self, device: dict[str, Any], *, online: bool, reason: str, detail: str) -> None:
        if device["online"] != online:
            cause = "online" if online else "offline"
            self._happened.append(NewEvent(self._now, "presence", cause, detail, device_id=device["id"]))
        self._set_device(device, online=online, offline_reason=reason)

    def _state(self, application: dict[str, Any], message: Mapping[str, Any]) -> None:
        if (message["boot"], message["seq"]) <= (application["state_boot"], application["state_seq"]):
            return
        copied = {key: message[key] for key in ("product", "version", "manifest", "phase", "attempt", "sequence")}
        self._set_application(
            application, state=dict(message), state_boot=message["boot"], state_seq=message["seq"], **copied
        )
        self._outcome.changed.add(application["device_id"])

    def _event(self, device_id: int, message: Mapping[str, Any]) -> None:
        boot, seq = message["boot"], message["seq"]
        data = dict(message["data"]) | {"device_time": message["time"]}
        if message["slot"]:
            data["slot"] = message["slot"]
        words = (message["kind"], message["cause"], message["detail"])
        self._events[device_id, boot, seq] = NewEvent(self._now, *words, device_id, None, data, boot, seq)

    def _new_events(self) -> list[NewEvent]:
        keys = tuple_(events.c.device_id, events.c.boot, events.c.seq)
        known = select(events.c.device_id, events.c.boot, events.c.seq).where(keys.in_(list(self._events)))
        for row in self._connection.execute(known).all() if self._events else ():
            del self._events[row.device_id, row.boot, row.seq]
        return list(self._events.values())

    def _load(self, names: Iterable[str]) -> None:
        query = select(devices).where(devices.c.name.in_(sorted(names)))
        self._devices = {row["name"]: dict(row) for row in self._connection.execute(query).mappings()}
        by_id = {row["id"]: name for name, row in self._devices.items()}
        columns = ("device_id", "app", "state_boot", "state_seq", "acked_boot", "acked_seq")
        of_these = select(*(applications.c[name] for name in columns)).where(applications.c.device_id.in_(list(by_id)))
        for row in self._connection.execute(of_these).mappings():
            self._applications[by_id[row["device_id"]], row["app"]] = dict(row)

    def _set_device(self, row: dict[str, Any], **values: Any) -> None:
        row.update(values)
        self._changes["devices", (row["id"],)].update(values)

    def _set_application(self, row: dict[str, Any], **values: Any) -> None:
        row.update(values)
        self._changes["applications", (row["device_id"], row["app"])].update(values)

    def _save(self, table: Table, name: str, key_names: Sequence[str]) -> None:
        """One statement per set of columns, with the rows in order of their keys."""
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for (of_table, keys), values in self._changes.items():
            if of_table == name:
                named = {f"key_{key_name}": key for key_name, key in zip(key_names, keys, strict=True)}
                groups[tuple(sorted(values))].append(values | named)
        for rows in groups.values():
            statement = update(table)  # the columns to set are those of the rows that are not in its conditions
            for key_name in key_names:
                statement = statement.where(table.c[key_name] == bindparam(f"key_{key_name}"))
            keys_of_rows = [f"key_{key_name}" for key_name in key_names]
            self._connection.execute(statement, sorted(rows, key=lambda row: [row[key] for key in keys_of_rows]))
