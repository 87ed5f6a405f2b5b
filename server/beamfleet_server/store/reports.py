"""Owns what devices report: a batch of messages becomes rows in one transaction.

Reports are idempotent, since a device repeats them until they are acknowledged: of two states the one with the higher
(boot, seq) counts, an event is kept once, `offline` of a session counts only while no newer session is known. The
message of a device that is not in the database changes nothing. Health is `telemetry`'s, silence is `silence`'s."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select, tuple_, update

from beamfleet_server.checks.thresholds import DEFAULTS, Thresholds
from beamfleet_server.store.clones import judge
from beamfleet_server.store.database import Database
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.samples import Samples
from beamfleet_server.store.seen import Sighting
from beamfleet_server.store.silence import SILENT
from beamfleet_server.store.tables import applications, devices, events
from beamfleet_server.store.telemetry import UNASKED, Sample, Telemetry, fallen

LONGEST_S = 7 * 86_400
"""What a device may say that it is silent for."""

_COUNT = re.compile("[1-9][0-9]{0,17}")

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
    devices with a new state, the names that are not in the database, those that two machines use at once, and what
    belongs into the history."""

    acks: dict[Key, tuple[int, int]] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    cloned: set[str] = field(default_factory=set)
    samples: list[Sample] = field(default_factory=list)


def _copied(message: Mapping[str, Any]) -> dict[str, Any]:
    """What `applications` has of a state as columns of their own."""
    work: Mapping[str, Any] = message["update"] or {}
    slot, _, rest = message["failed"].partition(":")
    attempt, _, cause = rest.partition(":")
    return {
        **{name: message[name] for name in ("product", "version", "manifest", "phase", "attempt", "sequence")},
        **{name: message["inventory"].get(name) or "" for name in ("arch", "libc", "hardware", "timezone", "network")},
        **{f"update_{name}": work.get(name, "") for name in ("phase", "manifest", "reason", "detail")},
        "update_attempt": work.get("attempt", 0),
        "failed_slot": slot,
        "failed_attempt": int(attempt) if _COUNT.fullmatch(attempt) else 0,
        "failed_cause": cause,
    }


class Reports:
    """Takes reports, judges health by `thresholds`, and hands its numbers to `samples`."""

    def __init__(self, database: Database, samples: Samples) -> None:
        self._database = database
        self._samples = samples
        self.thresholds = DEFAULTS

    def apply(self, reports: Sequence[Report], now: int) -> Outcome:
        """Commit the reports, in the order in which they came."""

        def change(connection: Connection) -> Outcome:
            return _Batch(self._database, connection, self.thresholds, now).apply(reports)

        outcome = self._database.write(change)
        self._samples.take(outcome.samples, now)
        return outcome


class _Batch:
    """One batch inside its transaction: rows are read once, changed in memory, written once."""

    def __init__(self, database: Database, connection: Connection, thresholds: Thresholds, now: int) -> None:
        self._database = database
        self._connection = connection
        self._now = now
        self._telemetry = Telemetry(connection, thresholds, now)
        self._devices: dict[str, dict[str, Any]] = {}
        self._applications: dict[Key, dict[str, Any]] = {}
        self._changes: dict[tuple[str, tuple[Any, ...]], dict[str, Any]] = defaultdict(dict)
        self._events: dict[tuple[int, int, int], NewEvent] = {}
        self._known: set[tuple[int, int, int]] = set()
        self._happened: list[NewEvent] = []
        self._sighting = Sighting(database, connection, now)
        self._outcome = Outcome()

    def apply(self, reports: Sequence[Report]) -> Outcome:
        self._load({report.device for report in reports})
        self._load_events(reports)
        telling = {report.device for report in reports if report.kind == "health"} & self._devices.keys()
        self._telemetry.load([self._devices[name]["id"] for name in telling])
        for report in reports:
            application = self._applications.get((report.device, report.app))
            if application is None:
                self._outcome.unknown.add(report.device)
                continue
            self._take(report, self._devices[report.device], application)
        self._save(devices, "devices", ("id",))
        self._save(applications, "applications", ("device_id", "app"))
        self._telemetry.save()
        append(self._database, self._connection, [*self._happened, *self._events.values()])
        self._sighting.keep()
        self._outcome.samples = self._telemetry.samples
        return self._outcome

    def _take(self, report: Report, device: dict[str, Any], application: dict[str, Any]) -> None:
        message = report.message
        if report.kind == "presence":
            self._presence(device, message)
            return
        self._heard(device)
        if report.kind == "state":
            self._state(application, message)
            self._sighting.look(report.device, message.get("metadata"))
        elif report.kind == "event":
            self._event(application, message)
        elif report.kind == "health":
            self._telemetry.take(report.device, (device["id"], report.app), message, application["falls"])
        elif report.kind == "progress":
            self._set_application(application, progress=dict(message))
        if report.kind in ("state", "event"):
            newest = max((application["acked_boot"], application["acked_seq"]), (message["boot"], message["seq"]))
            self._set_application(application, acked_boot=newest[0], acked_seq=newest[1])
            self._outcome.acks[report.device, report.app] = newest

    def _presence(self, device: dict[str, Any], message: Mapping[str, Any]) -> None:
        if message["online"]:
            self._born(device, message.get("machine") or "", message["session"])
        if message["session"] < device["session"]:
            return
        if message["online"]:
            facts = {"agent": message["agent"], "profile": message["profile"], "last_seen": self._now}
            facts |= {name: min(message.get(name, 0), LONGEST_S) for name in ("keepalive_s", "interval_s")}
            self._show(device, online=True, reason="", detail="")
            self._set_device(device, session=message["session"], **facts)
        else:
            self._show(device, online=False, reason=message["reason"], detail=message["reason"])
            self._set_device(device, session=message["session"])

    def _born(self, device: dict[str, Any], machine: str, session: int) -> None:
        sight = judge(device, machine, session, self._now)
        if sight is None:
            return
        self._set_device(device, machines=sight.machines, returns=sight.returns)
        if sight.told:
            what = f"the boot {machine[:8]} came back after another: two machines use this identity"
            self._happened.append(NewEvent(self._now, "clone", "returned", what, device_id=device["id"]))
        if sight.live:
            self._outcome.cloned.add(device["name"])

    def _heard(self, device: dict[str, Any]) -> None:
        self._set_device(device, last_seen=self._now)
        if not device["online"] and device["offline_reason"] in SILENT:
            self._show(device, online=True, reason="", detail="heard again")

    def _show(self, device: dict[str, Any], *, online: bool, reason: str, detail: str) -> None:
        if device["online"] != online:
            cause = "online" if online else "offline"
            self._happened.append(NewEvent(self._now, "presence", cause, detail, device_id=device["id"]))
            self._set_device(device, offline_since=None if online else self._now)
        self._set_device(device, online=online, offline_reason=reason)

    def _state(self, application: dict[str, Any], message: Mapping[str, Any]) -> None:
        if (message["boot"], message["seq"]) <= (application["state_boot"], application["state_seq"]):
            return
        self._set_application(
            application, state=dict(message), state_boot=message["boot"], state_seq=message["seq"], **_copied(message)
        )
        self._outcome.changed.add(application["device_id"])

    def _event(self, application: dict[str, Any], message: Mapping[str, Any]) -> None:
        key = application["device_id"], message["boot"], message["seq"]
        if key in self._events or key in self._known:
            return
        data = dict(message["data"]) | {"device_time": message["time"]}
        if message["slot"]:
            data["slot"] = message["slot"]
        data.pop("evidence", None)  # a name that is ours: whoever reads it relies on its shape
        if "evidence" in message:
            data["evidence"] = message["evidence"]
        words = (message["kind"], message["cause"], message["detail"])
        self._events[key] = NewEvent(self._now, *words, key[0], None, data, *key[1:])
        if message["kind"] == "restart" and message["cause"] in UNASKED:
            self._set_application(application, falls=fallen(application["falls"], message["time"]))

    def _load_events(self, reports: Iterable[Report]) -> None:
        said = {
            (self._devices[report.device]["id"], report.message["boot"], report.message["seq"])
            for report in reports
            if report.kind == "event" and report.device in self._devices
        }
        key = (events.c.device_id, events.c.boot, events.c.seq)
        known = select(*key).where(tuple_(*key).in_(sorted(said)))
        self._known = {(row[0], row[1], row[2]) for row in self._connection.execute(known)} if said else set()

    def _load(self, names: Iterable[str]) -> None:
        query = select(devices).where(devices.c.name.in_(sorted(names)))
        self._devices = {row["name"]: dict(row) for row in self._connection.execute(query).mappings()}
        by_id = {row["id"]: name for name, row in self._devices.items()}
        columns = ("device_id", "app", "state_boot", "state_seq", "acked_boot", "acked_seq", "falls")
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
