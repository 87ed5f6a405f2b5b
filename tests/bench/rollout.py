"""`./dev bench rollout`: what rollouts cost the server of 100,000 devices, on SQLite and on PostgreSQL.

    plan      a rollout of all devices begins: who is a member, with which bundle, and the canary is offered it
    report    1,000 devices in flight say that they have come further
    advance   1,000 devices commit: 500 others are offered it, with an assignment signed for each
    page      somebody reads a page for long while 10,000 reports are committed as one batch, and others write
    halt      a device reverts and crosses the threshold while a batch of offers is under way

The first three run by the store's own functions, by hand in raw SQL, and in ORM rows one by one, in turns."""

import argparse
import contextlib
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.store.reports import Report
from beamfleet_server.store.tables import assignments, devices, rollout_devices
from sqlalchemy import Connection, Select, func, select

from tests.bench.processes import MeasureError
from tests.bench.result import as_json, machine
from tests.bench.rollout_by_hand import Raw, Rows
from tests.bench.rollout_fleet import AT_ONCE, NEW, Fleet, everyone
from tests.support.fleet_store import plan_of
from tests.support.postgres import Cluster

OURS, RAW, ROWS = "ours", "raw", "rows"
BATCH = 10_000
DURABLE = ("max_wal_size=2GB", "shared_buffers=256MB")
WRITES_EVERY_S = 0.005
TARGETS = {RAW: 2.0, ROWS: 0.1}
NAMES = {
    "plan": "plan {size:,} devices",
    "report": "take in 1,000 reports",
    "advance": "1,000 commits, 500 offers",
}
DEFINITIONS = """
Medians of the rounds, all in this run. Raw SQL leaves the same rows behind, through the driver's cursor, in one
transaction of the same writer. Rows: ORM objects that are loaded, changed and flushed one by one; for a plan a part of
the fleet, scaled. Page: the longest that any write took while the page was open, less the longest of those in quiet,
over the batch. Halt: from the report that crosses the threshold, with a batch of offers before it, to the last commit
that can offer anything. PostgreSQL and SQLite commit to the disk."""


@dataclass(slots=True)
class Times:
    """Milliseconds by what was done and by whom, in the order of the rounds."""

    of: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextlib.contextmanager
    def take(self, what: str, who: str, scale: float = 1.0) -> Iterator[None]:
        """Time what happens inside."""
        started = time.perf_counter()
        yield
        self.of[what, who].append((time.perf_counter() - started) * 1000 * scale)

    def median(self, what: str, who: str) -> float:
        """Of all rounds."""
        return statistics.median(self.of[what, who])


class Bench:
    """One fleet on one database."""

    def __init__(self, fleet: Fleet, rounds: int, rows: int, page_s: float) -> None:
        self._fleet, self._rounds, self._rows, self._page_s = fleet, rounds, min(rows, fleet.size), page_s
        self.times = Times()

    def run(self) -> None:
        """Everything, in turns."""
        self._plans()
        self._advances()
        self._page()
        self._halt()

    def _plans(self) -> None:
        plan = plan_of(NEW)
        found: dict[str, Any] = {}
        for number in range(self._rounds):
            ways: list[Callable[[], None]] = [
                partial(self._plan_ours, plan, found), partial(self._plan_raw, plan, found),
                partial(self._plan_rows, plan),
            ]  # fmt: skip
            for way in turned(ways, number):
                way()
                self._fleet.clear()
        if found[OURS] != found[RAW]:
            raise MeasureError(f"raw SQL does not come to the same as the store: {found}")

    def _plan_ours(self, plan: Plan, found: dict[str, Any]) -> None:
        now = self._fleet.tick()
        with self.times.take("plan", OURS):
            self._fleet.store.advancing.start(plan, "bench", None, now)
        found[OURS] = self._members()

    def _plan_raw(self, plan: Plan, found: dict[str, Any]) -> None:
        now = self._fleet.tick()
        with self.times.take("plan", RAW):
            self._fleet.database.write(lambda connection: Raw(connection, self._fleet.sign, plan, now).start())
        found[RAW] = self._members()

    def _plan_rows(self, plan: Plan) -> None:
        now, some = self._fleet.tick(), range(1, self._rows + 1)
        with self.times.take("plan", ROWS, self._fleet.size / self._rows):
            self._fleet.database.write(lambda connection: Rows(connection, self._fleet.sign, plan, now).join(some))

    def _members(self) -> list[tuple[Any, ...]]:
        """What is in the table, in short."""
        columns = [
            rollout_devices.c[name] for name in ("state", "reason", "phase", "bundle_id", "before_id", "attempt")
        ]
        query = select(*columns, func.count(), func.sum(rollout_devices.c.draw)).group_by(*columns).order_by(*columns)
        return self._fleet.database.read(lambda connection: [tuple(row) for row in connection.execute(query)])

    def _advances(self) -> None:
        plan = everyone()
        rollout = self._fleet.start(plan)
        for number in range(self._rounds):
            for who in turned([OURS, RAW, ROWS], number):
                flying = self._fleet.in_flight(rollout)
                if len(flying) != AT_ONCE:
                    raise MeasureError(f"{len(flying)} devices are in flight, not {AT_ONCE}")
                ids, names = [each[0] for each in flying], [each[1] for each in flying]
                for what, phase in (("report", "downloading"), ("advance", "committed")):
                    self._fleet.say(names, phase)
                    self._advance(what, who, plan, rollout, ids)
                self._fleet.fill_up()
        self._fleet.clear()

    def _advance(self, what: str, who: str, plan: Plan, rollout: int, ids: list[int]) -> None:
        now = self._fleet.tick()

        def by_hand(connection: Connection) -> None:
            hand = Raw if who == RAW else Rows
            hand(connection, self._fleet.sign, plan, now).advance(rollout, ids)

        with self.times.take(what, who):
            if who == OURS:
                self._fleet.store.advancing.reported(ids, now)
            else:
                self._fleet.database.write(by_hand)
        states = self._states(rollout)
        wanted = {"downloading": AT_ONCE} if what == "report" else {"offered": AT_ONCE // 2}
        if {key: number for key, number in states.items() if key not in ("committed", "pending")} != wanted:
            raise MeasureError(f"{who}: after {what} there are {states}")

    def _states(self, rollout: int) -> dict[str, int]:
        query = select(rollout_devices.c.state, func.count()).where(rollout_devices.c.rollout_id == rollout)
        grouped = query.group_by(rollout_devices.c.state)
        return self._fleet.database.read(lambda connection: {row[0]: row[1] for row in connection.execute(grouped)})

    def _page(self) -> None:
        """Write in quiet, then with the page open and the batch in the middle of it."""
        names = self._names(BATCH)
        for _ in range(20):
            self._write("quiet")
        first, second = (self._fleet.reports(names, "downloading") for _ in range(2))
        self._batch(first, "batch alone")
        opened, enough, over = threading.Event(), threading.Event(), threading.Event()
        reader = threading.Thread(target=self._fleet.database.read, args=(partial(_long_page, opened, enough),))
        writer = threading.Thread(target=self._keep_writing, args=(over,))
        closing = time.monotonic() + self._page_s
        reader.start()
        if not opened.wait(60):
            raise MeasureError("the page was not opened")
        writer.start()
        self._batch(second, "batch")
        over.wait(max(0.0, closing - time.monotonic()))
        over.set()
        writer.join()
        enough.set()
        reader.join()

    def _batch(self, reports: list[Report], name: str) -> None:
        now = self._fleet.tick()
        with self.times.take("page", name):
            self._fleet.store.reports.apply(reports, now)

    def _keep_writing(self, over: threading.Event) -> None:
        while not over.wait(WRITES_EVERY_S):
            self._write("write")

    def _write(self, name: str) -> None:
        with self.times.take("page", name):
            self._fleet.store.devices.set_labels("gw-000000", {"seen": str(len(self.times.of["page", name]))})

    def _names(self, number: int) -> list[str]:
        query = select(devices.c.name).order_by(devices.c.id).limit(number)
        return self._fleet.database.read(lambda connection: list(connection.scalars(query)))

    def _halt(self) -> None:
        """A report crosses the threshold of a rollout that is just offering to 500 more."""
        strict = [{"name": "rest", "devices": "all", "failures": 0}]
        for _ in range(self._rounds):
            rollout = self._fleet.start(everyone(phases=strict))
            flying = self._fleet.in_flight(rollout)
            bad, good = flying[0], flying[1:]
            self._fleet.say([name for _, name in good], "committed")
            crossing = self._fleet.reports([bad[1]], "reverted")
            batch = threading.Thread(
                target=self._fleet.store.advancing.reported, args=([each[0] for each in good], self._fleet.tick())
            )
            with self.times.take("halt", OURS):
                batch.start()
                now = self._fleet.tick()
                changed = self._fleet.store.reports.apply(crossing, now).changed
                batch.join()  # the controller does one after the other
                more = self._fleet.store.advancing.reported(changed, now)
            last = self._fleet.store.assignments.last_publication()
            while more:
                more = self._fleet.store.advancing.go_on(self._fleet.tick())
            self._fleet.fill_up()
            later = assignments.c.publication > last
            query = select(func.count()).where(later, assignments.c.bundle_id.is_not(None))
            offers = self._fleet.database.read(partial(_number, query))
            if self._fleet.store.rollouts.find(rollout).state != "halted" or offers:
                raise MeasureError(f"there were {offers} offers after the report that crosses the threshold")
            self._fleet.say([bad[1]], "idle")
            self._fleet.lift()
            self._fleet.clear()


def _long_page(opened: threading.Event, enough: threading.Event, connection: Connection) -> None:
    """A read that stays open, and sees the same at its end as at its beginning."""
    page = select(devices.c.name, devices.c.last_seen).order_by(devices.c.name).limit(500)
    before = connection.execute(page).all()
    opened.set()
    enough.wait()
    if connection.execute(page).all() != before:
        raise MeasureError("the page changed while it was read")


def _number(query: Select[Any], connection: Connection) -> int:
    return int(connection.execute(query).scalar_one())


def turned(items: list[Any], number: int) -> list[Any]:
    """The same, beginning with another one each time."""
    first = number % len(items)
    return items[first:] + items[:first]


def figures(name: str, times: Times) -> dict[str, float | None]:
    """What is printed, by key."""
    found: dict[str, float | None] = {}
    for what in NAMES:
        ours = times.median(what, OURS)
        found[f"{name}_{what}_ms"] = ours
        for who in TARGETS:
            found[f"{name}_{what}_{who}_ms"] = times.median(what, who)
            found[f"{name}_{what}_ratio_{who}"] = ours / times.median(what, who)
    batch, worst = times.median("page", "batch"), max(times.of["page", "write"])
    found |= {f"{name}_page_batch_ms": batch, f"{name}_page_worst_write_ms": worst}
    found[f"{name}_page_batch_alone_ms"] = times.median("page", "batch alone")
    found[f"{name}_page_delay_ratio_batch"] = (worst - max(times.of["page", "quiet"])) / batch
    found[f"{name}_halt_ms"] = times.median("halt", OURS)
    return found


def table(name: str, found: Mapping[str, float | None], size: int) -> str:
    """The figures as lines, with the targets that are missed marked."""

    def value(key: str) -> float:
        return found[f"{name}_{key}"] or 0.0

    lines = [f"{name:28}{'ms':>9}{'raw ms':>9}{'ratio':>8}{'rows ms':>10}{'ratio':>8}"]
    for what, label in NAMES.items():
        raw, rows = value(f"{what}_ratio_raw"), value(f"{what}_ratio_rows")
        missed = " over the target" if raw > TARGETS[RAW] or rows > TARGETS[ROWS] else ""
        times = f"{value(f'{what}_ms'):9.0f}{value(f'{what}_raw_ms'):9.0f}{raw:8.2f}"
        lines.append(f"{label.format(size=size):28}{times}{value(f'{what}_rows_ms'):10.0f}{rows:8.3f}{missed}")
    ratio = value("page_delay_ratio_batch")
    missed = " over the target" if ratio > 1 else ""
    alone, batch = value("page_batch_alone_ms"), value("page_batch_ms")
    lines.append(f"{f'batch of {BATCH:,} reports':28}{alone:9.0f}   {batch:.0f} with a page open")
    lines.append(
        f"{'longest write meanwhile':28}{value('page_worst_write_ms'):9.0f}   {ratio:.2f} of the batch{missed}"
    )
    missed = " over the target" if value("halt_ms") > 1000 else ""
    lines.append(f"{'crossed to no more offers':28}{value('halt_ms'):9.0f}{missed}")
    return "\n".join(lines)


@contextlib.contextmanager
def places(work: Path, only: str) -> Iterator[dict[str, Path | DatabaseAddress]]:
    """The databases by name; PostgreSQL is a cluster of its own."""
    found: dict[str, Path | DatabaseAddress] = {}
    with contextlib.ExitStack() as end:
        if only != "postgresql":
            found["sqlite"] = work / "bench.db"
        if only != "sqlite":
            cluster = Cluster(settings=DURABLE)
            end.callback(cluster.end)
            cluster.start()
            found["postgresql"] = cluster.database()
        yield found


def main() -> int:
    """0 when everything was measured, 1 when not, 2 on wrong usage, 130 and 143 when ended by a signal."""
    parser = argparse.ArgumentParser(prog="./dev bench rollout", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=100_000, help="size of the fleet (default 100000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--rows", type=int, default=2000, help="devices that are planned row by row (default 2000)")
    parser.add_argument("--page", type=float, default=10, help="seconds for which the page is open (default 10)")
    parser.add_argument("--database", choices=("both", "sqlite", "postgresql"), default="both", help="which (both)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds: a median wants at least three")
    if options.devices < 2 * BATCH:
        parser.error(f"--devices: it takes at least {2 * BATCH}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="beamfleet-bench-", ignore_cleanup_errors=True) as work:
        try:
            with places(Path(work), options.database) as where:
                for name, place in where.items():
                    print(f"{name}: filling {options.devices:,} devices", flush=True)
                    fleet = Fleet(Path(work) / name, place, options.devices)
                    bench = Bench(fleet, options.rounds, options.rows, options.page)
                    with contextlib.closing(fleet):
                        bench.run()
                    found |= figures(name, bench.times)
                    print(f"\n{table(name, found, options.devices)}\n", flush=True)
        except MeasureError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(f"{options.rounds} rounds on {machine()}\n{DEFINITIONS}")
    if options.json:
        print(as_json("rollout", found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
