"""Owns the history of devices' headline numbers: collected in memory by bucket, written when a bucket is over, read for
one device. Bounded: two rings for each application, 5 minutes for two days and an hour for sixty.

    a report -> an open bucket -> (it is over) -> a row of the 5 minutes' ring -> (the hour is over) -> the hour's row,
    which the database makes of its twelve

A row is written once in its time, beside those of all other devices. A start without a stop before it has lost the open
buckets, and nothing else. A sample that comes late is added to its row, and the hour is made anew: those of a minute
together, since each may be of another time, and a device may say that all of them are."""

import threading
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, cast, delete, func, insert, literal, select

from beamfleet_server.checks.report import LARGEST
from beamfleet_server.store.database import Database, pieces, upsert
from beamfleet_server.store.health_tables import HEADLINES, samples
from beamfleet_server.store.tables import devices, facts
from beamfleet_server.store.telemetry import Sample

SHORT_S, LONG_S = 300, 3600
SLOTS: Mapping[int, int] = {SHORT_S: 576, LONG_S: 1440}
"""How many buckets are kept, by resolution in seconds."""
GRACE_S = 15
"""How long after its end a bucket is written: what is under way belongs to it."""
BETWEEN_S = 60
"""From one writing to the next."""
OLDEST_S = SHORT_S * (SLOTS[SHORT_S] - 12)
"""How late a sample may come: the rows of its hour are still there."""
CHUNK = 2000
MOST = 2**62 // LARGEST
"""Samples that a bucket counts: sums stay within 64 bits, also of two buckets."""

Key = tuple[str, str]
ROLLED = "samples.rolled"
"""The fact that says which hour's rows were made last."""


@dataclass(frozen=True, slots=True)
class Point:
    """A bucket of a device: when it began (Unix seconds), how many samples it has, (average, largest) by headline, None
    where there is none."""

    time: int
    n: int
    numbers: Mapping[str, tuple[int, int] | None]


class Bucket:
    """The samples of one application within five minutes: for each headline how many, their sum, the largest."""

    __slots__ = ("_of", "n")

    def __init__(self) -> None:
        self.n = 0
        self._of = array("q", bytes(8 * 3 * len(HEADLINES)))

    def add(self, numbers: Mapping[str, int | None]) -> None:
        """One more sample."""
        if self.n >= MOST:
            return
        self.n += 1
        for place, name in enumerate(HEADLINES):
            value = numbers[name]
            if value is not None:
                self._add(3 * place, 1, value, value)

    def join(self, row: Mapping[str, Any]) -> None:
        """What was written of the same bucket before."""
        weight = max(1, min(int(row["n"]), MOST - self.n))
        self.n += weight
        for place, name in enumerate(HEADLINES):
            average = row[f"{name}_avg"]
            if average is not None:
                self._add(3 * place, weight, average * weight, row[f"{name}_max"])

    def row(self) -> dict[str, int | None]:
        """The columns of it."""
        found: dict[str, int | None] = {"n": self.n}
        for place, name in enumerate(HEADLINES):
            count, total, largest = self._of[3 * place : 3 * place + 3]
            found[f"{name}_avg"] = total // count if count else None
            found[f"{name}_max"] = largest if count else None
        return found

    def _add(self, at: int, count: int, total: int, largest: int) -> None:
        self._of[at + 2] = largest if not self._of[at] else max(largest, self._of[at + 2])
        self._of[at] += count
        self._of[at + 1] += total


class Samples:
    """The rings. `take` and `write` may be called from different threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._open: dict[int, dict[Key, Bucket]] = defaultdict(dict)
        self._cleared: dict[int, int] = {}
        """The bucket, by its start, of which alone there are rows in a slot; known of those that were written."""
        self._wrote = 0

    def take(self, new: Iterable[Sample], now: int) -> None:
        """Put committed samples into their buckets; what is too old for the rings is left out."""
        with self._lock:
            for sample in new:
                if now - OLDEST_S <= sample.time <= now:
                    bucket = self._open[sample.time - sample.time % SHORT_S]
                    bucket.setdefault((sample.device, sample.app), Bucket()).add(sample.numbers)

    def write(self, now: int, *, everything: bool = False) -> int:
        """Write the buckets that are over, or all of them, and the hours that are over; how many buckets these were.
        What cannot be written stays for the next time, and so does what is over within a minute after a writing."""
        if not everything and 0 <= now - self._wrote < BETWEEN_S:
            return 0
        with self._lock:
            for start in [start for start in self._open if start + SHORT_S * SLOTS[SHORT_S] <= now]:
                del self._open[start]
            over = sorted(start for start in self._open if everything or start + SHORT_S + GRACE_S <= now)
            taken = [(start, self._open.pop(start)) for start in over]
        if over:
            self._wrote = now
        number = 0
        try:
            while taken:
                start, buckets = taken[0]
                slot = _slot(SHORT_S, start)
                for some in pieces(sorted(buckets), CHUNK):
                    ours, clear = {key: buckets[key] for key in some}, self._cleared.get(slot) != start
                    self._database.write(partial(_write, start=start, buckets=ours, clear=clear))
                    self._cleared[slot] = start
                    for key in some:
                        del buckets[key]
                    number += len(some)
                del taken[0]
        finally:
            self._keep(taken)
        self._roll_up(now)
        return number

    def find(self, device: str, app: str, resolution: int, since: int, now: int) -> list[Point]:
        """The buckets of a device from `since` on (Unix seconds), oldest first, with those that are open. resolution: a
        key of `SLOTS`."""
        first = max(since - since % resolution, now - now % resolution - (SLOTS[resolution] - 1) * resolution)
        slots = [_slot(resolution, time) for time in range(first, now + 1, resolution)]
        query = (
            select(samples)
            .join(devices, devices.c.id == samples.c.device_id)
            .where(samples.c.resolution == resolution, samples.c.slot.in_(slots), samples.c.app == app)
            .where(devices.c.name == device, samples.c.time >= first)
        )
        found: dict[int, Mapping[str, Any]] = {}
        if slots:
            rows = self._database.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])
            found = {row["time"]: row for row in rows}
        if resolution == SHORT_S:
            with self._lock:
                still = {start: buckets.get((device, app)) for start, buckets in self._open.items() if start >= first}
                opened = {start: bucket.row() for start, bucket in still.items() if bucket is not None}
            for start, row in opened.items():
                found[start] = _joined(row, found[start]) if start in found else row
        return [_point(time, found[time]) for time in sorted(found)]

    def _keep(self, taken: Sequence[tuple[int, dict[Key, Bucket]]]) -> None:
        """Put buckets back that were not written, beside what has come meanwhile."""
        with self._lock:
            for start, buckets in taken:
                for key, bucket in buckets.items():
                    newer = self._open[start].get(key)
                    if newer is not None:
                        bucket.join(newer.row())
                    self._open[start][key] = bucket

    def _roll_up(self, now: int) -> None:
        """Make the rows of hours that are over and were not made yet, as far as there is something to make them of."""
        last = (now - GRACE_S) // LONG_S * LONG_S - LONG_S
        done = self._database.read(_rolled)
        if done == last:
            return
        first = last if done is None else max(done + LONG_S, last - OLDEST_S // LONG_S * LONG_S)
        for start in range(first, last + 1, LONG_S):
            most = self._database.read(partial(_last_of_hour, start=start))
            for low in range(0, most + 1, CHUNK):
                some = samples.c.device_id.between(low, low + CHUNK - 1)
                self._database.write(partial(_make_hour, start=start, whose=some))
        self._database.write(partial(_note_rolled, start=last))


def forget(connection: Connection, device_id: int) -> None:
    """Inside a change: remove all rows of a device, without a look at those of others."""
    for resolution, length in SLOTS.items():
        ours = (samples.c.resolution == resolution, samples.c.slot.in_(range(length)))
        connection.execute(delete(samples).where(*ours, samples.c.device_id == device_id))


def _write(connection: Connection, start: int, buckets: Mapping[Key, Bucket], *, clear: bool) -> None:
    """Write buckets that begin at `start`; what is there of the same is joined. clear: what is older in their slot
    goes, for which all rows of the fleet in it are looked at."""
    slot = (samples.c.resolution == SHORT_S, samples.c.slot == _slot(SHORT_S, start))
    if clear:
        connection.execute(delete(samples).where(*slot, samples.c.time != start))
    named = select(devices.c.name, devices.c.id).where(devices.c.name.in_({name for name, _ in buckets}))
    ids: dict[str, int] = {row[0]: row[1] for row in connection.execute(named)}
    ours = {(ids[name], app): bucket for (name, app), bucket in buckets.items() if name in ids}
    known = select(samples).where(*slot, samples.c.device_id.in_(sorted(ids.values())))
    before = {(row["device_id"], row["app"]): dict(row) for row in connection.execute(known).mappings()}
    rows = []
    for key in sorted(ours):
        row = ours[key].row()
        fixed = {"resolution": SHORT_S, "slot": _slot(SHORT_S, start), "device_id": key[0], "app": key[1]}
        rows.append(fixed | {"time": start} | (_joined(row, before[key]) if key in before else row))
    if rows:
        upsert(connection, samples, rows)
    done = _rolled(connection)
    hour = start - start % LONG_S
    if done is not None and hour <= done:
        for some in pieces(sorted(ids.values()), CHUNK):
            _make_hour(connection, hour, samples.c.device_id.in_(some))


def _parts(start: int) -> list[ColumnElement[bool]]:
    """What holds for the rows of five minutes of the hour that begins at `start`."""
    slots = [_slot(SHORT_S, time) for time in range(start, start + LONG_S, SHORT_S)]
    within = samples.c.time.between(start, start + LONG_S - 1)
    return [samples.c.resolution == SHORT_S, samples.c.slot.in_(slots), within]


def _last_of_hour(connection: Connection, start: int) -> int:
    """The highest id of a device that has rows of this hour, -1 if none has."""
    highest = connection.scalar(select(func.max(samples.c.device_id)).where(*_parts(start)))
    return -1 if highest is None else int(highest)


def _make_hour(connection: Connection, start: int, whose: ColumnElement[bool]) -> None:
    """The rows of the hour that begins at `start`, for some devices, made of those of its five minutes."""
    slot = _slot(LONG_S, start)
    connection.execute(delete(samples).where(samples.c.resolution == LONG_S, samples.c.slot == slot, whose))
    numbers = [
        made.label(f"{name}_{kind}")
        for name in HEADLINES
        for kind, made in (
            ("avg", cast(func.avg(samples.c[f"{name}_avg"]), BigInteger)),
            ("max", func.max(samples.c[f"{name}_max"])),
        )
    ]
    hour = (
        select(
            literal(LONG_S).label("resolution"),
            literal(slot).label("slot"),
            samples.c.device_id,
            samples.c.app,
            literal(start, BigInteger).label("time"),
            cast(func.sum(samples.c.n), BigInteger).label("n"),
            *numbers,
        )
        .where(*_parts(start), whose)
        .group_by(samples.c.device_id, samples.c.app)
    )
    connection.execute(insert(samples).from_select([column.name for column in hour.selected_columns], hour))


def _rolled(connection: Connection) -> int | None:
    """The last hour whose rows are made."""
    value = connection.scalar(select(facts.c.value).where(facts.c.key == ROLLED))
    return None if value is None else int(value)


def _note_rolled(connection: Connection, start: int) -> None:
    upsert(connection, facts, [{"key": ROLLED, "value": str(start)}])


def _joined(row: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, int | None]:
    both = Bucket()
    both.join(row)
    both.join(before)
    return both.row()


def _slot(resolution: int, time: int) -> int:
    return time // resolution % SLOTS[resolution]


def _point(time: int, row: Mapping[str, Any]) -> Point:
    pairs = {name: (row[f"{name}_avg"], row[f"{name}_max"]) for name in HEADLINES}
    return Point(time, row["n"], {name: None if pair[0] is None else pair for name, pair in pairs.items()})
