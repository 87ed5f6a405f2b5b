"""A large fleet in a real store, for `./dev bench rollout`: rows as devices leave them that run 1.0.0 and say so."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.fleet.draw import lot
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.store.reports import Report
from beamfleet_server.store.tables import applications, assignments, devices, rollout_devices, rollouts
from sqlalchemy import Connection, delete, insert, select, update

from tests.support.fleet_store import PRODUCT, FleetStore, manifest_of, plan_of
from tests.support.mqtt_device import committed, state
from tests.support.mqtt_device import update as said
from tests.support.postgres import engine_of

OLD, NEW = "1.0.0", "1.1.0"
AT_ONCE = 1000
"""Devices that have the update in hand at the same time."""
PIECE = 5000
OFFLINE = 20
"""One of so many is offline."""


class Fleet:
    """A store on one database with `size` devices, whose clock goes on by a second with each `tick`."""

    def __init__(self, work: Path, place: Path | DatabaseAddress, size: int) -> None:
        work.mkdir()
        self._place, self.size = place, size
        self.kept = FleetStore(work, place)
        self.store, self.database = self.kept.store, self.kept.store.database
        self.sign = self.kept.keys.sign_assignment
        self._seq = 1
        for version in (OLD, NEW):
            self.kept.publish(version)
        for numbers in pieces(range(size), PIECE):
            self.database.write(partial(self._fill, numbers=numbers))
        self.tidy()

    @property
    def now(self) -> int:
        """The time, in Unix seconds."""
        return self.kept.now

    def tick(self) -> int:
        """A second later."""
        self.kept.now += 1
        return self.kept.now

    def close(self) -> None:
        """End the store."""
        self.kept.close()

    def tidy(self) -> None:
        """Have the database look at its rows, as it does by itself in time."""
        engine = engine_of(self._place)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE" if isinstance(self._place, Path) else "VACUUM ANALYZE")
        engine.dispose()

    def clear(self) -> None:
        """Forget all rollouts."""

        def change(connection: Connection) -> None:
            connection.execute(update(assignments).where(assignments.c.rollout_id.is_not(None)).values(rollout_id=None))
            connection.execute(delete(rollout_devices))
            connection.execute(delete(rollouts))

        self.database.write(change)
        self.tidy()

    def lift(self) -> None:
        """Give the new version out of quarantine."""
        self.store.quarantine.lift("bench", self.tick(), manifest=manifest_of(NEW))

    def start(self, plan: Plan) -> int:
        """A rollout of `plan`, with as many devices in flight as it allows."""
        rollout, _ = self.store.advancing.start(plan, "bench", None, self.tick())
        self.fill_up()
        return rollout

    def fill_up(self) -> None:
        """Have all places taken that are free."""
        while self.store.advancing.look(self.tick()).more:
            pass

    def in_flight(self, rollout: int) -> list[tuple[int, str]]:
        """(id, name) of the members in flight."""
        query = (
            select(devices.c.id, devices.c.name)
            .join_from(rollout_devices, devices, devices.c.id == rollout_devices.c.device_id)
            .where(rollout_devices.c.rollout_id == rollout, rollout_devices.c.deadline.is_not(None))
            .order_by(devices.c.id)
        )
        return self.database.read(lambda connection: [(row.id, row.name) for row in connection.execute(query)])

    def reports(self, names: Iterable[str], phase: str) -> list[Report]:
        """What these devices say next: they are in this phase of their update to the new version; `idle`: they have
        none in hand."""
        self._seq += 1
        manifest = manifest_of(NEW)
        runs = _running(NEW if phase == "committed" else OLD)
        if phase in ("downloading", "reverted"):
            runs["update"] = said(phase, manifest, reason="crash" if phase == "reverted" else "")
        return [Report(name, "main", "state", state(1, self._seq, **runs)) for name in names]

    def say(self, names: Iterable[str], phase: str) -> None:
        """The same, committed as the server does it."""
        self.store.reports.apply(self.reports(names, phase), self.tick())

    def _fill(self, connection: Connection, numbers: Sequence[int]) -> None:
        names = {number: f"gw-{number:06}" for number in numbers}
        word = state(1, 1, **_running(OLD))
        rows: list[dict[str, Any]] = [
            {
                "id": number + 1,
                "name": name,
                "enrolled": self.now,
                "session": 1,
                "online": number % OFFLINE != 0,
                "last_seen": self.now,
                "agent": "0.1.0",
                "profile": "wired",
                "lot": lot(name),
            }
            for number, name in names.items()
        ]
        connection.execute(insert(devices), rows)
        said_so = {"app": "main", "state_boot": 1, "state_seq": 1, "product": PRODUCT, "version": OLD, "state": word}
        said_so |= {"manifest": manifest_of(OLD), "phase": "committed", "attempt": 1, "sequence": 1}
        said_so |= {"arch": "x86_64", "libc": "glibc"}
        connection.execute(insert(applications), [said_so | {"device_id": number + 1} for number in numbers])
        told = {"app": "main", "sequence": 1, "attempt": 1, "bundle_id": 1, "created": self.now, "body": bytes(700)}
        numbered = [told | {"device_id": number + 1, "publication": number + 1} for number in numbers]
        connection.execute(insert(assignments), numbered)


def everyone(**more: Any) -> Plan:
    """The new version for the whole fleet in one phase, `AT_ONCE` at a time."""
    return plan_of(NEW, canary=0, max_parallel=AT_ONCE, **more)


def pieces(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The items in pieces."""
    return (items[first : first + size] for first in range(0, len(items), size))


def _running(version: str) -> dict[str, Any]:
    return committed(manifest_of(version), version)
