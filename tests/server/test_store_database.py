"""The database: migrations, one writer, readers that see whole transactions."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database, migrate
from beamfleet_server.store.tables import facts, metadata
from sqlalchemy import Connection, create_engine, func, insert, select


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "beamfleet.db")
    opened.open()
    yield opened
    opened.close()


def keep(key: str, connection: Connection) -> None:
    connection.execute(insert(facts).values(key=key, value="x"))


def test_the_migrations_make_exactly_the_tables_that_the_code_knows() -> None:
    engine = create_engine("sqlite://")
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_an_existing_database_is_opened_again(tmp_path: Path) -> None:
    for number in range(2):
        database = Database(tmp_path / "beamfleet.db")
        database.open()
        database.write(partial(keep, f"key-{number}"))
        assert (
            database.read(lambda connection: connection.scalar(select(func.count()).select_from(facts))) == number + 1
        )
        database.close()


def test_a_change_that_fails_is_rolled_back_and_the_next_one_runs(database: Database) -> None:
    def half(connection: Connection) -> None:
        connection.execute(insert(facts).values(key="half", value="x"))
        raise ServerError("device.exists", "no")

    with pytest.raises(ServerError, match="no"):
        database.write(half)
    assert database.read(lambda connection: connection.scalar(select(func.count()).select_from(facts))) == 0
    database.write(lambda connection: connection.execute(insert(facts).values(key="whole", value="x")))
    assert database.read(lambda connection: connection.scalar(select(facts.c.key))) == "whole"


def test_changes_from_many_threads_never_overlap(database: Database) -> None:
    database.write(lambda connection: connection.execute(insert(facts).values(key="n", value="0")))

    def add_one(_: int) -> None:
        def change(connection: Connection) -> None:
            value = connection.execute(select(facts.c.value).where(facts.c.key == "n")).scalar_one()
            connection.execute(facts.update().where(facts.c.key == "n").values(value=str(int(value) + 1)))

        database.write(change)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(add_one, range(200)))
    assert database.read(lambda connection: connection.scalar(select(facts.c.value))) == "200"


def test_a_reader_cannot_change_anything(database: Database) -> None:
    with pytest.raises(ServerError) as caught:
        database.read(lambda connection: connection.execute(insert(facts).values(key="x", value="x")))
    assert caught.value.code == "server.database"


def test_a_commit_tells_what_it_touched_and_a_rollback_does_not(database: Database) -> None:
    told: list[frozenset[str]] = []
    database.on_commit = told.append

    def change(_: object, fail: bool) -> None:
        database.touch("events")
        if fail:
            raise ServerError("device.exists", "no")

    with pytest.raises(ServerError):
        database.write(lambda connection: change(connection, True))
    database.write(lambda _: None)
    database.write(lambda connection: change(connection, False))
    assert told == [frozenset({"events"})]


def test_a_change_cannot_wait_for_another_one(database: Database) -> None:
    with pytest.raises(RuntimeError):
        database.write(lambda _: database.write(lambda _: None))


def test_what_was_queued_is_committed_before_it_closes(tmp_path: Path) -> None:
    database = Database(tmp_path / "beamfleet.db")
    database.open()
    begin = threading.Event()
    database.submit(lambda _: begin.wait(10))
    for number in range(10):
        database.submit(partial(keep, f"key-{number}"))
    begin.set()
    database.close()
    with sqlite3.connect(tmp_path / "beamfleet.db") as connection:
        assert connection.execute("select count(*) from facts").fetchone() == (10,)
    connection.close()


WRITER = """
import sys
from pathlib import Path
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import facts
database = Database(Path(sys.argv[1]))
database.open()
number = 0
while True:
    database.write(lambda connection: connection.execute(facts.insert().values(key=f"key-{number:06}", value="x")))
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "beamfleet.db"
    acknowledged = -1
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged == 100:
                os.kill(writer.pid, signal.SIGKILL)
    database = Database(path)
    database.open()
    count = database.read(lambda connection: connection.scalar(select(func.count()).select_from(facts)))
    database.close()
    assert count is not None
    assert count >= acknowledged + 1
