"""Owns how an SQLite file is opened: WAL with `synchronous=FULL`, so what was acknowledged survives a power cut."""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from beamfleet_server.errors import ServerError

READERS = 8
"""Connections for reading that are kept open."""
BUSY_MS = 10_000
CHECKPOINT = 4000
"""Pages in the log before they go into the file: reports change the same pages again and again, and are written there
once for many times here. A page has 4 kB."""


class Sqlite:
    """The engines of the file at `path`. The lock of the data directory keeps a second server away."""

    def __init__(self, path: Path) -> None:
        url = URL.create("sqlite", database=str(path))
        self.writing = create_engine(url, poolclass=NullPool)
        self.reading = create_engine(url, pool_size=READERS, max_overflow=64)
        wal = ("PRAGMA journal_mode=WAL", f"PRAGMA wal_autocheckpoint={CHECKPOINT}")
        _configure(self.writing, "BEGIN IMMEDIATE", "PRAGMA synchronous=FULL", *wal)
        _configure(self.reading, "BEGIN", "PRAGMA query_only=ON")

    def check(self, connection: Connection) -> None:
        """Nothing can be wrong with it."""

    def claim(self, connection: Connection, patience_s: float) -> None:
        """The file is ours already."""

    def told(self, error: DBAPIError) -> ServerError | None:
        """What the database itself cannot do now (full disk, lock, damage); None for a mistake of ours."""
        if not isinstance(error, OperationalError):
            return None
        return ServerError("server.database", f"the database refuses: {error.orig}", "is its disk full?")

    def size(self, connection: Connection) -> int:
        """Its pages, without what the log of writes still holds."""
        pages: int = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        page: int = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
        return pages * page


def _configure(engine: Engine, begin: str, *pragmas: str) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        cursor = connection.cursor()
        for pragma in (f"PRAGMA busy_timeout={BUSY_MS}", "PRAGMA foreign_keys=ON", *pragmas):
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.execute(text(begin))
