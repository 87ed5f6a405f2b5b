"""What health reports make of a device's row: sections are merged, the verdict is that of now, lists are sorted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.checks.thresholds import Thresholds
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store.devices import Device
from beamfleet_server.store.health import SORTS, Sort
from beamfleet_server.store.reports import Report
from beamfleet_server.store.telemetry import merged

from tests.support.fleet_store import FleetStore, event, health, presence
from tests.support.postgres import Place

LARGEST = 2**63 - 1
EVERYBODY = Selector()


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    opened.enrol("dev-1", "dev-2", "dev-3")
    opened.online("dev-1", "dev-2", "dev-3")
    yield opened
    opened.close()


def says(fleet: FleetStore, name: str, **changes: Any) -> Device:
    """A device reports its health; the device after that."""
    fleet.apply(Report(name, "main", "health", health(fleet.now, **changes)))
    return fleet.store.devices.find(name)


def listed(fleet: FleetStore, sort: Sort, *verdicts: str) -> list[str]:
    page, _ = fleet.store.health.page(EVERYBODY, verdicts, sort, None, 10, fleet.now)
    return [row.name for row in page.rows]


def test_what_a_report_does_not_say_is_as_before_unless_it_is_a_full_one() -> None:
    before = {"beam": {"run_queue": 1, "queues": [["a", 9]]}, "host": {"load": [1, 2, 3]}, "applications": ["a 1"]}
    assert merged(before, {"beam": {"queues": []}}) == before | {"beam": {"run_queue": 1, "queues": []}}
    assert merged(before, {"applications": []}) == before | {"applications": []}
    assert merged(before, {"full": True, "beam": {"run_queue": 2}}) == {"beam": {"run_queue": 2}}
    probes = {"liveness": ["ok", ""], "readiness": ["ok", ""]}
    failed = {"readiness": ["failed", "503"]}
    assert merged({"probes": probes}, {"probes": failed})["probes"] == probes | failed
    gone = merged(before, {"beam": None})
    assert gone["beam"] is None
    assert merged(gone, {"beam": {"run_queue": 3}})["beam"] == {"run_queue": 3}


def test_the_newest_report_is_judged_with_what_was_said_before(fleet: FleetStore) -> None:
    says(fleet, "dev-1", beam={"queues": [["worker", 100_000]]})
    device = says(fleet, "dev-1", full=False, beam={"run_queue": 3}, host={})
    assert device.verdict == "failing"
    assert device.reasons == [["queues", "failing", "100000 messages wait for worker"]]
    assert says(fleet, "dev-1", full=False, beam={"queues": []}, host={}).verdict == "healthy"


def test_thresholds_are_those_of_the_settings(fleet: FleetStore) -> None:
    fleet.store.reports.thresholds = Thresholds(processes_degraded=38)
    assert says(fleet, "dev-1", beam={"processes": [10_000, 262_144]}).verdict == "degraded"


def test_a_report_that_comes_late_is_history_and_changes_no_verdict(fleet: FleetStore) -> None:
    says(fleet, "dev-1")
    device = says(fleet, "dev-1", late_s=600, dropped=7, verdict="failing", beam=None)
    assert (device.verdict, device.received, device.dropped) == ("healthy", fleet.now, 7)
    assert [point.time for point in fleet.store.samples.find("dev-1", "main", 300, 0, fleet.now)] == [
        fleet.now - 600,
        fleet.now,
    ]


def test_a_release_that_ends_again_and_again_is_failing_for_an_hour(fleet: FleetStore) -> None:
    for number in range(6):
        told = event(1, number + 1) | {"time": fleet.now - 10 * number}
        fleet.apply(Report("dev-1", "main", "event", told), Report("dev-1", "main", "event", told))
    fleet.apply(Report("dev-1", "main", "event", event(1, 7, cause="operator") | {"time": fleet.now}))
    device = says(fleet, "dev-1")
    assert device.reasons == [["restart_loop", "failing", "it ended 6 times within an hour"]]
    fleet.now += 3600
    assert says(fleet, "dev-1").verdict == "healthy"


def test_supervised_restarts_are_counted_by_the_minute_and_within_one_vm(fleet: FleetStore) -> None:
    says(fleet, "dev-1", beam={"restarts": 10})
    fleet.now += 120
    assert says(fleet, "dev-1", beam={"restarts": 20}).reasons == [
        ["restarts", "degraded", "supervisors started 5 children again in a minute"]
    ]
    fleet.now += 60
    assert says(fleet, "dev-1", starts=2, beam={"restarts": 90}).verdict == "healthy"


def test_who_is_silent_or_does_not_report_is_not_what_it_said_last(fleet: FleetStore) -> None:
    says(fleet, "dev-1")
    assert fleet.store.devices.find("dev-2").verdict == "unknown", "it never reported"
    fleet.now += 180
    assert fleet.store.devices.find("dev-1").verdict == "healthy"
    fleet.now += 1
    assert fleet.store.devices.find("dev-1").verdict == "unknown"
    fleet.apply(Report("dev-1", "main", "presence", presence(2) | {"interval_s": 3600}))
    assert fleet.store.devices.find("dev-1").verdict == "healthy", "it says that it reports each hour"
    fleet.apply(Report("dev-1", "main", "presence", presence(2, online=False, reason="bye")))
    assert fleet.store.devices.find("dev-1").verdict == "offline"
    assert fleet.store.health.counts(EVERYBODY, fleet.now) == {
        "failing": 0,
        "degraded": 0,
        "unknown": 2,
        "offline": 1,
        "healthy": 0,
    }


def test_the_worst_come_first_and_the_largest(fleet: FleetStore) -> None:
    says(fleet, "dev-1", beam={"memory": {"total": 10}, "restarts": 1})
    says(fleet, "dev-2", beam={"memory": {"total": 20}, "said": ["degraded", "no sensor"]})
    assert listed(fleet, "verdict") == ["dev-2", "dev-3", "dev-1"]
    assert listed(fleet, "memory") == ["dev-2", "dev-1", "dev-3"]
    assert listed(fleet, "restarts") == ["dev-1", "dev-2", "dev-3"]
    assert listed(fleet, "name", "unknown", "healthy") == ["dev-1", "dev-3"]


def test_the_largest_numbers_that_a_device_may_send_are_kept_sorted_and_paged_through(fleet: FleetStore) -> None:
    pair = [LARGEST, LARGEST]
    numbers = {"memory": {"total": LARGEST}, "run_queue": LARGEST, "restarts": LARGEST, "uptime_ms": LARGEST}
    pairs = dict.fromkeys(("processes", "ports", "atoms", "ets"), pair)
    beam = numbers | pairs | {"queues": [["a", LARGEST]]}
    told = {"time": LARGEST, "starts": LARGEST, "dropped": LARGEST, "host": {"load": [LARGEST] * 3, "disk": [5, 0]}}
    says(fleet, "dev-1", beam=beam, **told)
    device = says(fleet, "dev-1", beam=beam, **told)
    assert device.verdict == "failing"
    assert device.dropped == 10**15
    fleet.apply(Report("dev-1", "main", "presence", presence(5) | {"keepalive_s": LARGEST, "interval_s": LARGEST}))
    for sort in SORTS:
        seen: list[str] = []
        cursor: str | None = None
        while not seen or cursor is not None:
            page, _ = fleet.store.health.page(EVERYBODY, (), sort, cursor, 1, fleet.now)
            seen += [row.name for row in page.rows]
            cursor = page.next
        assert sorted(seen) == ["dev-1", "dev-2", "dev-3"]
    fleet.store.samples.write(fleet.now + 7200)


def test_a_device_that_is_replaced_begins_anew(fleet: FleetStore) -> None:
    says(fleet, "dev-1", beam={"queues": [["worker", 100_000]]})
    fleet.store.samples.write(fleet.now, everything=True)
    assert fleet.store.samples.find("dev-1", "main", 300, 0, fleet.now)
    fleet.enrol_again("dev-1")
    fleet.online("dev-1")
    device = fleet.store.devices.find("dev-1")
    assert (device.verdict, device.sections) == ("unknown", None)
    assert fleet.store.samples.find("dev-1", "main", 300, 0, fleet.now) == []
