"""The dead-man's switch: many devices that fall silent at once, and reports that are not committed, are our problem."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_server.alarms import Alarms
from beamfleet_server.store.reports import Report
from beamfleet_server.vigil import Vigil

from tests.support.fleet_store import FleetStore, presence

NAMES = [f"dev-{number}" for number in range(8)]


class Watched:
    """A fleet of eight, and who looks at its silence."""

    def __init__(self, work: Path) -> None:
        self.fleet = FleetStore(work)
        self.fleet.enrol(*NAMES)
        self.alarms = Alarms(self.fleet.store.events, self.fleet.clock)
        self.up = True
        self.waiting_s = 0.0
        self._session = 0
        self.vigil = Vigil(self.fleet.store, self.alarms, lambda: self.up, lambda: self.waiting_s, self.fleet.clock)

    def born(self, *names: str) -> None:
        self._session += 1
        told = presence(self._session) | {"keepalive_s": 60}
        self.fleet.apply(*(Report(name, "main", "presence", told) for name in names))

    def later(self, seconds: int) -> list[str]:
        """The alarms that sound after a look so much later."""
        self.fleet.now += seconds
        self.vigil.look(self.fleet.now)
        return [alarm.name for alarm in self.alarms.sounding]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.fleet.close()


def test_half_of_the_fleet_that_falls_silent_at_once_is_an_alarm_until_it_is_back(watched: Watched) -> None:
    watched.born(*NAMES)
    assert watched.later(1) == []
    watched.born(*NAMES[:3])
    assert watched.later(89) == ["fleet.silent"]
    assert "5 of 8" in watched.alarms.sounding[0].detail
    watched.born(*NAMES[:3])
    assert watched.later(60) == ["fleet.silent"], "they are still gone"
    watched.born(*NAMES)
    assert watched.later(1) == []


def test_a_few_that_fall_silent_are_no_alarm(watched: Watched) -> None:
    watched.born(*NAMES)
    assert watched.later(30) == []
    watched.born(*NAMES[:4])
    assert watched.later(60) == []
    assert [watched.fleet.store.devices.find(name).online for name in NAMES] == [True] * 4 + [False] * 4


def test_while_the_broker_is_away_everybody_falls_silent(watched: Watched) -> None:
    watched.born(*NAMES)
    watched.later(1)
    watched.up = False
    assert watched.later(89) == ["fleet.silent"]
    assert {watched.fleet.store.devices.find(name).offline_reason for name in NAMES} == {"broker"}
    watched.up = True
    watched.born(*NAMES)
    assert watched.later(1) == []


def test_a_server_that_was_away_for_long_takes_nobody_for_silent_before_it_listens(watched: Watched) -> None:
    watched.born(*NAMES)
    watched.fleet.now += 3600
    watched.up = False
    begun = Vigil(watched.fleet.store, watched.alarms, lambda: watched.up, lambda: 0.0, watched.fleet.clock)
    begun.look(watched.fleet.now)
    watched.fleet.now += 2
    watched.up = True
    begun.look(watched.fleet.now)
    assert all(watched.fleet.store.devices.find(name).online for name in NAMES)


def test_nobody_is_silent_whose_reports_could_not_be_committed(watched: Watched) -> None:
    watched.born(*NAMES)
    watched.waiting_s = 40.0
    assert watched.later(40) == ["ingest.stalled"]
    watched.fleet.now += 300
    watched.waiting_s = 0.0
    assert watched.later(1) == []
    assert all(watched.fleet.store.devices.find(name).online for name in NAMES)
    assert watched.later(30) == ["fleet.silent"], "they have half a keepalive from now on"
    assert {watched.fleet.store.devices.find(name).offline_reason for name in NAMES} == {"server"}


def test_reports_that_are_not_committed_are_an_alarm(watched: Watched) -> None:
    watched.waiting_s = 29.0
    assert watched.later(1) == []
    watched.waiting_s = 30.0
    assert watched.later(1) == ["ingest.stalled"]
    watched.waiting_s = 0.0
    assert watched.later(1) == []
