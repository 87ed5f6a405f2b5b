"""Owns the highest versions of signed metadata that devices say they have, as far as they are believed: what a server
must not go back behind after it was restored from a backup.

A device may lie. Of snapshot and timestamp, whose versions follow the clock, nothing above tomorrow is believed; of
other roles only those that the server holds, and nothing that is `FAR` above what it holds. Whoever lies within these
bounds costs numbers, and there are enough of those."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, delete, insert, select

from beamfleet_server.store.database import Database
from beamfleet_server.store.metadata import versions
from beamfleet_server.store.tables import applications, devices, seen_metadata

TOUCHED = "seen"
"""What `touch` is told when a device has reported more than the server holds."""
FAR = 10_000
AHEAD_S = 86_400
SIGNED_HERE = ("snapshot", "timestamp")
"""The roles whose documents the server signs itself."""


class Seen:
    """What devices have seen of the metadata."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def highest(self) -> dict[str, int]:
        """The highest believed version by role; only of roles where it was above the server's own once."""
        return self._database.read(highest)

    def ahead(self, roles: Iterable[str], limit: int) -> list[str]:
        """Of each of these offline roles at most `limit` devices that are online and say that they have a newer
        version than the server, those with the newest ones first."""

        def query(connection: Connection) -> list[str]:
            held = versions(connection)
            found: dict[str, None] = {}
            for role in roles:
                said = cast(applications.c.state[_place(role)].as_string(), BigInteger)
                of_role = (
                    select(devices.c.name)
                    .join_from(devices, applications)
                    .where(devices.c.online, said > held.get(role, 0))
                    .order_by(said.desc(), devices.c.name)
                    .limit(limit)
                )
                found |= dict.fromkeys(connection.scalars(of_role))
            return list(found)

        return self._database.read(query)


class Sighting:
    """What one batch of reports says: `look` at each of them, then `keep` inside the same change."""

    def __init__(self, database: Database, connection: Connection, now: int) -> None:
        self._database = database
        self._connection = connection
        self._now = now
        self._held: dict[str, int] | None = None
        self._found: dict[str, tuple[int, str]] = {}

    def look(self, device: str, metadata: Mapping[str, Any] | None) -> None:
        """Take the versions that a device reports."""
        if metadata is None:
            return
        if self._held is None:
            self._held = versions(self._connection)
        said = metadata["products"] | {role: version for role, version in metadata.items() if role != "products"}
        for role, version in said.items():
            above = max(self._held.get(role, 0), self._found.get(role, (0, ""))[0])
            if version > above and _believable(role, version, self._held, self._now):
                self._found[role] = version, device

    def keep(self) -> None:
        """Keep what is above the server's own, and say so."""
        known = highest(self._connection) if self._found else {}
        for role, (version, device) in self._found.items():
            if version > known.get(role, 0):
                self._connection.execute(delete(seen_metadata).where(seen_metadata.c.role == role))
                row = {"role": role, "version": version, "device": device, "time": self._now}
                self._connection.execute(insert(seen_metadata).values(row))
            self._database.touch(TOUCHED)


def highest(connection: Connection) -> dict[str, int]:
    """Inside a change: the highest believed version by role."""
    query = select(seen_metadata.c.role, seen_metadata.c.version)
    return {row.role: row.version for row in connection.execute(query)}


def _believable(role: str, version: int, held: Mapping[str, int], now: int) -> bool:
    if role not in held:
        return False
    return version <= now + AHEAD_S if role in SIGNED_HERE else version <= held[role] + FAR


def _place(role: str) -> tuple[str, ...]:
    return ("metadata", role) if role in ("root", "targets") else ("metadata", "products", role)
