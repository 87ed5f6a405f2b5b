"""A rollout to a real device, seen from outside: one trace over server and device, and log lines of server, agent and
worker that say the same things by the same names."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.repo.test_log_lines import NAMES, SYNONYMS
from tests.support.collector import Collector, collecting
from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(300)]

NAME = "gateway-1"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
CODE = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*")
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Traced:
    """A fleet whose one device has taken a release, and what came to the collector."""

    fleet: Fleet
    device: Device
    collector: Collector

    def lines(self) -> dict[str, list[Line]]:
        """The log lines of server, agent and worker."""
        ours = [*objects(self.device.root / "console.log")]
        return {
            "server": [*objects(self.fleet.work / "server.log")],
            "agent": [line for line in ours if "worker" not in line],
            "worker": [line for line in ours if "worker" in line],
        }


def objects(log: Path) -> Iterator[Line]:
    """The lines that are JSON; beside them are the launcher's, and what is said to a person at the terminal."""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            yield json.loads(line)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    work = tmp_path_factory.mktemp("traced")
    with collecting() as collector:
        settings = ["--otel-endpoint", collector.endpoint, "--log-format", "json"]
        with fleet(work, "sensor-gateway", settings=settings) as here:
            device = here.flash(NAME, health_interval_s=5)
            here.wait_online(NAME)
            here.cli("push", str(tarball("sensor_gateway", "1.0.0")), "--all")
            collector.wait_for("rollout sensor-gateway 1.0.0")
            collector.wait_for(f"device {NAME}")
            here.kill_server()
            wait_for("the agent to notice", lambda: '"session down"' in device.console(500), deadline_s=30)
            here.wait_online(NAME)
            yield Traced(here, device, collector)


def test_the_device_is_a_part_of_the_rollout_and_its_phases_are_parts_of_that(traced: Traced) -> None:
    root = traced.collector.wait_for("rollout sensor-gateway 1.0.0")
    device = traced.collector.wait_for(f"device {NAME}")
    assert (root.parent, root.error, device.parent, device.error) == ("", "", root.span_id, "")
    assert (device.trace_id, device.attributes["beamfleet.state"]) == (root.trace_id, "committed")
    phases = [span for span in traced.collector.spans if span.parent == device.span_id]
    assert [span.name for span in phases] == ["downloading", "verified", "staged", "swapping", "trial"]
    assert all(span.trace_id == root.trace_id for span in phases)
    (trial,) = [span for span in phases if span.name == "trial"]
    assert trial.end_ns - trial.start_ns >= 1_000_000_000, "the device was on trial for two seconds"


def test_the_device_says_the_trace_in_its_log_and_in_the_event_of_the_end(traced: Traced) -> None:
    trace = traced.collector.wait_for("rollout sensor-gateway 1.0.0").trace_id
    lines = traced.lines()
    phases = [line["phase"] for line in lines["agent"] if line.get("trace_id") == trace and line["event"] == "update"]
    assert [*dict.fromkeys(phases)] == ["downloading", "verified", "staged", "swapping", "trial", "committed"]
    assert [line["trace_id"] for line in lines["agent"] if line["event"] == "release started"] == [trace]
    assert {line.get("trace_id") for line in lines["agent"] if line["event"] == "session down"} == {None}, "it is over"
    assert trace in {line.get("trace_id") for line in lines["worker"] if line["job"] == "fetch"}
    events = traced.fleet.json("events")
    assert [each["data"]["trace_id"] for each in events if each["kind"] == "update"] == [trace]


@pytest.mark.parametrize("side", ["server", "agent", "worker"])
def test_every_line_has_the_same_names_on_all_sides(traced: Traced, side: str) -> None:
    lines = traced.lines()[side]
    assert lines
    for line in lines:
        assert TIMESTAMP.fullmatch(line["timestamp"]), line
        assert line["level"] in ("debug", "info", "warning", "error", "critical"), line
        assert isinstance(line["event"], str), line
        assert SYNONYMS.keys() & line.keys() == set(), line
        assert CODE.fullmatch(line.get("code") or "ok"), line
        assert isinstance(line.get("detail", ""), str), line
        if side != "server":
            assert line["device"] == NAME, line
    assert {"timestamp", "level", "event"} <= set(NAMES)


def test_what_went_wrong_is_told_by_the_same_names(traced: Traced) -> None:
    lines = traced.lines()
    (down, *_) = [line for line in lines["agent"] if line["event"] == "session down"]
    assert down["detail"]
    assert {line["device"] for line in lines["server"] if "device" in line} <= {NAME}
