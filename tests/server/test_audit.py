"""The audit chain: what is in it, that a change and its entry are one, and that no change of the table goes unseen."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.audit import GENESIS, LONGEST, Entry, check, link
from beamfleet_server.errors import ServerError
from beamfleet_server.store.acts import ACTING, Act
from hypothesis import given
from hypothesis import strategies as st

from tests.server.conftest import Centre
from tests.support.fleet_store import FleetStore
from tests.support.postgres import Place
from tests.support.server import running_server


def chain(count: int) -> list[Entry]:
    made: list[Entry] = []
    before = GENESIS
    for number in range(1, count + 1):
        entry = Entry(number, 1_800_000_000 + number, "anna", "10.0.0.1", "devices.label", f"gw-{number}", "ok", "a=b")
        before = link(before, entry)
        made.append(replace(entry, hash=before.hex()))
    return made


def made_anew(entries: list[Entry]) -> list[Entry]:
    """The same entries with hashes and numbers that fit together again."""
    again, before = [], GENESIS
    for number, entry in enumerate(entries, 1):
        renumbered = replace(entry, id=number)
        before = link(before, renumbered)
        again.append(replace(renumbered, hash=before.hex()))
    return again


def test_a_chain_that_nobody_touched_holds() -> None:
    verdict = check(chain(20))
    assert (verdict.entries, verdict.last, verdict.finding) == (20, 20, "")
    assert check([]).finding == ""


@pytest.mark.parametrize("field", ["time", "actor", "address", "action", "target", "outcome", "detail"])
def test_an_altered_entry_is_found(field: str) -> None:
    entries = chain(5)
    other: Any = getattr(entries[2], field)
    changed: Any = {field: other + 1 if isinstance(other, int) else other + "x"}
    entries[2] = replace(entries[2], **changed)
    assert check(entries).finding.startswith("entry 3 was altered")


@given(st.integers(2, 8), st.data())
def test_removing_exchanging_or_inserting_entries_is_found(count: int, data: st.DataObject) -> None:
    entries = chain(count)
    place = data.draw(st.integers(0, count - 2))
    for spoilt in (
        entries[:place] + entries[place + 1 :],
        [*entries[:place], entries[place + 1], entries[place], *entries[place + 2 :]],
        [*entries[: place + 1], entries[place], *entries[place + 1 :]],
    ):
        assert check(spoilt).finding


def test_a_chain_made_anew_or_cut_short_is_found_by_whoever_has_looked_before() -> None:
    entries = chain(6)
    known = {4: entries[3].hash}
    assert check(entries, known=known).finding == ""
    forged = made_anew([*entries[:1], *entries[2:]])
    assert check(forged).finding == "", "consistent in itself"
    assert "made anew" in check(forged, known=known).finding
    assert "is gone" in check(entries[:3], known=known).finding


def test_a_change_is_kept_together_with_its_entry_or_not_at_all(tmp_path: Path, place: Place) -> None:
    fleet = FleetStore(tmp_path, place)
    fleet.enrol("gw-1")
    ACTING.set(Act("anna", "::1", "devices.label", "gw-1"))
    fleet.store.devices.set_labels("gw-1", {"site": "berlin"})
    fleet.store.devices.set_labels("gw-1", {"rack": "7"})
    ACTING.set(Act("anna", "::1", "devices.label", "gw-2"))
    with pytest.raises(ServerError):
        fleet.store.devices.set_labels("gw-2", {"site": "berlin"})
    ACTING.set(None)
    fleet.store.devices.set_labels("gw-1", {"site": None})
    assert [(entry.target, entry.outcome) for entry in fleet.store.audit.after(0, 9)] == [("gw-1", "ok")]
    fleet.close()


def test_an_entry_stays_small_whatever_is_said(tmp_path: Path, place: Place) -> None:
    fleet = FleetStore(tmp_path, place)
    fleet.store.audit.append(Act("a" * 9999, "b" * 9999, "c" * 9999, "\x1b[31m\ud800" * 9999, "\u202e" * 9999), "x")
    (entry,) = fleet.store.audit.after(0, 9)
    assert all(len(getattr(entry, name)) <= limit for name, limit in LONGEST.items())
    assert check([entry]).finding == ""
    fleet.close()


def entries_of(centre: Centre) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = centre.server.get("/audit?newest=true&limit=1000")["items"]
    return items


def test_changes_and_refusals_of_operators_and_devices_are_in_the_chain(centre: Centre) -> None:
    centre.server.enrol("audited-1", centre.work, labels={"site": "x"})
    centre.server.api("PATCH", "/devices/audited-1", json={"labels": {"site": None, "rack": "\x1b[2J"}})
    centre.server.api("PATCH", "/devices/audited-1", json={"labels": {"site": None, "rack": "7"}})
    centre.server.api("POST", "/tokens", json={"device": "audited-1"})
    centre.server.simpleenroll("audited-2", "wrong", b"x")
    centre.server.api("GET", "/devices", token="wrong")
    got = [
        (entry["actor"], entry["action"], entry["target"], entry["outcome"])
        for entry in entries_of(centre)
        if "audited" in entry["target"] or entry["outcome"] == "auth.required"
    ]
    for expected in (
        ("admin", "tokens.create", "audited-1", "ok"),
        ("", "enrolment.simpleenroll", "audited-1", "ok"),
        ("admin", "devices.label", "audited-1", "name.label"),
        ("admin", "devices.label", "audited-1", "ok"),
        ("admin", "tokens.create", "audited-1", "device.exists"),
        ("", "devices.listed", "", "auth.required"),
    ):
        assert expected in got
    assert all(entry["address"] == "127.0.0.1" for entry in entries_of(centre))
    assert check(map(Entry.read, entries_of(centre))).finding == ""


def test_reading_leaves_no_entry(centre: Centre) -> None:
    before = len(entries_of(centre))
    centre.server.get("/devices")
    centre.server.api("GET", "/devices/nobody")
    assert len(entries_of(centre)) == before


def test_refusals_that_come_too_fast_are_counted_and_not_kept(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        for _ in range(100):
            assert server.api("GET", "/devices", token="wrong").status_code == 401
        refused = [item for item in server.get("/audit?limit=1000")["items"] if item["outcome"] == "auth.required"]
        assert 60 <= len(refused) < 90


Spoil = Callable[[sqlite3.Connection], object]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda db: db.execute("update audit set detail = 'role=viewer' where id = 2"),
        lambda db: db.execute("delete from audit where id = 2"),
        lambda db: db.executescript(
            "update audit set id = -1 where id = 2;"
            "update audit set id = 2 where id = 3;"
            "update audit set id = 3 where id = -1"
        ),
    ],
    ids=["altered", "removed", "reordered"],
)
def test_a_table_that_was_changed_under_the_server_is_found(tmp_path: Path, spoil: Spoil) -> None:
    with running_server(tmp_path / "server") as server:
        for number in range(4):
            server.new_token(f"gw-{number}")
        assert check(map(Entry.read, server.get("/audit")["items"])).entries == 4
        database = sqlite3.connect(server.data / "beamfleet.db")
        spoil(database)
        database.commit()
        database.close()
        assert check(map(Entry.read, server.get("/audit")["items"])).finding
