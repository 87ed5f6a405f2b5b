"""What devices report: order, repetition, presence, and what is acknowledged."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from beamfleet_server.store.reports import Report
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fleet_store import FleetStore, event, presence
from tests.support.mqtt_device import state
from tests.support.postgres import BOTH, Place, placed

NUMBERS = count()


@pytest.fixture(scope="module", params=BOTH)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetStore]:
    work = tmp_path_factory.mktemp("store")
    with placed(request, work) as place:
        fleet = FleetStore(work, place)
        yield fleet
        fleet.close()


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    opened.enrol("dev-1", "dev-2")
    yield opened
    opened.close()


def states(*numbers: tuple[int, int, int]) -> list[Report]:
    return [Report("dev-1", "main", "state", state(boot, seq, starts=starts)) for boot, seq, starts in numbers]


def shown(fleet: FleetStore) -> int:
    found = fleet.store.devices.find("dev-1").state
    assert found is not None
    return int(found["starts"])


def test_the_state_with_the_highest_number_counts_in_whatever_order_they_come(fleet: FleetStore) -> None:
    outcome = fleet.apply(*states((1, 2, 20), (1, 1, 10)))
    assert shown(fleet) == 20
    assert outcome.acks == {("dev-1", "main"): (1, 2)}
    fleet.apply(*states((2, 1, 30)))
    fleet.apply(*states((1, 9, 40)))
    assert shown(fleet) == 30


def test_a_repeated_state_is_acknowledged_again_and_wakes_nobody(fleet: FleetStore) -> None:
    assert fleet.apply(*states((1, 1, 1))).changed
    again = fleet.apply(*states((1, 1, 1)))
    assert not again.changed
    assert again.acks == {("dev-1", "main"): (1, 1)}


def test_an_event_is_kept_once_within_a_batch_and_across_batches(fleet: FleetStore) -> None:
    first = Report("dev-1", "main", "event", event(1, 1))
    fleet.apply(first, first, Report("dev-2", "main", "event", event(1, 1)))
    fleet.apply(first, Report("dev-1", "main", "event", event(1, 2)))
    kept = [each for each in fleet.store.events.after(0, 100) if each.kind == "restart"]
    assert [(each.device, each.cause) for each in kept] == [("dev-1", "crash"), ("dev-2", "crash"), ("dev-1", "crash")]
    assert kept[0].time == fleet.now, "a device's clock orders nothing"
    assert kept[0].data == {"starts": 2, "device_time": 5}


def test_an_event_that_comes_late_is_kept_although_a_newer_one_is_acknowledged(fleet: FleetStore) -> None:
    fleet.apply(Report("dev-1", "main", "event", event(1, 7)))
    outcome = fleet.apply(Report("dev-1", "main", "event", event(1, 6)))
    assert outcome.acks == {("dev-1", "main"): (1, 7)}
    assert len([each for each in fleet.store.events.after(0, 100) if each.kind == "restart"]) == 2


def test_a_device_or_application_that_is_not_known_changes_nothing(fleet: FleetStore) -> None:
    outcome = fleet.apply(Report("ghost", "main", "event", event(1, 1)), Report("dev-1", "other", "event", event(1, 1)))
    assert outcome.unknown == {"ghost", "dev-1"}
    assert not outcome.acks
    assert [each.kind for each in fleet.store.events.after(0, 100)] == ["enrolled", "enrolled"]


def test_offline_counts_only_for_the_newest_session(fleet: FleetStore) -> None:
    def say(session: int, *, online: bool) -> bool:
        fleet.apply(Report("dev-1", "main", "presence", presence(session, online=online, reason="bye")))
        return fleet.store.devices.find("dev-1").online

    assert say(5, online=True)
    assert say(4, online=False)
    assert say(4, online=True)
    assert not say(5, online=False)
    assert not say(4, online=True), "a birth that was overtaken by its own end"
    assert say(6, online=True)
    assert not say(7, online=False), "the will of a session whose birth was lost"


def test_a_late_message_does_not_bring_back_a_device_that_said_good_bye(fleet: FleetStore) -> None:
    fleet.online("dev-1")
    fleet.apply(Report("dev-1", "main", "presence", presence(1, online=False, reason="bye")))
    fleet.apply(*states((1, 1, 1)))
    assert not fleet.store.devices.find("dev-1").online


def test_progress_is_the_newest_that_came(fleet: FleetStore) -> None:
    for done in (1, 2):
        message = {"v": 1, "manifest": "", "phase": "downloading", "done": done, "total": 9}
        fleet.apply(Report("dev-1", "main", "progress", message))
    found = fleet.store.devices.find("dev-1")
    assert found.progress is not None
    assert found.progress["done"] == 2
    assert found.last_seen == fleet.now


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.data())
def test_batches_of_any_size_and_repetition_come_to_the_same(shared: FleetStore, data: st.DataObject) -> None:
    name = f"device-{next(NUMBERS)}"
    shared.enrol(name)
    numbers = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=20))
    reports = [Report(name, "main", "state", state(boot, seq, starts=10 * boot + seq)) for boot, seq in numbers]
    acknowledged = []
    while reports:
        size = data.draw(st.integers(1, len(reports)))
        acknowledged.append(shared.apply(*reports[:size]).acks[name, "main"])
        reports = reports[size:]
    newest = max(numbers)
    found = shared.store.devices.find(name).state
    assert found is not None
    assert found["starts"] == 10 * newest[0] + newest[1]
    assert acknowledged[-1] == newest
    assert acknowledged == sorted(acknowledged)


def test_what_a_device_calls_evidence_is_none_but_in_its_place(fleet: FleetStore) -> None:
    left = {"slogan": "boom", "status": "", "log": []}
    claims = event(1, 1) | {"data": {"starts": 2, "evidence": "x"}}
    fleet.apply(Report("dev-1", "main", "event", claims))
    fleet.apply(Report("dev-1", "main", "event", claims | {"seq": 2, "evidence": left}))
    told = [each.data.get("evidence") for each in fleet.store.events.newest(2)]
    assert told == [left, None]
