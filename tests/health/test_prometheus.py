"""Debian's Prometheus watches the demo with the files of server/deploy: every query of the dashboard has an answer, the
rules are sound, and what goes wrong is an alert."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.support.demo import Demo
from tests.support.fleet import Fleet, free_port, wait_for
from tests.support.prometheus import DEPLOY, RULES, Prometheus, dashboard_queries, metrics_named, promtool, scraping

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(600)]

RULE_TESTS = Path(__file__).parent / "rules.test.yml"


def alerts() -> list[str]:
    """The names of all alerts."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Prometheus]]:
    """The demo was told from its beginning to its end, and Prometheus has seen all of it."""
    work = tmp_path_factory.mktemp("watched")
    port = free_port()
    fleet = Fleet(work / "fleet", settings=["--metrics-port", str(port)])
    try:
        with scraping(work / "prometheus", f"127.0.0.1:{port}") as prometheus:
            Demo(fleet).run()
            prometheus.wait_for_target("up")
            yield fleet, prometheus
    finally:
        fleet.close()


def scrape(fleet: Fleet) -> str:
    """What Prometheus reads."""
    answer = requests.get(f"{fleet.address('metrics')}/metrics", timeout=30)
    assert answer.status_code == 200
    return answer.text


def test_the_configuration_and_the_rules_are_sound() -> None:
    promtool("check", "config", str(DEPLOY / "prometheus.yml"))
    promtool("check", "rules", str(RULES))


def test_every_alert_fires_when_it_should_and_a_fleet_that_is_well_fires_none() -> None:
    promtool("test", "rules", str(RULE_TESTS))
    seen = RULE_TESTS.read_text()
    assert [name for name in alerts() if name not in seen] == []


def test_every_alert_is_in_the_readme_with_what_to_do() -> None:
    readme = (DEPLOY / "README.md").read_text()
    assert [name for name in alerts() if f"| `{name}` |" not in readme] == []


def test_what_is_scraped_is_as_it_should_be(told: tuple[Fleet, Prometheus]) -> None:
    fleet, _ = told
    text = scrape(fleet)
    assert promtool("check", "metrics", given=text) == ""
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    used = metrics_named(RULES.read_text()) | {
        name for _, query in dashboard_queries() for name in metrics_named(query)
    }
    assert used - shown == set()
    readme = metrics_named((DEPLOY / "README.md").read_text())
    assert {name for name in shown if name.startswith("beamfleet_")} - readme == set(), "not in the README"


def test_every_query_of_the_dashboard_has_an_answer(told: tuple[Fleet, Prometheus]) -> None:
    _, prometheus = told
    queries = dashboard_queries()
    assert len(queries) > 20
    assert [(title, query) for title, query in queries if not prometheus.query(query)] == []


def test_the_numbers_are_those_of_the_fleet(told: tuple[Fleet, Prometheus]) -> None:
    fleet, prometheus = told
    devices = fleet.json("device", "list")

    def value(expression: str) -> float:
        ((_, number),) = [each["value"] for each in prometheus.query(expression)]
        return float(number)

    assert value('beamfleet_devices_running{version="1.1.0"}') == len(devices)
    assert value("sum(beamfleet_devices)") == len(devices)
    assert value("sum(beamfleet_devices_online)") == len(devices)
    assert value('beamfleet_rollouts{state="halted"}') == 1
    assert value('beamfleet_rollout_members{version="1.2.0", state="reverted"}') == 1
    assert value('beamfleet_events_total{kind="restart", cause="hang"}') == 1
    assert value('increase(beamfleet_ingest_messages_total{kind="state"}[10m])') > 0


def test_a_halted_rollout_is_an_alert_and_a_server_that_is_gone_becomes_one(told: tuple[Fleet, Prometheus]) -> None:
    fleet, prometheus = told
    for group in prometheus.get("rules")["groups"]:
        assert [rule["lastError"] for rule in group["rules"] if rule["health"] != "ok"] == []
    found = prometheus.alerts()
    assert (found["Watchdog"], found["BeamfleetRolloutHalted"]) == ("firing", "firing")
    assert "BeamfleetServerAbsent" not in found
    fleet.stop_server()
    prometheus.wait_for_target("down")
    wait_for("the alert", lambda: prometheus.alerts().get("BeamfleetServerAbsent") == "pending", deadline_s=30)
    fleet.serve()
    prometheus.wait_for_target("up")
    wait_for("its end", lambda: "BeamfleetServerAbsent" not in prometheus.alerts(), deadline_s=30)


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    sources = {str(target["datasource"]) for panel in dashboard["panels"] for target in panel.get("targets", ())}
    assert sources == {str({"type": "prometheus", "uid": "${datasource}"})}
    assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "instance"}
