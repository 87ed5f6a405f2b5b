"""What the checks find in a report, as a table; and that no number that a device may send makes one of them fail."""

import re
from pathlib import Path
from typing import Any

import beamfleet_server
import pytest
from beamfleet_server.checks import finding, verdict
from beamfleet_server.checks.report import Report, read
from beamfleet_server.checks.thresholds import DEFAULTS, Thresholds
from hypothesis import given
from hypothesis import strategies as st

PAGE = Path(beamfleet_server.__file__).parents[1] / "HEALTH.md"
LARGEST = 2**63 - 1
WHOLE = {"memory": [900, 1000], "disk": [900, 1000], "inodes": [900, 1000], "temperature": 40_000, "load": [1, 2, 3]}


def beam(**changes: Any) -> dict[str, Any]:
    return {"beam": {"memory": {"total": 100}, "processes": [100, 262_144], "queues": [], **changes}, "host": WHOLE}


def host(**changes: Any) -> dict[str, Any]:
    return {**beam(), "host": WHOLE | changes}


TABLE = [
    ("all is well", beam(), {}, "healthy", {}),
    ("stopped by a person", {}, {"verdict": "stopped"}, "degraded", {"answers": "the release is stopped"}),
    ("no answer", {"beam": None}, {"verdict": "failing"}, "failing", {"answers": "the release does not answer"}),
    ("nothing is installed", {"beam": None}, {"verdict": "unknown"}, "unknown", {}),
    (
        "an application is gone",
        beam(),
        {"verdict": "failing", "detail": "not running: ssl"},
        "failing",
        {"applications": "not running: ssl"},
    ),
    (
        "not alive",
        {**beam(), "probes": {"liveness": ["failed", "503"], "readiness": ["failed", ""]}},
        {"verdict": "failing"},
        "failing",
        {"probes": "liveness: 503"},
    ),
    (
        "not ready",
        {**beam(), "probes": {"readiness": ["failed", ""]}},
        {},
        "degraded",
        {"probes": "readiness: it is not ready"},
    ),
    (
        "starting",
        {**beam(), "probes": {"startup": ["waiting", ""]}},
        {},
        "degraded",
        {"probes": "startup: it is starting"},
    ),
    ("it says so", beam(said=["failing", "no sensor"]), {}, "failing", {"said": "no sensor"}),
    ("it says it is well", beam(said=["ok", ""]), {}, "healthy", {}),
    (
        "a queue",
        beam(queues=[["logger", 12], ["worker", 100_000]]),
        {},
        "failing",
        {"queues": "100000 messages wait for worker"},
    ),
    ("a shorter one", beam(queues=[["worker", 10_000]]), {}, "degraded", {"queues": "10000 messages wait for worker"}),
    ("atoms", beam(atoms=[900, 1000]), {}, "failing", {"atoms": "90 % of the limit of atoms"}),
    ("processes", beam(processes=[700, 1000]), {}, "degraded", {"processes": "70 % of the limit of processes"}),
    ("ports", beam(ports=[999, 1000]), {}, "failing", {"ports": "99.9 % of the limit of ports"}),
    ("tables", beam(ets=[705, 1000]), {}, "degraded", {"ets": "70.5 % of the limit of ETS tables"}),
    (
        "memory",
        {"beam": {"memory": {"total": 700_000_000}}, "host": {"memory": [200_000_000, 1_000_000_000]}},
        {},
        "degraded",
        {"memory": "the VM has 700 MB, 70 % of the machine's memory"},
    ),
    (
        "binaries",
        beam(memory={"total": 1, "binary": 209_715_200}),
        {},
        "degraded",
        {"binaries": "binaries have 209.7 MB"},
    ),
    ("run queue", beam(run_queue=100), {}, "degraded", {"run_queue": "100 processes wait for a scheduler"}),
    (
        "restarts",
        beam(restarts=9),
        {"restarts_per_min": 5},
        "degraded",
        {"restarts": "supervisors started 5 children again in a minute"},
    ),
    ("host memory", host(memory=[29, 1000]), {}, "failing", {"host_memory": "2.9 % of the memory are available"}),
    ("disk", host(disk=[99, 1000]), {}, "degraded", {"disk": "9.9 % of the disk are free"}),
    ("inodes", host(inodes=[0, 1000]), {}, "failing", {"inodes": "0 % of the inodes are free"}),
    ("no inodes at all", host(inodes=[0, 0]), {}, "healthy", {}),
    ("wear", host(wear=90), {}, "degraded", {"wear": "90 % of the flash's life are used"}),
    ("heat", host(temperature=95_500), {}, "failing", {"temperature": "95.5 °C"}),
    ("frost", host(temperature=-40_000), {}, "healthy", {}),
    ("a clock behind", beam(), {"clock_offset_s": -61}, "degraded", {"clock": "the clock is 61 s behind"}),
    ("falls", beam(), {"falls": 6}, "failing", {"restart_loop": "it ended 6 times within an hour"}),
]


@pytest.mark.parametrize(
    ("sections", "told", "expected", "reasons"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_a_report_has_this_verdict(
    sections: dict[str, Any], told: dict[str, Any], expected: str, reasons: dict[str, str]
) -> None:
    judged, findings = verdict.judge(read(sections, **told), DEFAULTS)
    assert (judged, {each.check: each.detail for each in findings}) == (expected, reasons)


def test_every_check_has_its_row_in_the_table() -> None:
    named = {name for row in TABLE for name in row[4]}
    assert named == {check.__module__.rpartition(".")[2] for check in verdict.CHECKS}


def test_the_page_about_health_has_every_check_and_every_threshold_with_its_default() -> None:
    text = PAGE.read_text()
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\|(.*)\|$", text.partition("## Checks")[2].partition("## Who")[0], re.MULTILINE
    )
    assert {name for name, _ in rows} == {check.__module__.rpartition(".")[2] for check in verdict.CHECKS}
    told = {name: int(value) for _, cell in rows for name, value in re.findall(r"`(\w+)` \((\d+)\)", cell)}
    assert told == DEFAULTS.model_dump()


def test_the_worst_comes_first() -> None:
    report = read({**beam(queues=[["a", 10_000]], atoms=[950, 1000])})
    judged, findings = verdict.judge(report, DEFAULTS)
    assert (judged, [each.check for each in findings]) == ("failing", ["atoms", "queues"])


def test_a_threshold_of_0_switches_its_level_off() -> None:
    at = Thresholds(queue_degraded=0, queue_failing=0, disk_degraded=0, disk_failing=0)
    sections = {"beam": {"queues": [["a", LARGEST]]}, "host": {"disk": [0, 1000]}}
    assert verdict.judge(read(sections), at) == ("healthy", [])


def test_nothing_that_was_not_reported_is_found() -> None:
    assert verdict.judge(Report(), DEFAULTS) == ("healthy", [])
    assert set(read({}).headlines().values()) == {None}


NUMBERS = st.sampled_from([0, 1, 999, 1000, 2**31, 2**53, LARGEST])
PAIRS = st.tuples(NUMBERS, NUMBERS).map(list)
BEAMS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("run_queue", "restarts", "uptime_ms", "gc"), NUMBERS),
        **dict.fromkeys(("processes", "ports", "atoms", "ets"), PAIRS),
        "memory": st.dictionaries(st.sampled_from(["total", "binary"]), NUMBERS),
        "queues": st.lists(st.tuples(st.text(max_size=64), NUMBERS).map(list), max_size=5),
        "said": st.tuples(st.sampled_from(["ok", "degraded", "failing"]), st.text(max_size=256)).map(list),
    },
)
HOSTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("memory", "disk", "inodes"), PAIRS),
        "load": st.tuples(NUMBERS, NUMBERS, NUMBERS).map(list),
        "temperature": st.integers(-273_150, 1_000_000),
        "wear": st.integers(0, 200),
    },
)
KINDS = st.sampled_from(["startup", "readiness", "liveness"])
PROBES = st.dictionaries(
    KINDS, st.tuples(st.sampled_from(["ok", "failed", "waiting"]), st.text(max_size=256)).map(list)
)
SECTIONS = st.fixed_dictionaries({}, optional={"beam": st.none() | BEAMS, "host": HOSTS, "probes": PROBES})


@given(
    sections=SECTIONS,
    said=st.sampled_from(["healthy", "failing", "stopped", "unknown"]),
    offset=st.sampled_from([-LARGEST, 0, LARGEST]),
    falls=st.integers(0, 16),
)
def test_no_number_makes_a_check_fail(sections: dict[str, Any], said: str, offset: int, falls: int) -> None:
    report = read(sections, verdict=said, clock_offset_s=offset, falls=falls, restarts_per_min=LARGEST)
    judged, findings = verdict.judge(report, DEFAULTS)
    assert judged in {"healthy", "degraded", "failing", "unknown"}
    assert all(len(each.detail) <= finding.LONGEST for each in findings)
    assert all(each is None or abs(each) <= 10**15 for each in report.headlines().values())
    for name in ("atoms_permille", "host_memory_permille", "disk_permille"):
        assert report.headlines()[name] in {None, *range(1001)}
