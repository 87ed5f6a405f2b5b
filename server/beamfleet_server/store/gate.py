"""Owns whom the broker must not take: certificates that were revoked, and devices that are denied for a while."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from beamfleet_server.store.database import Database
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import certificates, denials, devices, revocations

RATE, CLONE = "rate", "clone"
"""Why a device is denied: for a while, because it sends too much; until somebody decides, because two machines use
its identity."""
FOR_EVER = 253_402_300_799
"""The last second of the year 9999."""
REVOKED = "revoked/"
"""What `touch` is told, with the device's name behind it, by a change that revokes certificates: whoever reacts has the
list written and the live session ended."""


@dataclass(frozen=True, slots=True)
class Denial:
    """That a device is not taken."""

    until: int
    reason: str
    cause: str


class Gatekeeping:
    """Revocations and denials."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def serials(self, now: int) -> dict[str, int]:
        """The certificates (serial in hex) that are to be refused, with the time (Unix seconds) since when. Those
        that have expired are refused without this."""
        lasting = certificates.c.not_after > now
        revoked = select(certificates.c.serial, certificates.c.revoked).where(
            certificates.c.revoked.is_not(None), lasting
        )
        denied = (
            select(certificates.c.serial, func.coalesce(certificates.c.revoked, now))
            .join(denials, denials.c.device_id == certificates.c.device_id)
            .where(denials.c.until > now, lasting)
        )
        gone = select(revocations.c.serial, revocations.c.revoked).where(revocations.c.not_after > now)

        def query(connection: Connection) -> dict[str, int]:
            rows = [row for each in (denied, revoked, gone) for row in connection.execute(each)]
            return {serial: int(since) for serial, since in rows}

        return self._database.read(query)

    def deny(self, device: str, until: int, reason: str, now: int, cause: str = RATE) -> bool:
        """Deny a device until then (Unix seconds); False if it is not there, or denied for as long already."""

        def change(connection: Connection) -> bool:
            device_id = connection.scalar(select(devices.c.id).where(devices.c.name == device))
            known = select(denials.c.until).where(denials.c.device_id == device_id)
            if device_id is None or (connection.scalar(known) or 0) > (now if cause == RATE else until - 1):
                return False
            connection.execute(delete(denials).where(denials.c.device_id == device_id))
            connection.execute(insert(denials).values(device_id=device_id, until=until, reason=reason, cause=cause))
            append(self._database, connection, [NewEvent(now, "denied", cause, reason, device_id=device_id)])
            return True

        return self._database.write(change)

    def denial(self, device: str) -> Denial | None:
        """The denial of a device, if there is one; it may be over."""
        query = (
            select(denials.c.until, denials.c.reason, denials.c.cause)
            .join_from(denials, devices)
            .where(devices.c.name == device)
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return Denial(*row) if row else None

    def lift(self, now: int) -> int:
        """End the denials whose time is over; how many."""
        return self._database.write(
            lambda connection: connection.execute(delete(denials).where(denials.c.until <= now)).rowcount
        )

    def next_end(self) -> int | None:
        """When the next denial ends, in Unix seconds."""
        query = select(func.min(denials.c.until))
        return self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())
