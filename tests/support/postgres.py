"""A private PostgreSQL of a test session: a cluster of its own in a temporary directory, and a fresh database for each
test. It may forget everything at a power cut (fsync is off), and runs as somebody without rights."""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.store.database import Database
from sqlalchemy import URL, Engine, create_engine

from tests.support.server import eventually

Place = Path | DatabaseAddress
BOTH = ("sqlite", pytest.param("postgresql", marks=pytest.mark.suite(name="rollout")))
"""Parameters of a fixture: both databases, the second one only in its suite."""
USER = "beamfleet"
PASSWORD = "p/w:of@the%test"
LOCALE = ("--locale=C", "--lc-ctype=C.UTF-8", "--encoding=UTF8")
FORGETFUL = ("fsync=off", "full_page_writes=off", "shared_buffers=64MB", "max_wal_size=2GB", "autovacuum_naptime=10s")
START_S = 60
TEMPLATE = "migrated"
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
CLEAR = """
DO $$
DECLARE each name;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', each);
    END LOOP;
    FOR each IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER SEQUENCE %I RESTART', each);
    END LOOP;
END $$
"""
"""Empties all tables, whatever refers to what, and has numbers begin at 1 again."""


class Cluster:
    """A PostgreSQL server of its own. `start` it, take a `database`, `end` it."""

    def __init__(self, *, settings: tuple[str, ...] = FORGETFUL) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="beamfleet-pg-", dir="/tmp"))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._who = _nobody()
        self._numbers = itertools.count(1)
        self._templates: set[str] = set()
        self._cleared: list[DatabaseAddress] = []
        self.port = _free_port()
        self.log = self._home / "log"

    def start(self) -> None:
        """Make the cluster if there is none yet, and have it answer."""
        data = self._home / "data"
        if not data.exists():
            if self._who:
                os.chown(self._home, self._who["user"], self._who["group"])
            secret = self._home / "password"
            secret.write_text(PASSWORD)
            secret.chmod(0o644)
            words = ("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}", "--no-sync", *LOCALE)
            self._run("initdb", f"--pgdata={data}", f"--username={USER}", *words)
        settings = [word for setting in self._settings for word in ("-c", setting)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", data, "-k", self._home, *self._listening(), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
                **self._who,
            )
        eventually("PostgreSQL", self._answers, START_S)

    def stop(self, kind: signal.Signals = signal.SIGINT) -> None:
        """End it: at once (SIGINT), as in a crash (SIGQUIT)."""
        assert self._process is not None
        self._process.send_signal(kind)
        self._process.wait(START_S)
        self._process = None

    def end(self) -> None:
        """End it, and remove all that it kept."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def address(self, name: str, *, tcp: bool = False) -> DatabaseAddress:
        """Where a database is: at the Unix socket, which asks for no password, or on loopback, which does."""
        if tcp:
            return DatabaseAddress(name, USER, PASSWORD, "127.0.0.1", self.port)
        return DatabaseAddress(name, USER, port=self.port, options=(("host", str(self._home)),))

    def empty(self) -> DatabaseAddress:
        """A new database without any table."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.address(name)

    def database(self) -> DatabaseAddress:
        """A database with all tables and nothing in them."""
        if self._cleared:
            return self._cleared.pop()
        if TEMPLATE not in self._templates:
            self.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
            database = Database(self.address(TEMPLATE))
            database.open()
            database.close()
            self._templates.add(TEMPLATE)
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.address(name)

    def drop(self, address: DatabaseAddress) -> None:
        """Remove a database, and end whoever uses it."""
        self.execute(f"DROP DATABASE {address.name} WITH (FORCE)")

    def clear(self, address: DatabaseAddress) -> None:
        """Keep a database for the next test: that is much faster than making one."""
        self.execute(END_SESSIONS.format(name=address.name))
        self.execute(CLEAR, address.name)
        self._cleared.append(address)

    def execute(self, statement: str, name: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement by hand; its rows."""
        with contextlib.closing(self.connect(name)) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def connect(self, name: str) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection by hand."""
        return psycopg.connect(dbname=name, user=USER, host=str(self._home), port=self.port, autocommit=True)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _listening(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port))

    def _run(self, program: str, *words: str) -> None:
        words = (_program(program), *words)
        done = subprocess.run(words, capture_output=True, text=True, cwd=self._home, **self._who)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Shared: whoever stops it makes one of their own."""
    with running_cluster() as made:
        yield made


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster that answers, and is gone at the end."""
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.fixture(params=BOTH)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a store may be: a test that uses it runs on SQLite in `./dev test`, on PostgreSQL in its suite."""
    with placed(request, tmp_path) as made:
        yield made


@contextlib.contextmanager
def placed(request: pytest.FixtureRequest, work: Path) -> Iterator[Place]:
    """The same for a fixture of another scope, which has `BOTH` as its parameters."""
    if request.param == "sqlite":
        yield work / "beamfleet.db"
        return
    of_session: Cluster = request.getfixturevalue("cluster")
    address = of_session.database()
    try:
        yield address
    finally:
        of_session.clear(address)


def named(place: Place) -> dict[str, object]:
    """The settings that lead a server there."""
    return {} if isinstance(place, Path) else {"database": place}


def engine_of(place: Place) -> Engine:
    """A way into a database beside the server's, without its rules."""
    if isinstance(place, Path):
        return create_engine(URL.create("sqlite", database=str(place)))
    url = URL.create("postgresql+psycopg", place.user, None, None, place.port, place.name, dict(place.options))
    return create_engine(url)


def _program(name: str) -> str:
    """Debian keeps them off PATH, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    program = str(found[-1]) if found else shutil.which(name)
    assert program, f"there is no {name}: apt install postgresql"
    return program


def _nobody() -> dict[str, Any]:
    """Root may not run PostgreSQL: then it is somebody without rights."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
