"""Owns the newest assignment of each device: what it was told to run, the signed bytes, and the order in which they
go out.

`sequence` orders assignments for the device: never below the clock, the last one, or the highest that the device
reported, so that a server restored from a backup does not go back. `publication` orders them for the broker: it grows
with each one that is signed, so whoever has published up to N needs only those above N."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beamfleet_bundles.names import target_path
from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, select, update

from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.tables import applications, assignments, bundles, devices, facts

TOUCHED = "assignments"
GIVEN = "assignments.publication"
"""The fact that holds the highest publication of those that were deleted."""
FRESH_S = 15 * 86_400
"""An assignment lives 30 days; one this old is signed again when its device shows up."""
ABSURD = 2**52
"""A reported sequence that no server has given is not believed: it would leave no room for the next one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an assignment shall say. `path` is `P/V/T/manifest` with its length and SHA-256, None for a hold; `force`:
    hooks of the application may not put it off; `rollout`: for which one it is; `traced`: its agent knows what a trace
    is."""

    device: str
    app: str
    sequence: int
    attempt: int
    path: str | None
    length: int
    sha256: str
    force: bool = False
    rollout: int | None = None
    traced: bool = False


Sign = Callable[[Wanted], bytes]
"""Gives the signed assignment."""


@dataclass(frozen=True, slots=True)
class Told:
    """The newest assignment of a device: what it says, when it was signed (Unix seconds), its bytes, its
    publication."""

    wanted: Wanted
    created: int
    body: bytes
    publication: int
    reported: int
    """The highest sequence that the device has reported."""


@dataclass(frozen=True, slots=True)
class Task:
    """Give a device (by id) this bundle (by id; None for a hold) in this attempt, for this rollout; `force`: hooks of
    the application may not put it off."""

    device_id: int
    bundle_id: int | None
    attempt: int
    rollout_id: int | None = None
    force: bool = False


class Assignments:
    """The newest assignments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, device: str, app: str) -> Told | None:
        """The newest assignment of one application of a device."""
        query = _told().where(devices.c.name == device, assignments.c.app == app)
        found = self._database.read(lambda connection: [_read(row) for row in connection.execute(query)])
        return found[0] if found else None

    def after(self, publication: int, limit: int) -> list[Told]:
        """At most `limit` assignments above `publication`, in that order."""
        query = _told().where(assignments.c.publication > publication).order_by(assignments.c.publication).limit(limit)
        return self._database.read(lambda connection: [_read(row) for row in connection.execute(query)])

    def last_publication(self) -> int:
        """The highest publication, 0 without any."""
        return self._database.read(_last_publication)

    def oldest_online(self) -> int | None:
        """When the oldest assignment of a device that is online was signed (Unix seconds), None without any."""
        query = select(func.min(assignments.c.created)).join_from(assignments, devices).where(devices.c.online)
        return self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())

    def unseen(self) -> list[Told]:
        """The assignments that devices which are online have not reported to have seen."""
        query = _told().where(devices.c.online, applications.c.sequence < assignments.c.sequence)
        return self._database.read(lambda connection: [_read(row) for row in connection.execute(query)])

    def stale(self, signed_before: int) -> list[str]:
        """Devices that need theirs signed again: online with one that old, or with a higher sequence than we ever gave.

        The latter have outrun a database that was restored from a backup.
        """
        old = devices.c.online & (assignments.c.created < signed_before)
        outrun = (applications.c.sequence > assignments.c.sequence) & (applications.c.sequence < ABSURD)
        query = _told().where(old | outrun).order_by(devices.c.name)
        return self._database.read(lambda connection: [row.name for row in connection.execute(query)])

    def renew(self, names: Sequence[str], sign: Sign, now: int) -> None:
        """Sign the same again for these devices, with a new sequence; the attempt stays."""

        def change(connection: Connection) -> None:
            kept = ("device_id", "bundle_id", "attempt", "rollout_id", "force")
            columns = (assignments.c[column] for column in kept)
            query = select(*columns).join_from(assignments, devices).where(devices.c.name.in_(names))
            assign(self._database, connection, [Task(*row) for row in connection.execute(query)], sign, now)

        if names:
            self._database.write(change)


def outdate(connection: Connection) -> None:
    """Inside a change: the director's key is another one; each assignment is signed again when its device shows up."""
    connection.execute(update(assignments).values(created=0))


def keep_publication(connection: Connection) -> None:
    """Inside a change that deletes assignments: the numbers that were given are not given again."""
    last = _last_publication(connection)
    connection.execute(delete(facts).where(facts.c.key == GIVEN))
    connection.execute(insert(facts).values(key=GIVEN, value=str(last)))


def _last_publication(connection: Connection) -> int:
    held = connection.scalar(select(func.max(assignments.c.publication))) or 0
    return max(held, int(connection.scalar(select(facts.c.value).where(facts.c.key == GIVEN)) or 0))


def assign(database: Database, connection: Connection, tasks: Iterable[Task], sign: Sign, now: int) -> None:
    """Inside a change: sign and keep an assignment for each task; the newest task of a device counts."""
    newest = {task.device_id: task for task in tasks}
    if not newest:
        return
    publication = _last_publication(connection)
    given = _bundles(connection, {task.bundle_id for task in newest.values() if task.bundle_id is not None})
    last = (
        select(devices.c.id, devices.c.name, applications.c.sequence, assignments.c.sequence, applications.c.network)
        .add_columns(devices.c.keepalive_s)
        .join_from(devices, applications, and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN))
        .join(assignments, and_(assignments.c.device_id == devices.c.id, assignments.c.app == MAIN), isouter=True)
        .where(devices.c.id.in_(list(newest)))
        .order_by(devices.c.id)
    )
    rows = []
    for device_id, name, reported, before, network, keepalive_s in connection.execute(last).all():
        task = newest[device_id]
        path, length, sha256 = given[task.bundle_id] if task.bundle_id is not None else (None, 0, "")
        believed = reported if reported < ABSURD else 0
        wanted = Wanted(
            name,
            MAIN,
            max((before or 0) + 1, now, believed + 1),
            task.attempt,
            path,
            length,
            sha256,
            task.force and network != "",  # an agent that does not say its network does not know the word
            task.rollout_id,
            keepalive_s > 0,  # the same of traces
        )
        publication += 1
        rows.append(
            {
                "device_id": device_id,
                "app": MAIN,
                "sequence": wanted.sequence,
                "attempt": task.attempt,
                "bundle_id": task.bundle_id,
                "created": now,
                "publication": publication,
                "body": sign(wanted),
                "rollout_id": task.rollout_id,
                "force": task.force,
            }
        )
    connection.execute(delete(assignments).where(assignments.c.device_id.in_(list(newest)), assignments.c.app == MAIN))
    connection.execute(insert(assignments), rows)
    database.touch(TOUCHED)


def _bundles(connection: Connection, ids: set[int]) -> dict[int, tuple[str | None, int, str]]:
    query = select(bundles).where(bundles.c.id.in_(ids))
    return {
        row.id: (target_path(row.product, row.version, row.target), row.manifest_size, row.manifest)
        for row in connection.execute(query)
    }


def _told() -> Select[Any]:
    return (
        select(
            devices.c.name,
            assignments,
            bundles.c.product,
            bundles.c.version,
            bundles.c.target,
            bundles.c.manifest,
            bundles.c.manifest_size,
            applications.c.sequence.label("reported"),
            applications.c.network,
            devices.c.keepalive_s,
        )
        .join_from(assignments, devices)
        .join(
            applications,
            and_(applications.c.device_id == assignments.c.device_id, applications.c.app == assignments.c.app),
        )
        .join(bundles, bundles.c.id == assignments.c.bundle_id, isouter=True)
    )


def _read(row: Row[Any]) -> Told:
    path = None if row.bundle_id is None else target_path(row.product, row.version, row.target)
    wanted = Wanted(
        row.name,
        row.app,
        row.sequence,
        row.attempt,
        path,
        row.manifest_size or 0,
        row.manifest or "",
        row.force and row.network != "",
        row.rollout_id,
        row.keepalive_s > 0,
    )
    return Told(wanted, row.created, bytes(row.body), row.publication, row.reported)
