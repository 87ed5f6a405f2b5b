"""Owns what health reports make of a batch's rows: sections are merged and judged by `checks`, numbers go into the
history.

A report that waited on the device for a session (`late_s`) tells of the past: it goes into the history, and changes
nothing else. The rows of a batch are read once and written once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from beamfleet_server.checks.report import LARGEST, read
from beamfleet_server.checks.thresholds import Thresholds
from beamfleet_server.checks.verdict import judge
from beamfleet_server.store.database import upsert
from beamfleet_server.store.health_tables import health

SECTIONS = ("beam", "applications", "probes", "host")
MERGED = ("beam", "probes", "host")
FALLS_S = 3600
"""For how long an end of the release that nobody asked for counts, by the device's clock."""
AHEAD_S = 60
"""So much later than the sample an end may be: it happened while that was taken."""
MOST_FALLS = 16
UNASKED = frozenset({"crash", "hang", "oom", "power", "exit", "killed", "probe"})
"""Causes of restarts that nobody asked for."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """The headline numbers of one report, by the names of their columns, and when they were true (Unix seconds, our
    clock)."""

    device: str
    app: str
    time: int
    numbers: Mapping[str, int | None]


class Telemetry:
    """The health rows of a batch: `load`, then `take` each report, then `save`."""

    def __init__(self, connection: Connection, thresholds: Thresholds, now: int) -> None:
        self._connection = connection
        self._thresholds = thresholds
        self._now = now
        self._rows: dict[tuple[int, str], Row] = {}
        self._changed: set[tuple[int, str]] = set()
        self.samples: list[Sample] = []
        """What belongs into the history."""

    def load(self, device_ids: Collection[int]) -> None:
        """Read what is known of these devices."""
        query = select(health).where(health.c.device_id.in_(list(device_ids)))
        for row in self._connection.execute(query).mappings():
            self._rows[row["device_id"], row["app"]] = dict(row)

    def take(self, device: str, key: tuple[int, str], message: Mapping[str, Any], falls: Sequence[int]) -> None:
        """A report of a device's application; `falls`: when that ended unasked."""
        late = min(message.get("late_s", 0), self._now)
        if late:
            sections = {name: message[name] for name in SECTIONS if name in message}
            self.samples.append(Sample(device, key[1], self._now - late, read(sections).headlines()))
            self._drop(key, message)
            return
        before = self._rows.get(key)
        sections = merged(before["sections"] if before else {}, message)
        offset = message["time"] - self._now
        report = read(
            sections,
            verdict=message["verdict"],
            detail=message.get("detail", ""),
            clock_offset_s=offset,
            falls=sum(-AHEAD_S <= message["time"] - fell < FALLS_S for fell in falls),
            restarts_per_min=_rate(before, message["starts"], sections, self._now),
        )
        verdict, findings = judge(report, self._thresholds)
        numbers, queue = report.headlines(), report.longest_queue
        self._rows[key] = {
            "device_id": key[0],
            "app": key[1],
            "time": message["time"],
            "received": self._now,
            "verdict": verdict,
            "reasons": [list(found) for found in findings],
            "starts": message["starts"],
            "sections": sections,
            **numbers,
            "queue_name": queue[0] if queue else "",
            "uptime_ms": report.uptime_ms,
            "clock_offset_s": offset,
            "dropped": before["dropped"] if before else 0,
        }
        self._changed.add(key)
        self._drop(key, message)
        self.samples.append(Sample(device, key[1], self._now, numbers))

    def save(self) -> None:
        """Write what has changed, in the order of the keys."""
        rows = [self._rows[key] for key in sorted(self._changed)]
        if rows:
            upsert(self._connection, health, rows)

    def _drop(self, key: tuple[int, str], message: Mapping[str, Any]) -> None:
        """Count what the device could not keep."""
        row, dropped = self._rows.get(key), message.get("dropped", 0)
        if row is not None and dropped:
            row["dropped"] = min(row["dropped"] + dropped, LARGEST)
            self._changed.add(key)


def merged(before: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """The sections after a report: what it does not say is as before, unless it is a full one."""
    sections = {} if message.get("full") else dict(before)
    for name in SECTIONS:
        if name not in message:
            continue
        old, new = sections.get(name), message[name]
        sections[name] = {**old, **new} if name in MERGED and old is not None and new is not None else new
    return sections


def fallen(falls: Sequence[int], time: int) -> list[int]:
    """The ends that nobody asked for (Unix seconds, the device's clock), with a further one."""
    return [*falls, time][-MOST_FALLS:]


def _rate(before: Row | None, starts: int, sections: Mapping[str, Any], now: int) -> int | None:
    """Supervised children started again in a minute, since the report before of the same VM."""
    if before is None or before["starts"] != starts:
        return None
    count: int | None = (sections.get("beam") or {}).get("restarts")
    known: int | None = (before["sections"].get("beam") or {}).get("restarts")
    if count is None or known is None or count < known:
        return None
    return (count - known) * 60 // max(60, now - int(before["received"]))
