"""Owns the audit table: entries are appended, each holding the hash of the one before it, and read; never altered."""

from sqlalchemy import Connection, Row, insert, select

from beamfleet_server.audit import GENESIS, OK, Entry, link, short
from beamfleet_server.clock import Clock
from beamfleet_server.store.acts import Act
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import audit


class Audit:
    """The chain. `clock` dates the entries."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        database.record = self._record

    def append(self, act: Act, outcome: str) -> None:
        """Keep an entry of its own: a refusal, or what was done without a change in the database."""
        self._database.write(lambda connection: self._append(connection, act, outcome))

    def after(self, last: int, limit: int) -> list[Entry]:
        """At most `limit` entries with a number above `last`, in order."""
        query = select(audit).where(audit.c.id > last).order_by(audit.c.id).limit(limit)
        return self._database.read(lambda connection: [_read(row) for row in connection.execute(query)])

    def newest(self, limit: int, before: int | None = None) -> list[Entry]:
        """The newest entries with a number below `before`, newest first."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.id < before)
        return self._database.read(lambda connection: [_read(row) for row in connection.execute(query)])

    def _record(self, connection: Connection, act: Act) -> None:
        self._append(connection, act, OK)

    def _append(self, connection: Connection, act: Act, outcome: str) -> None:
        newest = select(audit.c.id, audit.c.hash).order_by(audit.c.id.desc()).limit(1)
        last = connection.execute(newest).one_or_none()
        number, before = (last.id, bytes(last.hash)) if last else (0, GENESIS)
        entry = Entry(
            id=number + 1,
            time=self._clock(),
            actor=short("actor", act.actor),
            address=short("address", act.address),
            action=short("action", act.action),
            target=short("target", act.target),
            outcome=short("outcome", outcome),
            detail=short("detail", act.detail),
        )
        values = {name: getattr(entry, name) for name in Entry.__dataclass_fields__} | {"hash": link(before, entry)}
        connection.execute(insert(audit).values(values))


def _read(row: "Row[tuple[object, ...]]") -> Entry:
    fields = dict(row._mapping)  # noqa: SLF001 (SQLAlchemy's own public name)
    return Entry(**{**fields, "hash": bytes(row.hash).hex()})
