"""Traces of rollouts: ids that are always the same, spans of what happened, and who gets a `traceparent`."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from beamfleet_server.store.parts import Part, Whole
from beamfleet_server.tracing.ids import TraceIds
from beamfleet_server.tracing.spans import LONGEST_MS, PHASES, SECOND, Span, of_device, of_rollout, of_silent
from hypothesis import given
from hypothesis import strategies as st

from tests.server.conftest import PRODUCT, Centre, open_centre
from tests.support.collector import Collector, collecting
from tests.support.mqtt_device import MqttDevice, committed
from tests.support.server import Identity, running_server

NOW = 1_800_000_000
IDS = TraceIds("a fleet")
PART = Part(7, "gateway", "1.1.0", "pump-7", 2, "committed", "", NOW - 60, NOW)
WHOLE = Whole(7, "gateway", "1.1.0", "completed", "", NOW - 90, NOW, {"committed": 3})
OURS = {"trace_id": IDS.trace(7), "span_id": IDS.device(7, "pump-7", 2), "attempt": 2}


def spans(said: dict[str, object], part: Part = PART, phase: str = "committed", cause: str = "") -> list[Span]:
    return list(of_device(IDS, part, NOW, phase, cause, said))


def test_ids_are_the_same_each_time_and_others_for_everything_else() -> None:
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", IDS.parent(7, "pump-7", 2))
    assert TraceIds("a fleet").parent(7, "pump-7", 2) == IDS.parent(7, "pump-7", 2)
    assert TraceIds("another").trace(7) != IDS.trace(7)
    made = {
        IDS.root(7), IDS.root(8), IDS.device(7, "pump-7", 2), IDS.device(7, "pump-7", 3), IDS.device(8, "pump-7", 2),
        IDS.device(7, "pump-8", 2), IDS.phase(7, "pump-7", 2, "trial"), IDS.phase(7, "pump-7", 2, "staged"),
    }  # fmt: skip
    assert len(made) == 8


def test_the_phases_of_a_device_lie_back_to_back_before_we_heard_of_the_end() -> None:
    device, downloading, trial = spans({**OURS, "downloading_ms": 4000, "trial_ms": 10_000})
    assert (device.parent, downloading.parent, trial.parent) == (IDS.root(7), device.span_id, device.span_id)
    assert (device.start_ns, device.end_ns) == (PART.offered_at * SECOND, NOW * SECOND)
    assert (downloading.start_ns, downloading.end_ns) == ((NOW - 14) * SECOND, (NOW - 10) * SECOND)
    assert (trial.start_ns, trial.end_ns) == ((NOW - 10) * SECOND, NOW * SECOND)
    assert (device.error, device.attributes["beamfleet.state"]) == ("", "committed")


def test_an_update_that_failed_is_an_error_with_its_cause() -> None:
    (device,) = spans(OURS, phase="reverted", cause="crash")
    assert (device.error, device.attributes["beamfleet.reason"]) == ("crash", "crash")


def test_an_attempt_before_the_newest_one_begins_with_its_first_phase() -> None:
    device, _ = spans({**OURS, "trial_ms": 1000}, part=replace(PART, attempt=3))
    assert device.start_ns == (NOW - 1) * SECOND


@pytest.mark.parametrize(
    "said",
    [
        {},
        OURS | {"trace_id": IDS.trace(8)},
        OURS | {"span_id": "0" * 16},
        OURS | {"attempt": 1},
        OURS | {"attempt": "2"},
    ],
)
def test_a_device_can_only_speak_of_its_own_part(said: dict[str, object]) -> None:
    assert spans(said) == []


LAPS = st.sampled_from([f"{name}_ms" for name in PHASES])


@given(st.dictionaries(LAPS, st.integers(0, 2**63 - 1) | st.text(max_size=5)))
def test_whatever_a_device_says_its_spans_lie_within_its_own(said: dict[str, object]) -> None:
    device, *phases = spans({**OURS, **said})
    assert device.end_ns == NOW * SECOND
    assert all(device.start_ns <= each.start_ns <= each.end_ns <= device.end_ns for each in phases)
    assert device.end_ns - device.start_ns <= len(PHASES) * LONGEST_MS * 1_000_000 + 60 * SECOND


def test_a_rollout_is_the_root_and_a_device_that_never_answered_has_a_part_in_it() -> None:
    root = of_rollout(IDS, WHOLE)
    assert (root.parent, root.error, root.attributes["beamfleet.devices.committed"]) == ("", "", 3)
    assert of_rollout(IDS, replace(WHOLE, state="aborted")).error == "aborted"
    silent = of_silent(IDS, replace(PART, state="failed", reason="deadline"))
    assert (silent.trace_id, silent.parent, silent.error) == (root.trace_id, root.span_id, "deadline")


def test_who_does_not_trace_imports_nothing_for_it() -> None:
    program = "import beamfleet_server.serve, sys; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "False\n")


# --- with a real server, and a collector that reads what comes


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Centre, Collector]]:
    """A server on which everything is on that is off unless somebody asks for it."""
    work = tmp_path_factory.mktemp("traced")
    with collecting() as collector:
        asked = {"otel_endpoint": collector.endpoint, "metrics_per_device": "true"}
        with running_server(work / "server", **asked) as server:
            yield open_centre(work, server), collector


def test_each_device_has_series_where_somebody_asks_for_them(traced: tuple[Centre, Collector]) -> None:
    centre, _ = traced
    centre.server.enrol("dev-1", centre.work)
    text = requests.get(f"{centre.server.facts['metrics']}/metrics", timeout=30).text
    assert 'beamfleet_device_verdict{device="dev-1",verdict="offline"} 1.0' in text.splitlines()


def born(centre: Centre, name: str, **facts: int) -> MqttDevice:
    """A device of this birth that waits for an assignment."""
    device = centre.device(name, labels={"traced": "yes"})
    device.publish("presence", device._presence(online=True, reason="start") | facts)
    device.acknowledged(device.report())
    return device


def test_a_rollout_is_one_trace_over_server_and_devices(traced: tuple[Centre, Collector]) -> None:
    centre, collector = traced
    manifest = centre.author.publish(PRODUCT, "1.0.0")["manifest"]
    new, old, lost = born(centre, "new", keepalive_s=90), born(centre, "old"), born(centre, "lost", keepalive_s=90)
    plan = {
        "product": PRODUCT,
        "version": "1.0.0",
        "devices": {"labels": {"traced": "yes"}},
        "phases": [{"name": "all", "devices": 3}],
    }
    number = centre.server.post("/rollouts", {"plan": plan})["id"]
    offers = {device.name: device.wait_for_offer()["beamfleet"] for device in (new, old, lost)}
    assert "traceparent" not in offers["old"], "an older agent takes it for malformed"
    _, trace, span, _ = offers["new"]["traceparent"].split("-")
    assert offers["lost"]["traceparent"].split("-")[1] == trace
    identity = Identity("new", centre.work / "new.key", centre.work / "new.pem")
    asked = centre.server.fetch(identity, f"/assignment?nonce={'0' * 32}").json()["signed"]["beamfleet"]
    assert asked["traceparent"] == offers["new"]["traceparent"], "who asks is told the same"

    data = {"phase": "committed", "product": PRODUCT, "version": "1.0.0", "attempt": 1}
    data |= {"trace_id": trace, "span_id": span, "downloading_ms": 300, "trial_ms": 2000}
    new.event("update", "", slot=manifest[:32], data=data)
    forged = {**data, "span_id": offers["new"]["traceparent"].split("-")[2]}
    lost.acknowledged(lost.event("update", "crash", slot=manifest[:32], data={**forged, "phase": "failed"}))
    new.acknowledged(new.report(**committed(manifest)))
    device, trial = collector.wait_for("device new"), collector.wait_for("trial")
    assert (device.service, device.trace_id, device.span_id) == ("beamfleet-server", trace, span)
    assert (trial.trace_id, trial.parent, trial.end_ns - trial.start_ns) == (trace, span, 2 * SECOND)

    centre.server.post(f"/rollouts/{number}/abort", {"reason": "enough"}, 200)
    root = collector.wait_for(f"rollout {PRODUCT} 1.0.0")
    assert (root.trace_id, root.span_id, root.parent, root.error) == (trace, device.parent, "", "aborted")
    assert root.attributes["beamfleet.devices.committed"] == 1
    assert [each.name for each in collector.spans if each.name == "device lost"] == [], "it spoke for another"
    for each in (new, old, lost):
        each.close()


def test_a_server_without_a_collector_puts_nothing_into_assignments(centre: Centre) -> None:
    centre.author.publish(PRODUCT, "900.0.0")
    device = born(centre, "untraced", keepalive_s=90)
    plan = {"product": PRODUCT, "version": "900.0.0", "devices": {"ids": ["untraced"]}}
    centre.server.post("/rollouts", {"plan": plan})
    assert "traceparent" not in device.wait_for_offer()["beamfleet"]
    device.close()


def test_a_collector_that_is_not_there_keeps_nobody_waiting(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", otel_endpoint="http://127.0.0.1:9") as server:
        assert server.get("/health")["broker"] == "up"
        assert server.stop() == 0
