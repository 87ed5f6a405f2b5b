"""What is told of samples, and when: on change, by interval, in full now and then, kept while nobody hears."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from beamfleet_agent.telemetry import CREDIT, KEPT, Line, Rhythm, Telemetry, is_material, rhythm
from beamfleet_bundles import messages
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

WIRED, METERED = rhythm("wired"), rhythm("metered")
BEAM: dict[str, Any] = {
    "uptime_ms": 60_000,
    "memory": {"total": 50_000_000, "processes": 12_000_000},
    "processes": [120, 262_144],
    "atoms": [14_000, 1_048_576],
    "run_queue": 0,
    "schedulers": 12,
    "restarts": 0,
    "queues": [],
    "said": ["ok", ""],
    "otp": "25",
}
HOST: dict[str, Any] = {
    "load": [12, 5, 1],
    "memory": [400_000_000, 1_000_000_000],
    "disk": [5_000_000_000, 8_000_000_000],
    "temperature": 48_312,
    "uptime_s": 100,
    "network": "cellular",
}


def sample(time: int = 0, **changes: Any) -> Line:
    """A sample that is well, but for `changes`: of a section by its name, of a field by SECTION__FIELD."""
    line: Line = {
        "time": time, "verdict": "healthy", "starts": 3, "beam": copy.deepcopy(BEAM), "host": copy.deepcopy(HOST),
        "applications": ["gateway 1.0.0", "kernel 8.5"], "probes": {"liveness": ["ok", ""]},
    }  # fmt: skip
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            line[section][field] = value
        else:
            line[section] = value
    return line


class Server:
    """What a server knows that merges reports as PROTOCOL.md says."""

    def __init__(self) -> None:
        self.known: Line = {}

    def hear(self, report: Line) -> None:
        decoded = messages.decode("health", json.encode({"v": 1, **report}))
        assert isinstance(decoded, messages.Health)
        said = json.decode(messages.encode(decoded))
        if decoded.late_s:
            return
        if decoded.full:
            self.known = {}
        for name in ("beam", "probes", "host"):
            if said.get(name) is not None:
                said[name] = (self.known.get(name) or {}) | said[name]
        self.known |= said

    def believes(self, line: Line) -> None:
        sections = ("verdict", "starts", "beam", "applications", "probes", "host")
        assert {name: self.known[name] for name in sections} == {name: line[name] for name in sections}


def minutes(count: int, begin: int = 0) -> Iterator[int]:
    return iter(range(begin * 60, (begin + count) * 60, 60))


@pytest.mark.parametrize(
    ("profile", "interval_s", "spoken"),
    [
        ("wired", 0, (60, 60, 90, 120)),
        ("metered", 0, (900, 60, 930, 1800)),
        ("wired", 4, (4, 4, 6, 8)),
        ("wired", 1, (1, 1, 2, 2)),
        ("metered", 7200, (7200, 60, 7230, 14_400)),
    ],
)
def test_each_profile_has_its_rhythm(profile: str, interval_s: int, spoken: tuple[int, ...]) -> None:
    found = rhythm(profile, interval_s)
    assert (found.interval_s, found.sample_s, found.keepalive_s, found.expiry_s) == spoken


def test_a_wired_device_reports_every_sample_and_in_full_once_an_hour() -> None:
    telemetry, server = Telemetry(WIRED), Server()
    reports = []
    for now in minutes(121):
        line = sample(now, beam__uptime_ms=now * 1000)
        report = telemetry.observe(now, line, online=True)
        assert report is not None
        server.hear(report)
        server.believes(line)
        reports.append(report)
    assert [index for index, report in enumerate(reports) if report.get("full")] == [0, 60, 120]
    assert reports[1] == {"time": 60, "verdict": "healthy", "starts": 3, "beam": {"uptime_ms": 60_000}}


def test_a_metered_device_in_which_nothing_happens_reports_each_quarter_of_an_hour() -> None:
    telemetry = Telemetry(METERED)
    told = [now for now in minutes(48 * 60) if telemetry.observe(now + now % 7 / 10, sample(now), online=True)]
    gaps = {later - earlier for earlier, later in pairwise(told)}
    assert gaps == {900}
    assert max(gaps) < METERED.keepalive_s, "each report comes in the place of a ping"


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "failing"},
        {"detail": "liveness: refused"},
        {"starts": 4},
        {"beam": None},
        {"applications": ["kernel 8.5"]},
        {"probes": {"liveness": ["failed", "GET :80/: 503"]}},
        {"beam__said": ["degraded", "the modem is asleep"]},
        {"beam__restarts": 1},
        {"beam__queues": [["gateway", 1_000]]},
        {"beam__memory": {"total": 56_000_000}},
        {"beam__memory": {"total": 44_000_000}},
        {"beam__atoms": [700_000, 1_048_576]},
        {"host__memory": [99_000_000, 1_000_000_000]},
        {"host__disk": [300_000_000, 8_000_000_000]},
        {"host__temperature": 91_000},
        {"host__network": "wifi"},
    ],
)
def test_what_somebody_should_know_is_told_with_the_next_sample(changes: dict[str, Any]) -> None:
    telemetry = Telemetry(METERED)
    telemetry.observe(0, sample(), online=True)
    assert telemetry.observe(60, sample(60), online=True) is None
    assert telemetry.observe(120, sample(120, **changes), online=True)
    assert telemetry.observe(180, sample(180, **changes), online=True) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"beam__memory": {"total": 54_000_000}},
        {"beam__queues": [["gateway", 999]]},
        {"beam__atoms": [15_000, 1_048_576]},
        {"beam__schedulers": 900},
        {"beam__said": ["ok", "21.3 degrees"]},
        {"host__temperature": 79_000},
        {"host__load": [400, 5, 1]},
        {"beam__metrics": {"a": 1}},
    ],
)
def test_what_changes_all_the_time_is_not_worth_a_report(changes: dict[str, Any]) -> None:
    assert not is_material(sample(), sample(60, **changes))


def test_what_flaps_costs_a_metered_line_at_most_twice() -> None:
    telemetry = Telemetry(METERED)
    told = 0
    for number, now in enumerate(minutes(24 * 60)):
        told += telemetry.observe(now, sample(now, verdict=("healthy", "failing")[number % 2]), online=True) is not None
    assert 24 * 4 < told <= 2 * 24 * 4 + CREDIT


@pytest.mark.parametrize(
    "gone", [{"beam": None}, {"probes": {}}, {"host": {"load": [1, 1, 1]}}, {"starts": 4}, {"beam": {"run_queue": 0}}]
)
def test_what_went_away_makes_a_report_full(gone: dict[str, Any]) -> None:
    telemetry, server = Telemetry(WIRED), Server()
    for now, line in ((0, sample()), (60, sample(60, **gone)), (120, sample(120))):
        report = telemetry.observe(now, line, online=True)
        assert report is not None
        assert bool(report.get("full")) == (now < 120 if "starts" not in gone else True)
        server.hear(report)
        server.believes(line)


STEPS: list[dict[str, Any]] = [
    {},
    {},
    {"beam": None},
    {"starts": 4},
    {"applications": ["kernel 8.5"]},
    {"beam__queues": [["a", 20]]},
    {"beam__queues": [["b", 20_000]], "beam__run_queue": 3},
    {"beam__metrics": {"a": 1}},
    {"host__temperature": 90_000, "host__wear": 10},
    {"probes": {"liveness": ["failed", "no"]}},
    {"probes": {"readiness": ["ok", ""]}},
]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.booleans()), max_size=12))
def test_one_report_that_is_heard_mends_those_that_were_lost_since_the_full_one(
    steps: list[tuple[dict[str, Any], bool]],
) -> None:
    telemetry, server = Telemetry(WIRED), Server()
    for number, (changes, lost) in enumerate(steps):
        line = sample(number * 60, **changes)
        report = telemetry.observe(number * 60, line, online=True)
        assert report is not None
        if report.get("full") or not lost:
            server.hear(report)
            server.believes(line)


def test_without_a_session_the_newest_samples_are_kept_and_told_late() -> None:
    telemetry, server = Telemetry(WIRED), Server()
    for now in minutes(KEPT + 6):
        assert telemetry.observe(now, sample(now), online=False) is None
    assert telemetry.waiting == KEPT
    back = (KEPT + 10) * 60
    telemetry.session_began(back)
    report = telemetry.observe(back, sample(back), online=True)
    assert report is not None
    assert (report["full"], report["dropped"]) == (True, 6)
    server.hear(report)
    late = []
    while (oldest := telemetry.oldest(back)) is not None:
        server.hear(oldest)
        late.append(oldest)
        telemetry.told()
    server.believes(sample(back))
    assert [each["time"] for each in late] == list(minutes(KEPT, begin=6))
    assert all(each["late_s"] == back - each["time"] for each in late)
    assert set(late[0]["beam"]) == {"uptime_ms", "memory", "processes", "atoms", "run_queue", "schedulers", "restarts"}
    again = telemetry.observe(back + 60, sample(back + 60), online=True)
    assert again is not None
    assert "dropped" not in again


def test_a_sample_of_just_before_the_session_is_not_told_twice() -> None:
    telemetry = Telemetry(WIRED)
    telemetry.observe(0, sample(), online=False)
    telemetry.session_began(5)
    assert telemetry.oldest(5) is None


def test_a_metered_device_keeps_no_more_than_it_would_have_told() -> None:
    telemetry = Telemetry(METERED)
    for now in minutes(4 * 60):
        telemetry.observe(now, sample(now), online=False)
    assert telemetry.waiting == 16


def test_a_new_session_gets_everything_at_once() -> None:
    telemetry = Telemetry(METERED)
    telemetry.observe(0, sample(), online=True)
    telemetry.session_began(60)
    report = telemetry.observe(60, sample(60), online=True)
    assert report is not None
    assert report["full"]


def test_a_report_has_the_size_that_was_promised() -> None:
    memory = dict.fromkeys(("total", "processes", "binary", "ets", "atom", "code", "system"), 123_456_789)
    names = [f"application_{number} 1.2.{number}" for number in range(10)]
    more = {"ports": [9, 65_536], "ets": [60, 8_192], "gc": 900_000}
    beam = {**BEAM, **more, "memory": memory}
    telemetry = Telemetry(WIRED)

    def told(now: int, **changes: Any) -> int:
        line = sample(now, beam={**beam, **changes}, applications=names, host__inodes=[480_000, 524_288], host__wear=10)
        return len(json.encode({"v": 1, **(telemetry.observe(now, line, online=True) or {})}))

    moved = {"uptime_ms": 86_400_000, "memory": {**memory, "total": 1}, "gc": 900_001, "schedulers": 13}
    assert 600 < told(0) <= 900
    assert 200 < told(60, **moved, processes=[121, 262_144], atoms=[14_001, 1_048_576]) <= 400


def test_a_rhythm_is_a_value() -> None:
    assert rhythm("wired") == Rhythm("wired", 60, 3_600)
