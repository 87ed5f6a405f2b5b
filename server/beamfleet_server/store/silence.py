"""Owns telling silent devices from others: who is shown offline because nobody has heard it for too long, and when the
next one is due. The will of a device, which the broker publishes, is `reports`'.

A device is offline 1.5 times its own keepalive after it was heard last, also while the broker is away. When somebody
listens again, or the server has just begun to, every device has half a keepalive at least: it has to connect first."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, case, func, literal, select, update

from beamfleet_server.store.database import Database
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import IN_SERVICE, devices

DEADLINE = "deadline"
"""Why a device is offline that was not heard in time."""
BROKER = "broker"
"""The same while the broker was away: nobody could be heard."""
SERVER = "server"
"""The same while the server was away."""
SILENT = frozenset({DEADLINE, BROKER, SERVER})
"""Reasons that the next word of a device ends."""
LOST = frozenset({"connection lost", *SILENT})
"""Reasons for which a device did not go by itself; the first is the will's."""
WORDS = {
    DEADLINE: "not heard from for {silent} s",
    BROKER: "not heard from for {silent} s: the broker was away",
    SERVER: "not heard from for {silent} s: the server was away",
}
CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Ear:
    """Who listens. `since`: when somebody began to, or ceased to (Unix seconds); `away`: why nobody does or did before,
    `broker` or `server`."""

    hears: bool
    since: int
    away: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How many devices are online; how many were lost since a time and are still; when the next one is due."""

    online: int
    lost: int
    due: int | None


class Silence:
    """Devices that say nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.patience_s = 300
        """For devices that do not say how often they speak."""

    def stand(self, ear: Ear, lost_since: int) -> Standing:
        """How those in service stand, read only."""
        lost = and_(~devices.c.online, devices.c.offline_since >= lost_since, devices.c.offline_reason.in_(LOST))
        query = select(
            func.count().filter(devices.c.online),
            func.count().filter(lost),
            func.min(self._due(ear)).filter(devices.c.online),
        )
        query = query.select_from(devices).where(IN_SERVICE)
        online, gone, due = self._database.read(lambda connection: connection.execute(query).one())
        return Standing(online, gone, due)

    def expire(self, ear: Ear, now: int) -> int:
        """Show those offline whose time is over; how many they are."""
        over, number = CHUNK, 0
        while over == CHUNK:
            over = self._database.write(lambda connection: self._expire(connection, ear, now))
            number += over
        return number

    def _expire(self, connection: Connection, ear: Ear, now: int) -> int:
        overdue = select(devices.c.id).where(devices.c.online, self._due(ear) <= now)
        before = devices.c.last_seen + self._limit() <= ear.since
        reason: ColumnElement[str] = case((before, literal(ear.away)), else_=literal(DEADLINE))
        if not ear.hears:
            reason = literal(ear.away)
        change = (
            update(devices)
            .where(devices.c.id.in_(overdue.order_by(devices.c.id).limit(CHUNK)))
            .values(online=False, offline_since=now, offline_reason=reason)
            .returning(devices.c.id, devices.c.offline_reason, devices.c.last_seen)
        )
        new = [
            NewEvent(now, "presence", "offline", WORDS[why].format(silent=now - seen), device_id=device_id)
            for device_id, why, seen in sorted(tuple(row) for row in connection.execute(change))
        ]
        append(self._database, connection, new)
        return len(new)

    def _limit(self) -> ColumnElement[int]:
        """Seconds of silence that a device may have."""
        longest = case(
            (devices.c.interval_s > devices.c.keepalive_s, devices.c.interval_s), else_=devices.c.keepalive_s
        )
        return case((devices.c.keepalive_s > 0, longest * 3 // 2), else_=literal(self.patience_s))

    def _due(self, ear: Ear) -> ColumnElement[int]:
        """When a device that is online is to be shown offline."""
        over = devices.c.last_seen + self._limit()
        if not ear.hears and ear.away != SERVER:
            return over
        soonest = ear.since + self._limit() // 3
        return case((over > soonest, over), else_=soonest)
