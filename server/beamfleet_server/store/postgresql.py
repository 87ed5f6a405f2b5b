"""Owns how PostgreSQL is spoken to: sessions for one writer and many readers, the lock that keeps a second server away,
and what a lost connection is told as.

The writer's session holds an advisory lock for as long as it lives, so two servers never write to one database: who
loses its connection loses the lock, and writes nothing before it has it again. Readers see one snapshot each
(REPEATABLE READ READ ONLY). After a connection failed, the next try waits, longer each time."""

import os
import socket
import time
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, InternalError, OperationalError

from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.errors import ServerError

OLDEST = 15
"""The oldest major version that is tested."""
READERS, MORE_READERS = 8, 24
"""Connections for reading that are kept open, and how many more there may be for a while."""
LOCK = int.from_bytes(b"beamflt1", "big")
"""The number of the advisory lock; it counts within one database."""
ASK_AGAIN_S = 0.1
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
CONNECT_S = 10
ENDED = ("57P01", "57P02", "57P03", "57P05", "08")
"""The beginnings of SQLSTATEs after which a connection is of no use."""

ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
"""How soon either end notices that the other one is gone."""
SESSION = (
    *(f"SET tcp_{name} = {value}" for name, value in ALIVE.items() if name.startswith("keepalives")),
    f"SET tcp_user_timeout = {ALIVE['tcp_user_timeout']}",
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET idle_session_timeout = 0",
    "SET jit = off",  # what compiling costs, short statements do not earn
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)
READ_ONLY = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

HINTS = {
    "25006": "it only reads: is it a standby?",
    "42501": "its role must own the database, or have all rights on its schema",
    "53100": "its disk is full",
    "53300": f"raise max_connections: a server uses up to {READERS + MORE_READERS + 1}",
}
"""What to do, by SQLSTATE."""


class Postgresql:
    """The engines of one database."""

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address
        self._again, self._wait_s, self._why = 0.0, 0.0, ""
        url = URL.create(
            "postgresql+psycopg",
            username=address.user or None,
            password=address.password or None,
            host=address.host or None,
            port=address.port,
            database=address.name,
            query=dict(address.options),
        )
        name = f"beamfleet {socket.gethostname()[:32]} {os.getpid()}"
        us: dict[str, Any] = {"application_name": name, "client_encoding": "utf8", **ALIVE}
        us |= {"autocommit": True}  # transactions are begun below, not guessed by the driver
        us |= {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}
        quiet: dict[str, Any] = {"connect_args": us, "hide_parameters": True}
        try:
            self.writing = create_engine(url, poolclass=NullPool, **quiet)
            self.reading = create_engine(url, pool_size=READERS, max_overflow=MORE_READERS, **quiet)
        except ModuleNotFoundError:
            what = "a database on PostgreSQL needs the Python package psycopg"
            raise ServerError("server.settings", what, "pip install 'beamfleet-server[postgresql]'") from None
        for engine, begin in ((self.writing, "BEGIN"), (self.reading, READ_ONLY)):
            self._configure(engine, begin)

    def check(self, connection: Connection) -> None:
        """Whether this is a database for us; error `server.settings`."""
        asked = text("SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')")
        version, encoding = connection.execute(asked).one()
        if version < OLDEST:
            what = f"{self._address} is PostgreSQL {version}"
            raise ServerError("server.settings", what, f"it must be {OLDEST} or newer")
        if encoding != "UTF8":
            what = f"{self._address} keeps its text as {encoding}"
            raise ServerError("server.settings", what, "make one: createdb --template=template0 --encoding=UTF8 NAME")

    def claim(self, connection: Connection, patience_s: float) -> None:
        """Take the lock, which the end of this connection gives back; error `server.database_in_use` when another one
        has held it for `patience_s`: that of a server which was just killed is gone by then."""
        deadline = time.monotonic() + patience_s
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK}):
            if time.monotonic() > deadline:
                holder = connection.scalar(text(HOLDER), {"high": LOCK >> 32, "low": LOCK & 0xFFFFFFFF})
                by = f" ({str(holder)[:80]!r})" if holder else ""
                what = f"another server writes to {self._address}{by}"
                raise ServerError("server.database_in_use", what, "stop it first, or name another database")
            time.sleep(ASK_AGAIN_S)

    def told(self, error: DBAPIError) -> ServerError | None:
        """What the database itself cannot do now; None for a mistake of ours."""
        orig, state = error.orig, _sqlstate(error.orig)
        if isinstance(error, DataError):
            nul = orig is not None and "NUL (0x00)" in str(orig)
            return ServerError("request.schema", "a NUL character cannot be kept in a text") if nul else None
        if not isinstance(error, OperationalError | InternalError | InterfaceError):
            return None
        reason = self._reason(orig)
        if error.connection_invalidated or not state or state.startswith(ENDED):
            what = f"the database {self._address} does not answer: {reason}"
            return ServerError("server.database_unreachable", what, "does it run, and may this server reach it?")
        return ServerError("server.database", f"the database refuses: {reason}", HINTS.get(state, "see its log"))

    def size(self, connection: Connection) -> int:
        """All of this database, also what is not ours."""
        size: int = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
        return size

    def _configure(self, engine: Engine, begin: str) -> None:
        @event.listens_for(engine, "do_connect")
        def connect(dialect: Any, _: Any, words: Any, options: Any) -> Any:
            if time.monotonic() < self._again:
                what = f"the database {self._address} does not answer: {self._why}"
                raise ServerError("server.database_unreachable", what, "it is tried again within seconds")
            try:
                connection = dialect.connect(*words, **options)
            except dialect.loaded_dbapi.OperationalError as error:
                self._why = self._reason(error)
                self._wait_s = min(max(FIRST_WAIT_S, 2 * self._wait_s), LONGEST_WAIT_S)
                self._again = time.monotonic() + self._wait_s
                raise
            self._wait_s = 0.0
            return connection

        @event.listens_for(engine, "connect")
        def connected(connection: Any, _: Any) -> None:
            connection.execute("; ".join(SESSION))

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            connection.execute(text(begin))

        @event.listens_for(engine, "handle_error")
        def failed(context: Any) -> None:
            if _sqlstate(context.original_exception).startswith(ENDED):
                context.is_disconnect = True

    def _reason(self, error: object) -> str:
        """One line of what the database or the driver says."""
        said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
        line = " ".join(said.split())[:300]
        return line.replace(self._address.password, "***") if self._address.password else line


HOLDER = """
SELECT session.application_name FROM pg_locks AS lock JOIN pg_stat_activity AS session USING (pid)
WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
AND lock.classid::bigint = :high AND lock.objid::bigint = :low AND session.datname = current_database()
LIMIT 1
"""


def _sqlstate(error: object) -> str:
    return getattr(error, "sqlstate", None) or ""
