"""Who is shown offline by the clock: by their own keepalive, also while the broker or the server was away."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_server.store.reports import Report
from beamfleet_server.store.silence import BROKER, SERVER, Ear

from tests.support.fleet_store import FleetStore, health, presence
from tests.support.postgres import Place


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    opened.enrol("dev-1", "dev-2")
    yield opened
    opened.close()


def born(fleet: FleetStore, name: str, session: int = 1, **facts: int) -> None:
    fleet.apply(Report(name, "main", "presence", presence(session) | facts))


def gone(fleet: FleetStore, ear: Ear, after_s: int) -> dict[str, str]:
    """Names and reasons of those that were here and are offline `after_s` from now."""
    fleet.store.silence.expire(ear, fleet.now + after_s)
    found = [fleet.store.devices.find(name) for name in ("dev-1", "dev-2")]
    return {each.name: each.offline_reason for each in found if each.last_seen and not each.online}


def ever(fleet: FleetStore) -> Ear:
    """An ear that has always been there."""
    return Ear(hears=True, since=fleet.now - 10_000, away=SERVER)


def test_a_device_is_offline_one_and_a_half_of_its_own_keepalives_after_its_last_word(fleet: FleetStore) -> None:
    born(fleet, "dev-1", keepalive_s=90)
    born(fleet, "dev-2", keepalive_s=900)
    assert fleet.store.silence.stand(ever(fleet), 0).due == fleet.now + 135
    assert gone(fleet, ever(fleet), 134) == {}
    assert gone(fleet, ever(fleet), 135) == {"dev-1": "deadline"}
    assert fleet.store.silence.stand(ever(fleet), 0).due == fleet.now + 1350
    (told,) = [each for each in fleet.store.events.after(0, 100) if each.cause == "offline"]
    assert (told.device, told.detail) == ("dev-1", "not heard from for 135 s")


def test_who_does_not_say_how_often_it_speaks_has_the_time_of_the_settings(fleet: FleetStore) -> None:
    fleet.store.silence.patience_s = 40
    born(fleet, "dev-1")
    born(fleet, "dev-2", keepalive_s=10, interval_s=60)
    assert gone(fleet, ever(fleet), 39) == {}
    assert gone(fleet, ever(fleet), 89) == {"dev-1": "deadline"}
    assert gone(fleet, ever(fleet), 90) == {"dev-1": "deadline", "dev-2": "deadline"}, "it speaks each minute"


def test_the_next_word_brings_a_silent_device_back(fleet: FleetStore) -> None:
    born(fleet, "dev-1", keepalive_s=90)
    assert gone(fleet, ever(fleet), 200)
    fleet.now += 300
    fleet.apply(Report("dev-1", "main", "health", health(fleet.now)))
    device = fleet.store.devices.find("dev-1")
    assert (device.online, device.offline_since, device.offline_reason) == (True, None, "")
    told = [each.cause for each in fleet.store.events.after(0, 100) if each.kind == "presence"]
    assert told == ["online", "offline", "online"]


def test_while_the_broker_is_away_the_time_goes_on(fleet: FleetStore) -> None:
    born(fleet, "dev-1", keepalive_s=90)
    deaf = Ear(hears=False, since=fleet.now + 10, away=BROKER)
    assert gone(fleet, deaf, 134) == {}
    assert gone(fleet, deaf, 135) == {"dev-1": "broker"}


def test_after_a_short_absence_of_the_broker_a_device_that_is_cut_off_has_no_further_time(fleet: FleetStore) -> None:
    born(fleet, "dev-1", keepalive_s=90)
    again = Ear(hears=True, since=fleet.now + 90, away=BROKER)
    assert gone(fleet, again, 134) == {}
    assert gone(fleet, again, 135) == {"dev-1": "deadline"}


def test_after_a_long_absence_of_the_server_a_device_has_time_to_connect(fleet: FleetStore) -> None:
    born(fleet, "dev-1", keepalive_s=90)
    again = Ear(hears=True, since=fleet.now + 3600, away=SERVER)
    assert gone(fleet, again, 3644) == {}
    assert gone(fleet, again, 3645) == {"dev-1": "server"}
    (told,) = [each for each in fleet.store.events.after(0, 100) if each.cause == "offline"]
    assert told.detail == "not heard from for 3645 s: the server was away"


def test_a_server_that_begins_before_its_broker_gives_devices_that_time_as_well(fleet: FleetStore) -> None:
    born(fleet, "dev-1", keepalive_s=90)
    begun = Ear(hears=False, since=fleet.now + 3600, away=SERVER)
    assert gone(fleet, begun, 3644) == {}
    assert gone(fleet, begun, 3645) == {"dev-1": "server"}


def test_those_that_were_lost_are_counted_and_those_that_went_are_not(fleet: FleetStore) -> None:
    born(fleet, "dev-1", keepalive_s=90)
    born(fleet, "dev-2", keepalive_s=90)
    assert fleet.store.silence.stand(ever(fleet), 0).online == 2
    fleet.apply(Report("dev-2", "main", "presence", presence(1, online=False, reason="stopped")))
    assert gone(fleet, ever(fleet), 135)
    standing = fleet.store.silence.stand(ever(fleet), fleet.now)
    assert (standing.online, standing.lost, standing.due) == (0, 1, None)
    assert fleet.store.silence.stand(ever(fleet), fleet.now + 136).lost == 0
