"""Owns the connection to the database: one writer thread with a queue, readers beside it, migrations at start.

A change is a function of a connection. It runs in the writer thread inside one transaction, and the caller gets its
result when that is committed to disk, or its error when it was rolled back; nothing awaits inside a transaction.
SQLite runs in WAL with `synchronous=FULL`: what was acknowledged survives a power cut."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, CursorResult, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import OperationalError

from beamfleet_server.errors import ServerError
from beamfleet_server.store.acts import ACTING, Act

T = TypeVar("T")
Transaction: TypeAlias = Connection
"""What a change or query works on; opaque outside the store."""
Change = Callable[[Transaction], T]

READERS = 8
"""Connections for reading that are kept open."""
BUSY_MS = 10_000


class Database:
    """An SQLite file. Use: construct, `open`, then `read` and `write` from any thread, `close`."""

    def __init__(self, path: Path) -> None:
        url = URL.create("sqlite", database=str(path))
        self._writing = create_engine(url, poolclass=NullPool)
        self._reading = create_engine(url, pool_size=READERS, max_overflow=64)
        _configure(self._writing, "BEGIN IMMEDIATE", "PRAGMA synchronous=FULL", "PRAGMA journal_mode=WAL")
        _configure(self._reading, "BEGIN", "PRAGMA query_only=ON")
        self._queue: queue.SimpleQueue[tuple[Change[Any], Act | None, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._touched: set[str] = set()
        self.on_commit: Callable[[frozenset[str]], None] = lambda _: None
        """Called in the writer thread after a commit with the words that `touch` collected in it."""
        self.record: Callable[[Transaction, Act], None] = lambda _, __: None
        """Called inside the first change of an act, to keep its entry of the audit chain with it."""

    def open(self) -> None:
        """Bring the schema to its newest version and start the writer."""
        migrate(self._writing)
        self._thread.start()

    def close(self) -> None:
        """Finish the changes that are queued, then end the writer."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._reading.dispose()
        self._writing.dispose()

    def read(self, query: Change[T]) -> T:
        """The result of `query` on one consistent snapshot; it cannot change anything."""
        with _translated(), self._reading.begin() as connection:
            return query(connection)

    def submit(self, change: Change[T]) -> Future[T]:
        """Queue a change; the future is done when it is committed, together with the record of the act that it is
        part of, if there is one."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a change cannot wait for another change")
        future: Future[T] = Future()
        self._queue.put((change, ACTING.get(), future))
        return future

    def write(self, change: Change[T]) -> T:
        """Queue a change and wait until it is committed."""
        return self.submit(change).result()

    def touch(self, word: str) -> None:
        """Inside a change: say what it changed, for `on_commit`."""
        self._touched.add(word)

    def _run(self) -> None:
        with self._writing.connect() as connection:
            while (job := self._queue.get()) is not None:
                change, act, future = job
                self._touched.clear()
                try:
                    with _translated(), connection.begin():
                        result = change(connection)
                        if act is not None and not act.recorded:
                            self.record(connection, act)
                except BaseException as error:  # noqa: BLE001 (it belongs to the caller, who waits for it)
                    future.set_exception(error)
                else:
                    if act is not None:
                        act.recorded = True
                    if self._touched:
                        self.on_commit(frozenset(self._touched))
                    future.set_result(result)


@contextmanager
def _translated() -> Iterator[None]:
    """What the database itself cannot do now (full disk, lock, damage) is an error with a code; our own errors pass."""
    try:
        yield
    except OperationalError as error:
        raise ServerError("server.database", f"the database refuses: {error.orig}", "is its disk full?") from error


def inserted_id(result: CursorResult[Any]) -> int:
    """The integer key of the one row that was inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise RuntimeError("nothing was inserted")
    return int(key[0])


def migrate(engine: Engine) -> None:
    """Apply the migrations that are package data, in one transaction."""
    config = Config()
    config.set_main_option("script_location", "beamfleet_server.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


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
