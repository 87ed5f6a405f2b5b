"""The database: migrations, one writer, readers that see whole transactions."""

import os
import signal
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
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import facts, metadata
from sqlalchemy import Connection, func, insert, select

from tests.support.postgres import Place, engine_of


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    opened = Database(place)
    opened.open()
    yield opened
    opened.close()


def keep(key: str, connection: Connection) -> None:
    connection.execute(insert(facts).values(key=key, value="x"))


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(place: Place) -> None:
    database = Database(place)
    database.open()
    database.close()
    engine = engine_of(place)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_an_existing_database_is_opened_again(place: Place) -> None:
    for number in range(2):
        database = Database(place)
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


def test_what_was_queued_is_committed_before_it_closes(place: Place) -> None:
    database = Database(place)
    database.open()
    begin = threading.Event()
    database.submit(lambda _: begin.wait(10))
    for number in range(10):
        database.submit(partial(keep, f"key-{number}"))
    begin.set()
    database.close()
    engine = engine_of(place)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(facts)) == 10
    engine.dispose()


def test_a_change_that_comes_after_the_end_is_refused_and_does_not_wait_for_ever(database: Database) -> None:
    database.close()
    with pytest.raises(ServerError, match="stopping"):
        database.submit(partial(keep, "late")).result(10)


WRITER = """
import sys
from pathlib import Path
from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import facts
name, user, port, host = sys.argv[1:]
database = Database(DatabaseAddress(name, user, port=int(port), options=(("host", host),)) if user else Path(name))
database.open()
number = 0
while True:
    database.write(lambda connection: connection.execute(facts.insert().values(key=f"key-{number:06}", value="x")))
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_is_there_after_a_kill(place: Place) -> None:
    acknowledged = -1
    words = [str(place), "", "", ""] if isinstance(place, Path) else [place.name, place.user, str(place.port)]
    words += [] if isinstance(place, Path) else [dict(place.options)["host"]]
    with subprocess.Popen([sys.executable, "-c", WRITER, *words], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged == 100:
                os.kill(writer.pid, signal.SIGKILL)
    database = Database(place)
    database.open()
    count = database.read(lambda connection: connection.scalar(select(func.count()).select_from(facts)))
    database.close()
    assert count is not None
    assert count >= acknowledged + 1
