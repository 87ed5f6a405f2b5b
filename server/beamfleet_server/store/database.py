"""Owns the way into the database: one writer thread with a queue, readers beside it, migrations at start.

A change is a function of a connection. It runs in the writer thread inside one transaction, and the caller gets its
result when that is committed to disk, or its error when it was rolled back; nothing awaits inside a transaction.
`sqlite` and `postgresql` know what is different between the two."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, CursorResult, Engine, RootTransaction, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.errors import ServerError
from beamfleet_server.store.acts import ACTING, Act
from beamfleet_server.store.postgresql import Postgresql
from beamfleet_server.store.sqlite import Sqlite

T = TypeVar("T")
Transaction: TypeAlias = Connection
"""What a change or query works on; opaque outside the store."""
Change = Callable[[Transaction], T]

PATIENCE_S = 5.0
"""How long a start waits for the end of a server that was just killed."""


class Backend(Protocol):
    """What is different between databases: engines that begin transactions, who may write, what errors mean."""

    writing: Engine
    reading: Engine

    def check(self, connection: Connection) -> None:
        """Refuse what is no database for us."""

    def claim(self, connection: Connection, patience_s: float) -> None:
        """Keep other servers away while this connection lives."""

    def told(self, error: DBAPIError) -> ServerError | None:
        """What the database cannot do now; None for a mistake of ours."""

    def size(self, connection: Connection) -> int:
        """How many bytes the database has."""


class Database:
    """An SQLite file, or a database of PostgreSQL. Use: construct, `open`, then `read` and `write` from any thread,
    `close`."""

    def __init__(self, place: Path | DatabaseAddress) -> None:
        self._backend: Backend = Sqlite(place) if isinstance(place, Path) else Postgresql(place)
        self._queue: queue.SimpleQueue[tuple[Change[Any], Act | None, Future[Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._connection: Connection | None = None
        self._touched: set[str] = set()
        self._uncertain: frozenset[str] = frozenset()
        """What was touched in a transaction whose commit nobody answered."""
        self.on_commit: Callable[[frozenset[str]], None] = lambda _: None
        """Called in the writer thread after a commit with the words that `touch` collected in it."""
        self.record: Callable[[Transaction, Act], None] = lambda _, __: None
        """Called inside the first change of an act, to keep its entry of the audit chain with it."""

    def open(self) -> None:
        """Bring the schema to its newest version and start the writer. Errors `server.database_in_use`,
        `server.database_unreachable`, `server.settings`."""
        try:
            with self._translated():
                self._connection = self._connect(PATIENCE_S)
                with self._connection.begin():
                    self._backend.check(self._connection)
                    _upgrade(self._connection)
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def close(self) -> None:
        """Finish the changes that are queued, then end the writer; who comes later is refused, not kept waiting."""
        with self._closing:
            self._closed = True
            self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._backend.reading.dispose()
        self._backend.writing.dispose()

    def read(self, query: Change[T]) -> T:
        """The result of `query` on one consistent snapshot; it cannot change anything. On a connection that turns out
        to be lost it is asked once more on a new one."""
        with self._translated():
            try:
                return self._ask(query)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return self._ask(query)

    def submit(self, change: Change[T]) -> Future[T]:
        """Queue a change; the future is done when it is committed, together with the record of the act that it is
        part of, if there is one."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a change cannot wait for another change")
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                future.set_exception(ServerError("server.database", "the server is stopping", "ask it when it runs"))
            else:
                self._queue.put((change, ACTING.get(), future))
        return future

    def write(self, change: Change[T]) -> T:
        """Queue a change and wait until it is committed."""
        return self.submit(change).result()

    def size(self, connection: Transaction) -> int:
        """Inside a query: how many bytes the database has."""
        return self._backend.size(connection)

    def touch(self, word: str) -> None:
        """Inside a change: say what it changed, for `on_commit`."""
        self._touched.add(word)

    def _ask(self, query: Change[T]) -> T:
        with self._backend.reading.begin() as connection:
            return query(connection)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            change, act, future = job
            self._touched.clear()
            try:
                with self._translated():
                    result = self._commit(change, act)
            except BaseException as error:  # noqa: BLE001 (it belongs to the caller, who waits for it)
                future.set_exception(error)
            else:
                if act is not None:
                    act.recorded = True
                if touched := self._uncertain.union(self._touched):
                    self._uncertain = frozenset()
                    self.on_commit(touched)
                future.set_result(result)

    def _commit(self, change: Change[T], act: Act | None) -> T:
        connection, transaction = self._begin()
        try:
            result = change(connection)
            if act is not None and not act.recorded:
                self.record(connection, act)
        except BaseException:
            with contextlib.suppress(DBAPIError):  # on a lost connection there is nothing to roll back
                transaction.rollback()
            raise
        try:
            transaction.commit()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            self._uncertain = self._uncertain.union(self._touched)
            what = "the connection to the database was lost in the midst of a commit: what was asked for may be done"
            raise ServerError("server.database_unreachable", what, "look before you ask for it again") from error
        return result

    def _begin(self) -> tuple[Connection, RootTransaction]:
        """A transaction; when the connection turns out to be lost, on a new one."""
        if self._connection is not None and not self._connection.invalidated:
            try:
                return self._connection, self._connection.begin()
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._connection = self._connect(0)
        return self._connection, self._connection.begin()

    def _connect(self, patience_s: float) -> Connection:
        connection = self._backend.writing.connect()
        try:
            with connection.begin():
                self._backend.claim(connection, patience_s)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What the database itself cannot do now is an error with a code; our own errors pass."""
        try:
            yield
        except PoolTimeout as error:
            raise ServerError("server.database", "too much is read at once", "try again") from error
        except DBAPIError as error:
            if (told := self._backend.told(error)) is None:
                raise
            raise told from error


def inserted_id(result: CursorResult[Any]) -> int:
    """The integer key of the one row that was inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise RuntimeError("nothing was inserted")
    return int(key[0])


def pieces(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in pieces."""
    return (items[first : first + size] for first in range(0, len(items), size))


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inside a change: insert whole rows, in place of those with the same key."""
    of = {"sqlite": sqlite, "postgresql": postgresql}[connection.dialect.name]
    statement = of.insert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=table.primary_key.columns, set_=changed), rows)


def grown(connection: Connection, table: Table) -> None:
    """Inside a change that gave a table many rows: have PostgreSQL plan with them at once, not when it notices; until
    then it would take the table for a small one, and sort what an index has in order."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"ANALYZE {table.name}")


def migrate(engine: Engine) -> None:
    """Apply the migrations that are package data, in one transaction."""
    with engine.begin() as connection:
        _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "beamfleet_server.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
