"""The same server on PostgreSQL: one writer, lost connections, passwords that nobody sees, and a device over MQTT."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.errors import ServerError
from beamfleet_server.settings import load
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import facts
from sqlalchemy import Connection, func, insert, select, text

from tests.server.conftest import PRODUCT, open_centre
from tests.server.test_secrets import command_lines
from tests.support.mqtt_device import committed
from tests.support.postgres import END_SESSIONS, PASSWORD, Cluster, running_cluster
from tests.support.refusal import refusal
from tests.support.server import Server, eventually, running_server

pytestmark = [pytest.mark.suite(name="rollout")]

ESCAPED = "p%2Fw%3Aof%40the%25test"


@pytest.fixture
def address(cluster: Cluster) -> Iterator[DatabaseAddress]:
    made = cluster.database()
    yield made
    cluster.clear(made)


@pytest.fixture
def database(address: DatabaseAddress) -> Iterator[Database]:
    opened = Database(address)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    with running_cluster() as made:
        yield made


def keep(key: str, connection: Connection) -> None:
    connection.execute(insert(facts).values(key=key, value="x"))


def keys(database: Database) -> set[str]:
    return database.read(lambda connection: set(connection.scalars(select(facts.c.key))))


def end_sessions(cluster: Cluster, address: DatabaseAddress) -> None:
    """What the end of the network is to both sides."""
    cluster.execute(END_SESSIONS.format(name=address.name))


def test_a_second_writer_is_refused_and_told_who_writes(database: Database, address: DatabaseAddress) -> None:
    with pytest.raises(ServerError, match="beamfleet") as caught:
        Database(address).open()
    assert caught.value.code == "server.database_in_use"
    database.close()
    second = Database(address)
    second.open()
    second.close()


def test_lost_connections_are_made_again_without_a_word(
    cluster: Cluster, database: Database, address: DatabaseAddress
) -> None:
    database.write(partial(keep, "before"))
    assert keys(database) == {"before"}
    end_sessions(cluster, address)
    database.write(partial(keep, "after"))
    assert keys(database) == {"before", "after"}
    assert refusal(Database(address).open) == "server.database_in_use", "the lock came back with the connection"


def test_a_connection_that_is_lost_in_the_midst_of_a_change_is_told_and_nothing_is_kept(
    cluster: Cluster, database: Database, address: DatabaseAddress
) -> None:
    def change(connection: Connection) -> None:
        keep("half", connection)
        end_sessions(cluster, address)
        keep("more", connection)

    assert refusal(database.write, change) == "server.database_unreachable"
    database.write(partial(keep, "next"))
    assert keys(database) == {"next"}


def test_what_was_touched_in_a_commit_that_nobody_answered_is_told_with_the_next_one(
    cluster: Cluster, database: Database, address: DatabaseAddress
) -> None:
    told: list[frozenset[str]] = []
    database.on_commit = told.append

    def change(connection: Connection) -> None:
        database.touch("events")
        keep("unsure", connection)
        end_sessions(cluster, address)

    with pytest.raises(ServerError, match="commit") as caught:
        database.write(change)
    assert caught.value.code == "server.database_unreachable"
    assert told == []
    database.write(partial(keep, "sure"))
    assert told == [frozenset({"events"})]


def test_who_lost_the_lock_to_another_server_writes_nothing(
    cluster: Cluster, database: Database, address: DatabaseAddress
) -> None:
    end_sessions(cluster, address)
    other = Database(address)
    other.open()
    assert refusal(database.write, partial(keep, "ours")) == "server.database_in_use"
    assert keys(database) == set()
    other.close()
    database.write(partial(keep, "ours"))
    assert keys(database) == {"ours"}


def test_a_database_that_is_away_is_told_at_once_and_used_again_when_it_is_back(own_cluster: Cluster) -> None:
    database = Database(own_cluster.database())
    database.open()
    with contextlib.closing(database):
        database.write(partial(keep, "acknowledged"))
        own_cluster.stop(signal.SIGQUIT)
        for attempt in range(20):
            assert refusal(database.write, partial(keep, f"lost-{attempt}")) == "server.database_unreachable"
            assert refusal(database.read, lambda _: None) == "server.database_unreachable"
        own_cluster.start()
        eventually("the database", lambda: refusal(database.write, partial(keep, "back")) in ("", None), 30)
        assert keys(database) == {"acknowledged", "back"}


def test_a_reader_sees_one_snapshot_and_delays_no_writer(database: Database) -> None:
    begun, written = threading.Event(), threading.Event()
    counts: list[int] = []

    def query(connection: Connection) -> None:
        count = select(func.count()).select_from(facts)
        counts.append(connection.scalar(count) or 0)
        begun.set()
        assert written.wait(30)
        counts.append(connection.scalar(count) or 0)

    reader = threading.Thread(target=database.read, args=(query,))
    reader.start()
    assert begun.wait(30)
    database.write(partial(keep, "meanwhile"))
    written.set()
    reader.join()
    assert counts == [0, 0]
    assert keys(database) == {"meanwhile"}


def test_the_writer_commits_to_the_disk_also_where_the_role_would_not(cluster: Cluster) -> None:
    address = cluster.empty()
    cluster.execute(f"ALTER DATABASE {address.name} SET synchronous_commit = off")
    cluster.execute(f"ALTER DATABASE {address.name} SET statement_timeout = 5000")
    database = Database(address)
    database.open()
    shown = [
        database.write(lambda connection, query=query: connection.scalar(query))  # type: ignore[misc]
        for query in (text("SHOW synchronous_commit"), text("SHOW statement_timeout"))
    ]
    database.close()
    cluster.drop(address)
    assert shown == ["on", "0"]


def test_texts_are_compared_by_their_bytes_whatever_the_locale(cluster: Cluster) -> None:
    address = cluster.empty()
    cluster.execute('CREATE COLLATION other FROM "C.utf8"; CREATE TABLE mine (name varchar)', address.name)
    database = Database(address)
    database.open()
    query = (
        "SELECT count(*) FILTER (WHERE collation_name = 'C'), count(*) FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'character varying' AND table_name <> 'alembic_version'"
    )
    with_c, texts = cluster.execute(query, address.name)[0]
    database.close()
    cluster.drop(address)
    assert texts - with_c == 1, "the one of a table that is not ours"


def test_a_database_that_is_none_for_us_is_refused_at_the_start(cluster: Cluster) -> None:
    cluster.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    assert refusal(Database(cluster.address("latin")).open) == "server.settings"
    assert refusal(Database(cluster.address("nowhere")).open) == "server.database_unreachable"


def test_a_nul_character_is_refused_and_nothing_breaks(database: Database) -> None:
    assert refusal(database.write, partial(keep, "a\0b")) == "request.schema"
    database.write(partial(keep, "next"))


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://anna:{PASSWORD}@127.0.0.1/fleet",
        "postgresql://anna:secret@127.0.0.1",
        "postgresql://anna:secret@127.0.0.1/fleet?password=secret",
        "postgresql://anna:sec#ret@127.0.0.1/fleet",
        "mysql://anna:secret@127.0.0.1/fleet",
        "postgresql://anna:secret@127.0.0.1:99999/fleet",
        "postgresql://anna:secret@127.0.0.1/fleet?secret",
    ],
)
def test_an_address_that_cannot_be_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BEAMFLEET_DATABASE", text)
    with pytest.raises(ServerError) as caught:
        load()
    assert caught.value.code == "server.settings"
    assert "BEAMFLEET_DATABASE" in caught.value.message
    shown = f"{caught.value.message} {caught.value.hint}"
    assert not any(part in shown for part in ("secret", PASSWORD, "sec#", "anna"))


def test_a_password_is_taken_from_where_only_its_owner_reads_it(tmp_path: Path) -> None:
    address = "postgresql://anna:secret@127.0.0.1/fleet"
    assert refusal(load, {"database": address}) == "server.settings", "everybody sees command lines"
    file = tmp_path / "settings.toml"
    file.write_text(f'database = "{address}"\n')
    file.chmod(0o644)
    assert refusal(load, {}, file) == "server.settings"
    file.chmod(0o640)
    settings = load({}, file).settings
    assert settings.database == DatabaseAddress("fleet", "anna", "secret", "127.0.0.1")
    secret = tmp_path / "password"
    secret.write_text("of-a-file\n")
    given = {"database": "postgresql://anna@127.0.0.1/fleet", "database_password_file": secret}
    configuration = load(given)
    assert configuration.settings.database is not None
    assert configuration.settings.database.password == "of-a-file"
    assert "of-a-file" not in f"{configuration!r} {configuration.described()} {configuration.settings}"


def test_a_server_on_postgresql_takes_a_device_and_shows_nobody_its_password(
    own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = own_cluster.address(own_cluster.database().name, tcp=True)
    file = tmp_path / "settings.toml"
    file.write_text(f'database = "{address}"\n'.replace("***", ESCAPED))
    file.chmod(0o600)
    data = tmp_path / "server"
    data.mkdir()
    file.rename(data / "beamfleet-server.toml")
    with running_server(data, log_level="debug", log_format="json") as server:
        centre = open_centre(tmp_path, server)
        centre.author.publish(PRODUCT, "1.0.0")
        device = centre.device("gw-1")
        device.acknowledged(device.report())
        rollout = server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True})["id"]
        offer = device.wait_for_offer()
        assert server.get(f"/rollouts/{rollout}")["state"] == "running"
        second = Server(tmp_path / "second", database=own_cluster.address(address.name)).attempt()
        assert second.returncode == 1
        assert "server.database_in_use" in second.stderr

        own_cluster.stop(signal.SIGQUIT)
        answer = server.api("GET", "/devices")
        assert (answer.status_code, answer.json()["code"]) == (503, "server.database_unreachable")
        manifest = next(iter(offer["targets"].values()))["hashes"]["sha256"]
        number = device.report(**committed(manifest))
        own_cluster.start()
        device.acknowledged(number)
        eventually("the end", lambda: server.get(f"/rollouts/{rollout}")["state"] == "completed")
        server.kill()
        server.start()
        assert server.get(f"/rollouts/{rollout}")["state"] == "completed"
        shown = command_lines(server.pid) + server.log.read_bytes() + str(server.get("/config")).encode()
        device.close()
    assert not (data / "beamfleet.db").exists()
    assert [word for word in (PASSWORD, ESCAPED) if word.encode() in shown] == []
