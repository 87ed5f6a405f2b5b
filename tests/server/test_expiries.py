"""What runs out is seen before it does, said once, and a fleet with development keys is marked everywhere."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from beamfleet_server.alarms import Alarms
from beamfleet_server.data import DataDirectory
from beamfleet_server.expiries import Expiries
from beamfleet_server.publishing import Publisher
from beamfleet_server.store.expiries import DUE, EXPIRED, OK
from securesystemslib.signer import CryptoSigner

from tests.server.conftest import Centre
from tests.support.author import first_metadata
from tests.support.fleet_store import FleetStore
from tests.support.postgres import Place

DAY = 86_400


class Ending:
    """A store with metadata, and what is said about its end."""

    def __init__(self, work: Path, place: Place) -> None:
        self.fleet = FleetStore(work, place)
        data = DataDirectory(work)
        self.publisher = Publisher(self.fleet.store, data, self.fleet.keys, self.fleet.clock)
        signers = {role: CryptoSigner.generate_ed25519() for role in ("root", "targets")}
        time = datetime.fromtimestamp(self.fleet.now, UTC)
        self.publisher.take_metadata(first_metadata(self.fleet.keys.public, time, signers))
        self.expiries = Expiries(self.fleet.store, data, self.fleet.clock)

    def states(self) -> dict[str, str]:
        return {row.what: row.state for row in self.expiries.all()}

    def told(self) -> set[tuple[str, str]]:
        """What is said now that was not said before, as events."""
        last = self.fleet.store.events.last_id()
        self.expiries.tell()
        new = self.fleet.store.events.after(last, 100)
        return {(event.data["what"], event.cause) for event in new if event.kind == "expiry"}


@pytest.fixture
def ending(tmp_path: Path, place: Place) -> Iterator[Ending]:
    made = Ending(tmp_path, place)
    yield made
    made.fleet.close()


def test_half_of_a_life_and_its_end_are_said_once_each(ending: Ending) -> None:
    assert ending.told() == set()
    ending.fleet.now += 183 * DAY
    ending.publisher.refresh()
    assert ending.states() == {"root": OK, "targets": DUE, "snapshot": OK, "timestamp": OK}
    assert ending.told() == {("targets", DUE)}
    assert ending.told() == set()
    ending.fleet.now += 182 * DAY
    ending.publisher.refresh()
    assert ending.told() == {("targets", EXPIRED), ("root", DUE)}
    assert ending.told() == set()


def test_what_the_server_renews_is_due_only_when_it_did_not(ending: Ending) -> None:
    ending.fleet.now += 4 * DAY
    assert ending.states()["timestamp"] == OK
    ending.fleet.now += 2 * DAY
    assert ending.told() == {("timestamp", DUE)}
    ending.publisher.refresh()
    assert ending.told() == set()
    assert ending.states()["timestamp"] == OK
    ending.fleet.now += 6 * DAY
    assert ending.told() == {("timestamp", DUE)}


def test_a_token_of_an_operator_runs_out_too(ending: Ending) -> None:
    ending.fleet.store.operators.put("anna", "viewer", "hash", ending.fleet.now, ending.fleet.now + 2 * DAY)
    ending.fleet.now += DAY
    row = next(row for row in ending.expiries.all() if row.what == "operator token anna")
    assert (row.state, row.vital) == (DUE, False)
    assert "beamfleet operator create anna" in row.mend


def test_an_alarm_is_an_event_when_it_begins_and_when_it_is_over(ending: Ending) -> None:
    store = ending.fleet.store
    alarms = Alarms(store.events, ending.fleet.clock)
    alarms.clear("metadata.stale")
    alarms.sound("metadata.stale", "no key")
    alarms.sound("metadata.stale", "still no key")
    assert [(each.name, each.detail) for each in alarms.sounding] == [("metadata.stale", "still no key")]
    alarms.clear("metadata.stale")
    store.database.write(lambda _: None)  # what was posted before is committed
    said = [(event.cause, event.detail) for event in store.events.after(0, 99) if event.kind == "alarm"]
    assert said == [("metadata.stale", "no key"), ("metadata.stale", "over")]
    assert alarms.sounding == []


def test_the_server_tells_of_everything_that_it_has(centre: Centre) -> None:
    rows = {row["what"].partition(" ")[0] for row in centre.server.get("/expiries")["items"]}
    assert {
        "root",
        "targets",
        "product",
        "snapshot",
        "timestamp",
        "authority",
        "server",
        "broker",
        "revocation",
    } <= rows
    alarms = {alarm["name"] for alarm in centre.server.get("/health")["alarms"]}
    assert alarms <= {"fleet.silent"}  # the devices of other tests fall silent as these end


def test_development_keys_are_marked_on_every_answer_and_page(centre: Centre) -> None:
    answers = [centre.server.api("GET", path) for path in ("/server", "/no-such-route", "/audit?limit=x")]
    assert [answer.headers.get("Beamfleet-Development") for answer in answers] == ["yes"] * 3
    page = requests.get(f"{centre.server.facts['operators']}/login", verify=str(centre.server.ca), timeout=30)
    assert "Not for production" in page.text


def test_answers_to_devices_carry_no_date(centre: Centre, tmp_path: Path) -> None:
    identity = centre.server.enrol("undated", tmp_path)
    assert "date" not in centre.server.fetch(identity, "/metadata/timestamp.json").headers
    assert "date" in centre.server.api("GET", "/server").headers
