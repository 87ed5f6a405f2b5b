"""Owns the fleet in numbers, as metrics show it: few statements on one snapshot, and answers whose size is bounded
however large the fleet is."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, case, exists, func, select

from beamfleet_server.fleet.selector import Selector
from beamfleet_server.fleet.states import Progress
from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.health import counts
from beamfleet_server.store.health_tables import health
from beamfleet_server.store.standing import reporting, verdict
from beamfleet_server.store.tables import (
    IN_SERVICE,
    applications,
    certificates,
    devices,
    rollout_devices,
    rollouts,
)
from beamfleet_server.store.webhook_tables import deliveries, webhooks
from beamfleet_server.store.webhooks import PENDING

RELEASES = 50
"""The releases that most devices run have numbers of their own."""
ROLLOUTS = 20
"""The newest rollouts under way have numbers of their members."""
PROFILES = ("wired", "metered")
UNDER_WAY = (Progress.RUNNING, Progress.PAUSED, Progress.HALTED)
OTHER = "other"
"""What is none of those that have a name of their own."""
LATE = 6
"""A device's certificate is near its end in the last sixth of its life: it was to be renewed at two thirds of it."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout under way; its members by state."""

    id: int
    product: str
    version: str
    members: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """What changes all the time. `verdicts`: devices by health; `profiles`: (devices, online) by profile; `releases`:
    devices by (product, version); `last_report`: Unix seconds, 0 before the first; `webhooks`: how many are `well`,
    `failing`, `disabled`."""

    verdicts: Mapping[str, int]
    profiles: Mapping[str, tuple[int, int]]
    releases: Mapping[tuple[str, str], int]
    rollouts: Mapping[str, int]
    under_way: tuple[Rollout, ...]
    last_report: int
    webhooks: Mapping[str, int]
    deliveries_pending: int


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """One device's newest numbers; what it did not say is None."""

    name: str
    verdict: str
    memory: int | None
    processes: int | None
    queue: int | None


@dataclass(frozen=True, slots=True)
class SlowFigures:
    """What changes slowly and takes longer to count. Devices whose certificates have all expired, or are all near their
    end; the size of the database in bytes."""

    certificates_expired: int
    certificates_ending: int
    database_bytes: int


class FleetFigures:
    """Reads the numbers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def at(self, now: int) -> Figures:
        """The numbers that change all the time."""
        return self._database.read(lambda connection: _figures(connection, now))

    def devices(self, now: int) -> tuple[DeviceFigures, ...]:
        """Those of each device in service, by name: as many as there are."""
        numbers = (health.c.memory, health.c.processes, health.c.queue)
        query = select(devices.c.name, verdict(now).label("verdict"), *numbers).select_from(reporting())
        ordered = query.where(IN_SERVICE).order_by(devices.c.name)
        return self._database.read(lambda connection: tuple(DeviceFigures(*row) for row in connection.execute(ordered)))

    def slow(self, now: int) -> SlowFigures:
        """Those that change slowly."""

        def query(connection: Connection) -> SlowFigures:
            return SlowFigures(*_certificates(connection, now), self._database.size(connection))

        return self._database.read(query)


def _figures(connection: Connection, now: int) -> Figures:
    profiles, last_report = _profiles(connection)
    hooks, pending = _webhooks(connection)
    by_state = select(rollouts.c.state, func.count()).group_by(rollouts.c.state)
    known = {row[0]: row[1] for row in connection.execute(by_state)}
    return Figures(
        verdicts=counts(connection, Selector(), now),
        profiles=profiles,
        releases=_releases(connection),
        rollouts={str(state): known.get(state, 0) for state in Progress},
        under_way=_under_way(connection),
        last_report=last_report,
        webhooks=hooks,
        deliveries_pending=pending,
    )


def _profiles(connection: Connection) -> tuple[dict[str, tuple[int, int]], int]:
    profile = case((devices.c.profile.in_(PROFILES), devices.c.profile), else_=OTHER)
    online = func.count(case((devices.c.online, 1)))
    query = select(profile, func.count(), online, func.max(devices.c.last_seen)).where(IN_SERVICE).group_by(profile)
    rows = connection.execute(query).all()
    found = dict.fromkeys((*PROFILES, OTHER), (0, 0)) | {row[0]: (row[1], row[2]) for row in rows}
    return found, max((row[3] or 0 for row in rows), default=0)


def _releases(connection: Connection) -> dict[tuple[str, str], int]:
    """What the devices say that they run; beyond the first ones, all others together."""
    names, number = (applications.c.product, applications.c.version), func.count()
    serving = exists().where(devices.c.id == applications.c.device_id, IN_SERVICE)
    run = (applications.c.app == MAIN, applications.c.product != "", serving)
    first = select(*names, number).where(*run).group_by(*names).order_by(number.desc(), *names).limit(RELEASES)
    found = {(row[0], row[1]): row[2] for row in connection.execute(first)}
    if len(found) == RELEASES:
        total = connection.scalar(select(func.count()).select_from(applications).where(*run)) or 0
        found[OTHER, OTHER] = total - sum(found.values())
    return found


def _under_way(connection: Connection) -> tuple[Rollout, ...]:
    newest = (
        select(rollouts.c.id, rollouts.c.product, rollouts.c.version)
        .where(rollouts.c.state.in_(UNDER_WAY))
        .order_by(rollouts.c.id.desc())
        .limit(ROLLOUTS)
    )
    rows = connection.execute(newest).all()
    member = rollout_devices.c
    states = (
        select(member.rollout_id, member.state, func.count())
        .where(member.rollout_id.in_([row.id for row in rows]))
        .group_by(member.rollout_id, member.state)
    )
    members: dict[int, dict[str, int]] = {row.id: {} for row in rows}
    for rollout_id, state, number in connection.execute(states) if rows else ():
        members[rollout_id][state] = number
    return tuple(Rollout(row.id, row.product, row.version, members[row.id]) for row in rows)


def _webhooks(connection: Connection) -> tuple[dict[str, int], int]:
    stands = case((~webhooks.c.enabled, "disabled"), (webhooks.c.failing_since.is_not(None), "failing"), else_="well")
    found = {row[0]: row[1] for row in connection.execute(select(stands, func.count()).group_by(stands))}
    waiting = select(func.count()).select_from(deliveries).where(deliveries.c.state == PENDING)
    return {state: found.get(state, 0) for state in ("well", "failing", "disabled")}, connection.scalar(waiting) or 0


def _certificates(connection: Connection, now: int) -> tuple[int, int]:
    """How many devices have none but expired certificates, and how many others have none that is not near its end."""
    end, begin = certificates.c.not_after, certificates.c.not_before
    good = case((LATE * (end - now) > end - begin, 2), (end > now, 1), else_=0)
    held = select(func.max(good).label("best")).where(certificates.c.revoked.is_(None))
    best = held.group_by(certificates.c.device_id).subquery("held").c.best
    row = connection.execute(select(func.count(case((best == 0, 1))), func.count(case((best == 1, 1))))).one()
    return row[0], row[1]
