"""Hundreds of simulated devices, some of them unwell: every report is found, and lists say who is unwell and no other.

The simulator counts what its broker has taken, by PUBACK; the server what it has committed. `./dev bench health` does
the same with ten thousand."""

import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rollout.simulated import Api, Simulation, simulation
from tests.support.fleet import Fleet, fleet, wait_for

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(300)]

DEVICES = 400
REPORTS = 2_000
SCENARIO: dict[str, Any] = {
    "seed": 3,
    "runs": "sensor-gateway 1.0.0",
    "labels": {"site": ["berlin", "paris"]},
    "health": "5s",
    "behaviours": [
        {"share": "4%", "offline": "once"},
        {"share": "5%", "ails": "degraded"},
        {"share": "3%", "ails": "failing"},
    ],
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Simulation]]:
    """The fleet, with a simulation that has told enough and has ended."""
    with fleet(tmp_path_factory.mktemp("fleet-health")) as opened, simulation(opened, DEVICES, SCENARIO) as simulated:
        yield opened, simulated


def committed(opened: Fleet) -> int:
    """How many reports of health the server has committed, by its own metrics."""
    with urllib.request.urlopen(f"{opened.address('metrics')}/metrics", timeout=10) as answer:
        told = answer.read().decode()
    found = re.search(r'^beamfleet_ingest_messages_total\{kind="health"\} ([0-9.e+]+)$', told, re.MULTILINE)
    assert found
    return int(float(found[1]))


def expected(simulated: Simulation) -> dict[str, str]:
    """The verdict over each device, by its script alone."""
    natures = {name: simulated.nature(name) for name in simulated.names}
    return {name: "offline" if each.once else each.ails or "healthy" for name, each in natures.items()}


def test_every_report_is_found_and_the_lists_say_who_is_unwell(here: tuple[Fleet, Simulation]) -> None:
    opened, simulated = here
    api, verdicts = Api(opened), expected(simulated)
    there = DEVICES - sum(verdict == "offline" for verdict in verdicts.values())
    simulated.wait("all to have come", lambda seen: seen["connects"] >= DEVICES and seen["online"] == there, 150)
    counts = dict(Counter(verdicts.values()))
    assert set(counts) == {"healthy", "degraded", "failing", "offline"}

    def known() -> bool:
        return {
            key: number for key, number in api.get("/health/devices", limit=1)["counts"].items() if number
        } == counts

    wait_for(f"the server to know of {counts}", known, deadline_s=60, every_s=0.5)
    simulated.wait(f"{REPORTS} reports", lambda seen: seen["reports_taken"] >= REPORTS, 90)

    shown = opened.json("health", "--limit", "0")
    assert {each["id"]: each["verdict"] for each in shown["unwell"]} == {
        name: verdict for name, verdict in verdicts.items() if verdict != "healthy"
    }
    assert [each["verdict"] for each in shown["unwell"]] == sorted(
        (each["verdict"] for each in shown["unwell"]), key=["failing", "degraded", "offline"].index
    )
    assert all(each["reasons"] for each in shown["unwell"])
    opened.cli("health", "--check", ok=(1,))
    assert {each["id"]: each["health"]["verdict"] for each in opened.json("device", "list")} == verdicts

    first = opened.json("top", "--sort", "memory", "--limit", "20")
    largest = [each["beam"]["memory"] for each in first]
    assert largest == sorted(largest, reverse=True)
    assert {each["verdict"] for each in opened.json("top", "--verdict", "failing,degraded")} == {"failing", "degraded"}
    berlin = [name for name in simulated.names if simulated.nature(name).labels["site"] == "berlin"]
    told = opened.json("top", "-l", "site=berlin", "--sort", "name", "--limit", "1000")
    assert [each["id"] for each in told] == berlin

    summary = simulated.stop()
    assert (summary["reports_unsure"], summary["reports_taken"]) == (0, summary["reports"])
    wait_for("every report to be found", lambda: committed(opened) >= summary["reports"], deadline_s=30)
    assert committed(opened) == summary["reports"]
    assert api.get("/health")["refused_messages"] == {}
