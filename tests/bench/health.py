"""`./dev bench health`: 10,000 simulated devices tell one server of their health, and lists of them are asked for.

    ingest    they enrol, connect and report the real way; what the broker took is held against what was committed
    list      what `beamfleet device list` asks for: every page of GET /devices
    health    what `beamfleet health` asks for: GET /health, and the first 50 who are not well, with counts
    top       what `beamfleet top` asks for: the 50 that use the most memory, with counts

Each answer comes from the store's own functions, from the server over HTTPS, and from raw SQL, in turns."""

import argparse
import contextlib
import functools
import os
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import requests
from beamfleet_server.api.operators import device_list, health
from beamfleet_server.cli.client import PAGE
from beamfleet_server.cli.health import SHOWN
from beamfleet_server.cli.top import ONCE
from beamfleet_server.cli.vitals import UNWELL
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store import Store
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.bench.processes import MeasureError
from tests.bench.result import as_json, machine
from tests.health.test_fleet_health import committed
from tests.rollout.simulated import Api, Simulation, simulation
from tests.support.fleet import Fleet, fleet, wait_for

OURS, HTTPS, RAW = "store", "https", "raw"
TARGET = 2.0
NAMES = {"list": "device list", "health": "health", "top": "top"}
SCENARIO: dict[str, Any] = {
    "seed": 3,
    "runs": "sensor-gateway 1.0.0",
    "labels": {"site": ["berlin", "paris", "rome"]},
    "networks": {"wired": 9, "cellular": 1},
    "behaviours": [
        {"share": "2%", "offline": "once"},
        {"share": "3%", "ails": "degraded"},
        {"share": "1%", "ails": "failing"},
    ],
}
PER_S = 8
"""Devices that come within a second, at least: enrolment, TLS, and the first reports of two cores."""
DEFINITIONS = """
Medians of the rounds, all in this run, while the simulator is frozen and its devices are still online. Raw SQL: the
same statements with the same values through the driver's cursor, all rows fetched. Store: the server's functions, from
the call to the answer's JSON. HTTPS: from the request to the last byte, over a connection that is there.
Command: the whole process of the command line, once."""


class Answers:
    """The three answers from a copy of the server's database, and the statements that are behind them."""

    def __init__(self, copy: Path, now: int) -> None:
        self._store, self._now = Store(copy, _unsigned), now
        self._store.open()
        self._raw = sqlite3.connect(copy, isolation_level=None)
        self.behind = {name: self._recorded(getattr(self, name)) for name in NAMES}

    def close(self) -> None:
        """End the connections."""
        self._raw.close()
        self._store.close()

    def list(self) -> int:
        """Every device, in pages."""
        after, seen = "", 0
        while True:
            rows = self._store.devices.page(Selector.parse(""), after, PAGE + 1)
            device_list.encode(rows, PAGE)
            seen += len(rows[:PAGE])
            if len(rows) <= PAGE:
                return seen
            after = rows[PAGE - 1].name

    def health(self) -> int:
        """How the fleet is, and the first who are not well."""
        self._store.devices.counts()
        self._store.health.counts(Selector.parse(""), self._now)
        return len(self._page(UNWELL, "verdict", SHOWN))

    def top(self) -> int:
        """Those that use the most memory."""
        return len(self._page((), "memory", ONCE))

    def raw(self, name: str) -> int:
        """The statements behind an answer, as the driver takes them; the rows that came."""
        self._raw.execute("BEGIN")
        rows = sum(len(self._raw.execute(text, values).fetchall()) for text, values in self.behind[name])
        self._raw.execute("COMMIT")
        return rows

    def _page(self, verdicts: Sequence[str], sort: Any, limit: int) -> Sequence[Any]:
        every = Selector.parse("")
        page, counts = self._store.health.page(every, frozenset(verdicts), sort, None, limit, self._now)
        health.encode(page, counts)
        return page.rows

    @staticmethod
    def _recorded(answer: Callable[[], int]) -> "Sequence[tuple[str, Any]]":
        asked: list[tuple[str, Any]] = []

        def told(_: object, __: object, text: str, values: Any, *___: object) -> None:
            if text.lstrip().upper().startswith(("SELECT", "WITH")):
                asked.append((text, values))

        event.listen(Engine, "before_cursor_execute", told)
        try:
            answer()
        finally:
            event.remove(Engine, "before_cursor_execute", told)
        return asked


class Listed(msgspec.Struct):
    """What an answer is looked into for: reading the rest of it is the work of whoever asks."""

    items: list[msgspec.Raw] = []
    next: str | None = None


_read = msgspec.json.Decoder(Listed).decode


class Service:
    """The same answers from the running server."""

    def __init__(self, opened: Fleet) -> None:
        self._base = f"{opened.address('operators')}/api/v1"
        self._session = requests.Session()
        self._session.verify, self._session.trust_env = str(opened.data / "ca.pem"), False
        self._session.headers["Authorization"] = f"Bearer {(opened.data / 'admin.token').read_text().strip()}"

    def list(self) -> int:
        """Every device, in pages."""
        cursor: str | None = ""
        seen = 0
        while cursor is not None:
            page = self._get("/devices", limit=PAGE, **({"cursor": cursor} if cursor else {}))
            seen, cursor = seen + len(page.items), page.next
        return seen

    def health(self) -> int:
        """How the fleet is, and the first who are not well."""
        self._get("/health")
        return len(self._get("/health/devices", verdict=",".join(UNWELL), sort="verdict", limit=SHOWN).items)

    def top(self) -> int:
        """Those that use the most memory."""
        return len(self._get("/health/devices", sort="memory", limit=ONCE).items)

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    def _get(self, path: str, **query: Any) -> Listed:
        answer = self._session.get(f"{self._base}{path}", params=query, timeout=60)
        answer.raise_for_status()
        return _read(answer.content)


def run(work: Path, devices: int, rounds: int) -> dict[str, float | None]:
    """Everything, once."""
    found: dict[str, float | None] = {"devices": devices}
    began = time.monotonic()
    with fleet(work / "fleet") as opened, simulation(opened, devices, SCENARIO) as simulated:
        found |= gather(opened, simulated, devices, began)
        with frozen(simulated):
            found |= compare(opened, work / "copy.db", rounds)
        found |= count(opened, simulated)
    return found


def gather(opened: Fleet, simulated: Simulation, devices: int, began: float) -> dict[str, float | None]:
    """All have come and have told how they are; how long that took, and what it weighs."""
    patience_s = 120 + devices / PER_S
    away = gone(simulated)
    simulated.wait("all to be enrolled", lambda seen: "online" in seen, patience_s)
    enrolled = time.monotonic()
    print(f"{devices:,} devices enrolled in {enrolled - began:.0f} s", flush=True)

    def there(seen: dict[str, Any]) -> bool:
        return bool(seen["connects"] >= devices and seen["online"] == devices - away and not seen["waiting_for_server"])

    simulated.wait("all to have come", there, patience_s)
    connected = time.monotonic()
    print(f"connected in {connected - enrolled:.0f} s", flush=True)
    api = Api(opened)

    def known() -> bool:
        counts = api.get("/health/devices", limit=1)["counts"]
        return bool(counts["unknown"] == 0 and sum(counts.values()) == devices and counts["offline"] == away)

    wait_for("the server to know how each of them is", known, deadline_s=patience_s, every_s=1)
    return {
        "enrol_s": enrolled - began,
        "connect_s": connected - enrolled,
        "simulator_kb_per_device": resident(simulated.pid) / devices,
        "broker_kb_per_device": resident(opened.broker_pid() or 0) / devices,
        "server_mb": resident(opened.server_pid()) / 1024,
    }


def compare(opened: Fleet, copy: Path, rounds: int) -> dict[str, float | None]:
    """Each answer by each way, in turns."""
    database = sqlite3.connect(opened.data / "beamfleet.db")
    with contextlib.closing(database), contextlib.closing(sqlite3.connect(copy)) as held:
        database.backup(held)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    with contextlib.closing(Answers(copy, int(time.time()))) as answers, contextlib.closing(Service(opened)) as service:
        for number in range(rounds + 1):
            for name in NAMES:
                ways: list[tuple[str, Callable[[], int]]] = [
                    (OURS, getattr(answers, name)),
                    (HTTPS, getattr(service, name)),
                    (RAW, functools.partial(answers.raw, name)),
                ]
                for who, way in ways[number % 3 :] + ways[: number % 3]:
                    started = time.perf_counter()
                    if not way():
                        raise MeasureError(f"{name} has nobody in it")
                    if number:  # the first warms up
                        times[name, who].append(1000 * (time.perf_counter() - started))
    found: dict[str, float | None] = {}
    for name in NAMES:
        raw = statistics.median(times[name, RAW])
        found[f"{name}_raw_ms"] = raw
        for who in (OURS, HTTPS):
            found[f"{name}_{who}_ms"] = statistics.median(times[name, who])
            found[f"{name}_{who}_ratio"] = statistics.median(times[name, who]) / raw
    for name, words in {"list": ["device", "list"], "health": ["health"], "top": ["top"]}.items():
        started = time.perf_counter()
        opened.json(*words)
        found[f"{name}_command_ms"] = 1000 * (time.perf_counter() - started)
    return found


def count(opened: Fleet, simulated: Simulation) -> dict[str, float | None]:
    """The end: as many reports as the broker took were committed."""
    summary = simulated.stop()
    sent, taken, unsure = (summary[name] for name in ("reports", "reports_taken", "reports_unsure"))
    wait_for("the reports to be committed", lambda: committed(opened) >= taken, deadline_s=60)
    arrived = committed(opened)
    if not taken <= arrived <= taken + unsure:
        raise MeasureError(f"{sent} reports, {taken} taken, {unsure} unsure, {arrived} committed")
    return {
        "reports": sent,
        "reports_committed": arrived,
        "reports_lost": max(0, taken - arrived),
        "lost_sessions": summary["lost_sessions"] - gone(simulated),
    }


def gone(simulated: Simulation) -> int:
    """How many come once and end their session, by the script."""
    return sum(simulated.nature(name).once for name in simulated.names)


@contextlib.contextmanager
def frozen(simulated: Simulation) -> Iterator[None]:
    """The simulator does nothing meanwhile; its devices are not missed so soon."""
    os.kill(simulated.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(simulated.pid, signal.SIGCONT)


def resident(pid: int) -> float:
    """Resident memory of a process in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise MeasureError(f"process {pid} is gone")


def table(found: Mapping[str, float | None]) -> str:
    """The figures as lines, with the targets that are missed marked."""

    def value(key: str) -> float:
        return found[key] or 0.0

    lines = [f"{'':14}{'store ms':>10}{'raw ms':>10}{'ratio':>8}{'https ms':>10}{'ratio':>8}{'command ms':>12}"]
    for name, label in NAMES.items():
        missed = " over the target" if value(f"{name}_store_ratio") > TARGET else ""
        ours = f"{value(f'{name}_store_ms'):10.1f}{value(f'{name}_raw_ms'):10.1f}{value(f'{name}_store_ratio'):8.2f}"
        https = f"{value(f'{name}_https_ms'):10.1f}{value(f'{name}_https_ratio'):8.2f}"
        lines.append(f"{label:14}{ours}{https}{value(f'{name}_command_ms'):12.0f}{missed}")
    lines.append(
        f"{value('reports'):,.0f} reports, {value('reports_committed'):,.0f} committed, "
        f"{value('reports_lost'):.0f} lost, {value('lost_sessions'):.0f} sessions lost"
    )
    lines.append(
        f"enrolled in {value('enrol_s'):.0f} s, connected in {value('connect_s'):.0f} s; "
        f"{value('simulator_kb_per_device'):.0f} kB a device in the simulator, "
        f"{value('broker_kb_per_device'):.0f} kB in the broker, server {value('server_mb'):.0f} MB"
    )
    return "\n".join(lines)


def _unsigned(*_: object) -> NoReturn:
    raise MeasureError("nothing is signed here")


def main() -> int:
    """0 when everything was measured, 1 when not, 2 on wrong usage, 130 and 143 when ended by a signal."""
    parser = argparse.ArgumentParser(prog="./dev bench health", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=10_000, help="size of the fleet (default 10000)")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (default 9)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds: a median wants at least three")
    if options.devices < 100:
        parser.error("--devices: it takes at least 100")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="beamfleet-bench-", ignore_cleanup_errors=True) as work:
        try:
            found = run(Path(work), options.devices, options.rounds)
        except MeasureError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(f"\n{table(found)}\n\n{options.devices:,} devices, {options.rounds} rounds on {machine()}\n{DEFINITIONS}")
    if options.json:
        print(as_json("health", found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
