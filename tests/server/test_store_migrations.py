"""A database that the first version made is brought up to date with everything in it, and makes no difference then."""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from beamfleet_server.store import Store
from beamfleet_server.store.tables import metadata
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.schema import CreateTable

FIRST = """
insert into operators (name, role, token_sha256, created, expires) values ('admin', 'admin', 'hash-a', 5, null);
insert into operators (name, role, token_sha256, created, expires) values ('anna', 'viewer', 'hash-b', 6, 9000000000);
insert into devices (id, name, enrolled, session, online, offline_reason, agent, profile)
    values (1, 'gw-1', 7, 0, 0, '', '', '');
insert into applications (device_id, app, state_boot, state_seq, acked_boot, acked_seq, sequence, product, version,
    manifest, phase, attempt) values (1, 'main', -1, -1, -1, -1, 0, '', '', '', '', 0);
insert into certificates (id, serial, device_id, not_before, not_after, revoked, der)
    values (1, 'ab', 1, 0, 9000000000, null, x'00');
insert into tokens (sha256, device, labels, "replace", created, expires, used, key_sha256, certificate_id)
    values ('t', 'gw-1', '{}', 0, 1, 2, 1, 'k', 1);
insert into labels (device_id, key, value) values (1, 'site', 'berlin');
insert into events (time, device_id, kind, cause, detail, data) values (7, 1, 'enrolled', 'token', '', '{}');
"""


def configuration(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", "beamfleet_server.store:migrations")
    config.attributes["connection"] = connection
    return config


def made_by_the_first_version(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(configuration(connection), "0001")
    engine.dispose()
    database = sqlite3.connect(path)
    database.executescript(FIRST)
    database.commit()
    database.close()


def test_a_database_of_the_first_version_keeps_everything_and_gains_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "beamfleet.db"
    made_by_the_first_version(path)
    store = Store(path, lambda _: b"")
    store.open()
    admin, anna = store.operators.find("hash-a"), store.operators.find("hash-b")
    assert admin is not None
    assert anna is not None
    assert (admin.role, admin.scopes, anna.role, anna.expires) == ("admin", frozenset(), "viewer", 9_000_000_000)
    assert store.devices.find("gw-1").labels == {"site": "berlin"}
    assert store.enrolment.device_of("ab") == "gw-1"
    assert [event.cause for event in store.events.after(0, 9)] == ["token"]
    store.devices.remove("gw-1", 8)
    assert store.gate.serials(8) == {"ab": 8}
    assert store.enrolment.device_of("ab") is None
    store.close()


def test_what_migrations_make_of_it_is_what_a_new_database_is(tmp_path: Path) -> None:
    path = tmp_path / "beamfleet.db"
    made_by_the_first_version(path)
    store = Store(path, lambda _: b"")
    store.open()
    store.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_migrations_are_one_line_and_the_tables_are_also_postgresqls() -> None:
    script = ScriptDirectory.from_config(configuration(None))
    assert len(script.get_heads()) == 1
    revisions = [each.revision for each in script.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    for table in metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=PGDialect()))  # type: ignore[no-untyped-call]
