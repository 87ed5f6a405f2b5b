"""A database that the first version made is brought up to date with everything in it, and makes no difference then."""

import hashlib
import json
import sqlite3
import time
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from beamfleet_server.ca import Certificate
from beamfleet_server.store import Store
from beamfleet_server.store.tables import metadata
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.schema import CreateTable

from tests.support.refusal import refusal

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


SAID = {
    "inventory": {"arch": "x86_64", "libc": "glibc", "hardware": "rpi4", "agent": "0.1.0"},
    "update": {"phase": "staged", "manifest": "aa", "attempt": 1, "reason": "hook.busy", "detail": "later"},
    "failed": "cc:3:crash",
}


def configuration(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", "beamfleet_server.store:migrations")
    config.attributes["connection"] = connection
    return config


def made_by_the_first_version(path: Path) -> None:
    made_at(path, "0001", FIRST)


def made_at(path: Path, revision: str, rows: str) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(configuration(connection), revision)
    engine.dispose()
    database = sqlite3.connect(path)
    database.executescript(rows)
    database.commit()
    database.close()


FOURTH = f"""
insert into devices (id, name, enrolled, agent, profile, session, online, offline_reason) values
    (1, 'gw-1', 7, '', '', 0, 0, ''), (2, 'gw-2', 7, '', '', 0, 0, ''), (3, 'gw-3', 7, '', '', 0, 0, '');
insert into applications (device_id, app, state_boot, state_seq, acked_boot, acked_seq, sequence, product, version,
    manifest, phase, attempt, state) values
    (1, 'main', 1, 1, 1, 1, 0, 'p', '1.0', 'aa', 'committed', 1, '{json.dumps(SAID)}'),
    (2, 'main', 0, -1, 0, -1, 0, '', '', '', '', 0, null), (3, 'main', 0, -1, 0, -1, 0, '', '', '', '', 0, null);
insert into bundles (id, product, version, target, counter, manifest, manifest_size, pack_size, pack_sha256, unpacked,
    "release", created) values (1, 'p', '1.0', 't', 1, 'aa', 1, 2, 'bb', 3, '{{}}', 4);
insert into assignments (device_id, app, sequence, attempt, bundle_id, created, publication, body)
    values (1, 'main', 5, 1, 1, 6, 7, x'00');
insert into rollouts (id, product, version, selector, canary, note, state, phase, reason, created, finished) values
    (1, 'p', '1.0', 'ring=a,site=berlin', 2, 'first', 'running', 'canary', '', 10, null),
    (2, 'p', '1.0', '', 1, '', 'halted', 'rest', 'gw-2 reverted', 20, 30),
    (3, 'p', '1.0', '', 0, '', 'completed', 'done', '', 40, 50);
insert into rollout_devices (rollout_id, device_id, bundle_id, attempt, state, canary, offered, reason, updated) values
    (1, 1, 1, 1, 'verified', 1, 1, '', 11), (1, 2, null, 1, 'pending', 0, 0, '', 12),
    (2, 1, 1, 2, 'committed', 1, 1, '', 21), (2, 2, 1, 2, 'reverted', 0, 1, 'crash', 22);
insert into approvals (id, plan, devices, asked_by, created, expires, state, decided_by) values (1,
    '{{"product": "p", "version": "1.0", "selector": "site=berlin", "canary": 1, "note": ""}}',
    3, 'a', 1, 2, 'pending', '');
"""  # noqa: S608 (nothing of it comes from outside)


def unsigned(_: str) -> Certificate:
    raise AssertionError("nothing is signed here")


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
    (token,) = store.tokens.page(None, 9)
    assert (token.device, token.uses, token.uses_left, token.used) == ("gw-1", 1, 0, 1)
    assert store.enrolment.use_token("gw-1", "t", "k", unsigned, 1) == b"\0", "a lost answer is given again"
    assert refusal(store.enrolment.use_token, "gw-1", "t", "another", unsigned, 1) == "token.used"
    assert store.enrolment.holder("ab", b"\0") is None
    store.authorities.begin("first", b"", 1)
    assert store.enrolment.holder("ab", b"\0"), "what there was is of the first authority"
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


def test_rollouts_that_run_or_have_ended_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "beamfleet.db"
    made_at(path, "0004", FOURTH)
    store = Store(path, lambda _: b"")
    store.open()
    store.close()
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    rollouts = {row["id"]: dict(row) for row in database.execute("select * from rollouts")}
    plans = [json.loads(row["plan"]) for row in rollouts.values()]
    rest = {"name": "rest", "devices": "all", "failures": 0}
    assert plans[0]["phases"] == [{"name": "canary", "devices": 2, "failures": 0}, rest]
    assert plans[0]["devices"] == {"labels": {"ring": ["a"], "site": ["berlin"]}}
    assert (plans[1]["devices"], plans[2]["phases"]) == ({"all": True}, [rest])
    assert [(row["state"], row["phase"], row["reason"], row["finished"]) for row in rollouts.values()] == [
        ("running", 0, "", None),
        ("halted", 1, "gw-2 reverted", 30),
        ("completed", 0, "", 50),
    ]
    assert rollouts[1]["expires"] > time.time(), "what runs goes on"
    assert rollouts[3]["expires"] == 50, "nobody joins what was over before there was joining late"
    members = {
        (row["rollout_id"], row["device_id"]): dict(row) for row in database.execute("select * from rollout_devices")
    }
    told = {key: (row["state"], row["phase"], row["offered_at"], row["evidence"]) for key, row in members.items()}
    assert told == {
        (1, 1): ("verifying", 0, 11, 0),
        (1, 2): ("pending", None, None, 0),
        (2, 1): ("committed", 0, 21, 0),
        (2, 2): ("reverted", 1, 22, 1),
    }
    assert {key for key, row in members.items() if row["heard"]} == {(2, 1), (2, 2)}, "who joined it last"
    report = dict(database.execute("select * from applications where device_id = 1").fetchone())
    assert {name: report[name] for name in ("arch", "libc", "hardware", "timezone", "network")} == {
        "arch": "x86_64",
        "libc": "glibc",
        "hardware": "rpi4",
        "timezone": "",
        "network": "",
    }
    assert [report[f"update_{name}"] for name in ("phase", "manifest", "attempt", "reason", "detail")] == [
        "staged",
        "aa",
        1,
        "hook.busy",
        "later",
    ]
    assert (report["failed_slot"], report["failed_attempt"], report["failed_cause"]) == ("cc", 3, "crash")
    assert database.execute("select publication, force from assignments").fetchall()[0][:] == (7, 0)
    lots = [row[0] for row in database.execute("select lot from devices order by name")]
    digests = [hashlib.sha256(name.encode()).digest() for name in ("gw-1", "gw-2", "gw-3")]
    assert lots == [int.from_bytes(digest[:4], "big") % (2**31 - 1) for digest in digests]
    wish = json.loads(database.execute("select plan from approvals").fetchone()[0])
    assert (wish["product"], wish["devices"]) == ("p", {"labels": {"site": ["berlin"]}})
    database.close()


def test_migrations_are_one_line_and_the_tables_are_also_postgresqls() -> None:
    script = ScriptDirectory.from_config(configuration(None))
    assert len(script.get_heads()) == 1
    revisions = [each.revision for each in script.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    for table in metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=PGDialect()))  # type: ignore[no-untyped-call]
