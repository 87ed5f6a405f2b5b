"""What Prometheus scrapes: which series there are, how many there can be, and what the listener takes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from beamfleet_server.alarms import Alarm
from beamfleet_server.errors import ServerError
from beamfleet_server.feed import kind_of
from beamfleet_server.metrics.families import Readings, families
from beamfleet_server.metrics.readings import Kept
from beamfleet_server.store import Store, figures
from beamfleet_server.store.events import Event
from beamfleet_server.store.figures import DeviceFigures, Figures, Rollout, SlowFigures
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Centre
from tests.support.fleet_store import PRODUCT, FleetStore
from tests.support.postgres import Place

NOW = 1_800_000_000
FIGURES = Figures(
    verdicts={"healthy": 3, "failing": 1},
    profiles={"wired": (4, 3), "metered": (0, 0), "other": (0, 0)},
    releases={("gateway", "1.0.0"): 4},
    rollouts={"running": 1, "halted": 0},
    under_way=(Rollout(7, "gateway", "1.0.0", {"trial": 1, "committed": 2}),),
    last_report=NOW,
    webhooks={"well": 1, "failing": 0, "disabled": 0},
    deliveries_pending=0,
)
READINGS = Readings(
    version="0.1.0",
    started=NOW,
    broker_up=True,
    waiting=0,
    taken={"state": 5},
    commits=(),
    process=(),
    refused={},
    last_commit=NOW,
    events={("restart", "crash"): 2},
    alarms=(),
    figures=FIGURES,
    slow=SlowFigures(0, 1, 4096),
    expiries=(),
)
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Shown:
    """A collector of what `families` makes of some readings."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> object:
        return families(self._readings)


def parsed(text: str) -> Series:
    """The series of a scrape, as a client reads them; none twice."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def scraped(readings: Readings) -> Series:
    """What a scrape of these readings says."""
    registry = CollectorRegistry()
    registry.register(Shown(readings))  # type: ignore[arg-type]
    return parsed(generate_latest(registry).decode())


def test_every_number_has_its_series() -> None:
    found = scraped(READINGS)
    assert found["beamfleet_devices", (("verdict", "failing"),)] == 1
    assert found["beamfleet_devices_online", (("profile", "wired"),)] == 3
    assert found["beamfleet_events_total", (("cause", "crash"), ("kind", "restart"))] == 2
    assert found["beamfleet_ingest_messages_total", (("kind", "state"),)] == 5
    trial = (("product", "gateway"), ("rollout", "7"), ("state", "trial"), ("version", "1.0.0"))
    assert found["beamfleet_rollout_members", trial] == 1
    assert found["beamfleet_device_certificates", (("state", "ending"),)] == 1


def test_counters_are_there_before_they_count() -> None:
    found = scraped(replace(READINGS, taken={}, events={}))
    assert found["beamfleet_ingest_refused_total", (("code", "message.rate"),)] == 0
    assert found["beamfleet_events_total", (("cause", "oom"), ("kind", "restart"))] == 0


def test_without_the_database_the_rest_is_still_told() -> None:
    found = scraped(replace(READINGS, figures=None, slow=None))
    assert found["beamfleet_database_up", ()] == 0
    assert found["beamfleet_broker_up", ()] == 1
    assert not any(name.startswith("beamfleet_devices") for name, _ in found)


@pytest.mark.parametrize("hostile", ['a"b\\c\nd', "x" * 500, "\x1b[31mred", "left\u202eright", 'x"} 1\nbeamfleet_up 1'])
def test_nothing_that_stands_in_a_label_can_write_a_line_of_its_own(hostile: str) -> None:
    numbers = replace(FIGURES, releases={(hostile, hostile): 1})
    device = DeviceFigures(hostile, "healthy", 1, None, 2)
    found = scraped(
        replace(READINGS, figures=numbers, alarms=(Alarm(hostile, "", NOW),), refused={hostile: 1}, devices=(device,))
    )
    names = {name for name, _ in found} - {name for name, _ in scraped(READINGS)}
    assert names == {
        "beamfleet_alarm_since_seconds", "beamfleet_device_verdict", "beamfleet_device_memory_bytes",
        "beamfleet_device_queue_messages",
    }  # fmt: skip
    values = [value for _, labels in found for _, value in labels]
    assert max(map(len, values)) <= 200
    assert all(value.isascii() and value.isprintable() for value in values)


def test_a_device_that_makes_up_causes_makes_no_series() -> None:
    made_up = Event(1, NOW, "a", "restart", "x" * 60, "", None, {})
    assert kind_of(made_up) == ("restart", "other")
    assert kind_of(replace(made_up, cause="oom")) == ("restart", "oom")
    assert kind_of(replace(made_up, kind="error", cause="a.b")) == ("error", "")


def test_a_value_is_read_again_when_it_is_old() -> None:
    times, reads = iter((0.0, 4.0, 5.0)), iter((1, 2))
    kept = Kept(lambda: next(reads), 5.0, clock=lambda: next(times))
    assert (kept(), kept(), kept()) == (1, 1, 2)


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    yield opened
    opened.close()


def test_the_releases_that_most_devices_run_have_a_series_and_all_others_one(
    fleet: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "RELEASES", 2)
    fleet.enrol("a", "b", "c", "d", "e", "silent")
    for name, version in {"a": "1.0.0", "b": "1.0.0", "c": "2.0.0", "d": "2.0.0", "e": "3.0.0"}.items():
        fleet.commits(name, version)
    assert fleet.store.figures.at(fleet.now).releases == {
        (PRODUCT, "1.0.0"): 2, (PRODUCT, "2.0.0"): 2, ("other", "other"): 1,
    }  # fmt: skip


def test_a_rollout_under_way_is_counted_by_state_and_one_that_has_ended_is_not(fleet: FleetStore) -> None:
    fleet.enrol("a", "b")
    fleet.publish("1.0.0")
    fleet.report("a")
    fleet.report("b")
    number = fleet.roll_out("1.0.0")
    (under_way,) = fleet.store.figures.at(fleet.now).under_way
    assert (under_way.id, under_way.version) == (number, "1.0.0")
    assert under_way.members == {"offered": 1, "pending": 1}
    fleet.store.advancing.abort(number, "ops", "enough", fleet.now)
    found = fleet.store.figures.at(fleet.now)
    assert (found.under_way, found.rollouts["aborted"]) == ((), 1)


def test_devices_are_counted_by_verdict_and_profile(fleet: FleetStore) -> None:
    fleet.enrol("a", "b")
    fleet.online("a")
    found = fleet.store.figures.at(fleet.now)
    assert found.verdicts == {"healthy": 0, "degraded": 0, "failing": 0, "offline": 1, "unknown": 1}
    assert sum(all_ for all_, _ in found.profiles.values()) == 2
    assert sum(online for _, online in found.profiles.values()) == 1
    assert found.last_report == fleet.now
    assert [(each.name, each.verdict) for each in fleet.store.figures.devices(fleet.now)] == [
        ("a", "unknown"), ("b", "offline"),
    ]  # fmt: skip


def test_a_device_is_counted_when_its_certificate_should_have_been_renewed_long_ago(fleet: FleetStore) -> None:
    fleet.enrol("a")
    slow = fleet.store.figures.slow(fleet.now)
    assert (slow.certificates_expired, slow.certificates_ending) == (0, 0)
    assert slow.database_bytes > 0
    end = fleet.store.enrolment.newest_certificate("a").not_after  # type: ignore[union-attr]
    assert fleet.store.figures.slow(end - 86_400).certificates_ending == 1
    assert fleet.store.figures.slow(end).certificates_expired == 1


def test_a_database_that_cannot_be_read_leaves_the_rest_to_be_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "never-opened.db", lambda _: b"")
    with pytest.raises(ServerError) as caught:
        store.figures.at(NOW)
    assert caught.value.code == "server.database"


# --- the listener


def test_metrics_are_plain_text_that_can_be_packed(centre: Centre) -> None:
    device = centre.device("metrics-1")
    address = centre.server.facts["metrics"]
    assert address.startswith("http://127.0.0.1:")
    answer = requests.get(f"{address}/metrics", headers={"Accept-Encoding": "gzip"}, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Content-Encoding"] == "gzip"
    found = parsed(answer.text)
    assert found["beamfleet_broker_up", ()] == found["beamfleet_database_up", ()] == 1
    assert found["process_resident_memory_bytes", ()] > 0
    assert not any("device" in dict(labels) for _, labels in found), "nobody asked for each device"
    plain = requests.get(f"{address}/metrics", headers={"Accept-Encoding": ""}, timeout=30)
    assert "Content-Encoding" not in plain.headers
    device.close()


def test_the_listener_takes_nothing_else(centre: Centre) -> None:
    address = centre.server.facts["metrics"]
    wrong = requests.post(f"{address}/metrics", timeout=30)
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["Allow"]) == (405, "request.method", "GET, HEAD")
    assert requests.get(f"{address}/", timeout=30).json()["code"] == "request.not_found"
    assert requests.get(f"{address}/api/v1/devices", timeout=30).status_code == 404
    large = requests.get(f"{address}/metrics", data=b"x" * 2000, timeout=30)
    assert (large.status_code, large.json()["code"]) == (413, "request.too_large")
    head = requests.head(f"{address}/metrics", timeout=30)
    assert (head.status_code, head.content) == (200, b"")
