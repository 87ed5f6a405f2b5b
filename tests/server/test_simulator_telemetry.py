"""What simulated devices say of their health: messages of the protocol, figures that drift, illnesses that are seen."""

import json
from itertools import pairwise
from typing import Any

import pytest
from beamfleet_bundles import messages
from beamfleet_server.checks.report import read
from beamfleet_server.checks.thresholds import DEFAULTS
from beamfleet_server.checks.verdict import judge
from beamfleet_server.simulator.fate import Nature
from beamfleet_server.simulator.report import dump
from beamfleet_server.simulator.scenario import Target
from beamfleet_server.simulator.telemetry import ILLNESSES, Telling, sample

NOW = 1_800_000_000
NAMES = [f"sim-{number:05}" for number in range(1, 301)]


def nature(ails: str = "", profile: str = "wired") -> Nature:
    return Nature(Target(), {}, "", "wired", profile=profile, health_s=60, ails=ails)


def line(name: str, ails: str = "", now: int = NOW, release: str = "sensor-gateway 1.0.0") -> dict[str, Any]:
    return sample(name, nature(ails), release, 3, 5_000 + now - NOW, now)


def verdict(said: dict[str, Any]) -> str:
    """What the server makes of a full report."""
    return judge(read(said, verdict=said["verdict"], detail=said.get("detail", "")), DEFAULTS)[0]


def test_every_report_is_one_of_the_protocol_and_within_its_budget() -> None:
    for name in NAMES:
        telling = Telling("wired")
        full = dump(telling.report(line(name)))
        later = dump(telling.report(line(name, now=NOW + 60)))
        for report in (full, later):
            messages.decode("health", report)
        assert (len(full) <= 1000, len(later) <= 700) == (True, True), (full, later)


def test_without_a_release_there_is_only_the_machine() -> None:
    said = line(NAMES[0], "failing", release="")
    messages.decode("health", dump(said))
    assert (said["verdict"], said["beam"], "probes" in said) == ("unknown", None, False)


def test_figures_drift_and_are_the_same_for_whoever_asks_again() -> None:
    day = [line(NAMES[0], now=NOW + 300 * step) for step in range(288)]
    assert day[17] == line(NAMES[0], now=NOW + 300 * 17)
    memory = [said["beam"]["memory"]["total"] for said in day]
    assert 1.05 < max(memory) / min(memory) < 1.3
    assert max(abs(now - before) for before, now in pairwise(memory)) < 0.07 * max(memory)
    assert len({said["host"]["load"][0] for said in day}) > 5
    assert len({line(name)["beam"]["memory"]["total"] for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("ails", ["", "degraded", "failing"])
def test_devices_are_as_well_as_the_scenario_says_in_the_eyes_of_the_server(ails: str) -> None:
    assert {verdict(line(name, ails)) for name in NAMES} == {ails or "healthy"}


@pytest.mark.parametrize("ails", ["degraded", "failing"])
def test_every_illness_befalls_somebody_and_stays(ails: str) -> None:
    def looks(name: str, now: int) -> str:
        said = line(name, ails, now)
        beam = said["beam"]
        return json.dumps([
            said["verdict"], said["probes"], beam is None, (beam or {}).get("said"),
            bool(beam and beam["queues"] and beam["queues"][0][0] == "upstream_writer"),
            bool(beam and beam["atoms"][0] > 500_000), said["host"]["disk"][0] * 10 < said["host"]["disk"][1],
        ])  # fmt: skip

    assert len({looks(name, NOW) for name in NAMES}) == len(ILLNESSES[ails])
    assert [looks(name, NOW) for name in NAMES] == [looks(name, NOW + 3_000) for name in NAMES]


def merged(before: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """What the server makes of a report on top of those before."""
    if report.get("full"):
        return report
    both = {**before, **report}
    for section in ("beam", "host"):
        if section in before and isinstance(report.get(section), dict):
            both[section] = {**before[section], **report[section]}
    return both


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_the_server_knows_all_of_it_from_the_full_report_and_any_later_one(lost: int) -> None:
    for name in NAMES[:50]:
        telling = Telling("wired")
        known: dict[str, Any] = {}
        for step in range(12):
            now = line(name, now=NOW + 60 * step)
            report = telling.report(now)
            if step % lost == 0:
                known = merged(known, json.loads(json.dumps(report)))
                for field in ("memory", "processes", "queues", "atoms"):
                    assert known["beam"][field] == now["beam"][field]
                assert known["host"] == now["host"]


def test_a_report_is_full_at_first_in_each_session_after_a_start_and_each_hour() -> None:
    telling = Telling("wired")
    told = [telling.report(line(NAMES[0], now=NOW + 60 * minute)).get("full", False) for minute in range(121)]
    assert [minute for minute, full in enumerate(told) if full] == [0, 60, 120]
    telling.session_began()
    assert telling.report(line(NAMES[0], now=NOW + 7_300))["full"]
    again = sample(NAMES[0], nature(), "sensor-gateway 1.0.0", 4, 10, NOW + 7_320)
    assert telling.report(again)["full"]
