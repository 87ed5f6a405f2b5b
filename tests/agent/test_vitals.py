"""A whole agent at a real broker: what it tells of a release, also of the time in which nobody heard it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import agent as agent_module
from beamfleet_agent import session, vitals
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths

from tests.agent.authority import Authority
from tests.agent.broker import Broker, Listener
from tests.agent.device import identify, lay_down, words
from tests.agent.resident import Device
from tests.agent.test_monitor import Link

Spin = Callable[[str, Callable[[], object]], None]
BEAM: dict[str, Any] = {"memory": {"total": 40_000_000}, "processes": [60, 262_144], "run_queue": 0, "uptime_ms": 5}


@pytest.fixture
def paths(tmp_path: Path, authority: Authority, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A device that is enrolled and runs start 3 of a release."""
    monkeypatch.setattr(agent_module, "SAMPLE_SOON_S", 0.05)
    monkeypatch.setattr(vitals, "LATE_EVERY_S", 0.05)
    monkeypatch.setattr(session, "BACKOFF_FIRST_S", 0.2)
    monkeypatch.setattr(session, "BACKOFF_CAP_S", 0.4)
    addresses = {"api": "https://127.0.0.1:9", "enrol": "https://127.0.0.1:9", "mqtt": f"127.0.0.1:{broker.port}"}
    given = words("gw-1", server=addresses, ca_pem=authority.path.read_text(), health_interval_s=1, network="cellular")
    laid = lay_down(tmp_path / "device", given)
    identify(laid, *authority.issue("gw-1"))
    Path(laid.boot, "state").write_text(f"format=1\nslot={'a' * 32}\nphase=committed\nattempt=1\nstarts=3\n")
    Path(laid.link_sock).parent.mkdir(parents=True, exist_ok=True)
    return laid


@pytest.fixture
def link(paths: Paths) -> Iterator[Link]:
    made = Link(paths.link_sock)
    made.boot, made.more = 3, dict(BEAM)
    yield made
    made.close()


@pytest.fixture
def listener(authority: Authority, broker: Broker) -> Iterator[Listener]:
    made = Listener(authority, broker.port)
    yield made
    made.close()


@pytest.fixture
def device(loop: Loop, paths: Paths, link: Link, listener: Listener, tmp_path: Path) -> Iterator[Device]:
    made = Device(loop, paths, tmp_path / "log")
    yield made
    made.agent.stop()


def test_the_first_report_of_a_session_says_all_and_the_next_what_has_changed(
    device: Device, link: Link, listener: Listener, spin: Spin
) -> None:
    spin("two reports", lambda: len(listener.of("health")) >= 2)
    first, second, *_ = listener.of("health")
    assert (first["verdict"], first["starts"], first["full"]) == ("healthy", 3, True)
    assert first["beam"] == {**BEAM, "queues": []}
    assert first["applications"] == ["gateway 1", "kernel 1"]
    assert first["host"]["network"] == "cellular"
    assert "full" not in second
    assert not {"applications", "probes", "processes"} & {*second, *second.get("beam", {})}
    link.more["queues"] = [["gateway", 100_000]]
    spin("the queue", lambda: "queues" in listener.of("health")[-1].get("beam", {}))
    (presence,) = listener.of("presence")
    assert (presence["profile"], presence["keepalive_s"], presence["interval_s"]) == ("wired", 2, 1)
    shown = device.agent.status()
    assert (shown["health"], shown["unwell"], shown["profile"]) == ("healthy", "", "wired")


def test_a_release_that_does_not_answer_is_failing_and_says_nothing_of_itself(
    device: Device, link: Link, listener: Listener, spin: Spin
) -> None:
    spin("a report", lambda: listener.of("health"))
    started = Path(device.paths.link_sock).parent / "started.3"
    started.touch()
    link.boot = 2
    spin("the verdict", lambda: listener.of("health")[-1]["verdict"] == "failing")
    assert listener.of("health")[-1]["detail"] == "start 2 answers, 3 is wanted"
    Path(device.paths.link_sock).unlink()
    spin("silence", lambda: listener.of("health")[-1].get("beam", 1) is None)
    last = listener.of("health")[-1]
    assert (last["detail"], last["full"]) == ("the release does not answer", True)
    assert device.agent.status()["unwell"] == "the release does not answer"


def test_a_vm_that_boots_is_not_failing_before_its_time_is_over(
    device: Device, link: Link, listener: Listener, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    spin("a report", lambda: listener.of("health"))
    link.boot = 2
    samples, heard = device.samples, len(listener.of("health"))
    spin("a few samples, which come soon", lambda: device.samples >= samples + 5)
    assert [each["verdict"] for each in listener.of("health")[heard:]] == []
    assert device.agent.status()["health"] == "healthy"
    monkeypatch.setattr(vitals, "STARTING_S", 0.0)
    spin("the verdict", lambda: device.agent.status()["health"] == "failing")


def test_what_nobody_heard_is_told_late_and_nothing_of_it_was_written(
    device: Device, broker: Broker, listener: Listener, spin: Spin
) -> None:
    spin("the end of what it has to do", lambda: [each for each in listener.of("event") if each["kind"] == "error"])
    written = [path for path in Path(device.paths.root, "var").rglob("*") if path.is_file()]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in written}
    listener._subscribed.clear()
    broker.kill()
    spin("the end of the session", lambda: device.logged("session down"))
    heard, samples = len(listener.of("health")), device.samples
    spin("four samples", lambda: device.samples >= samples + 4)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in written} == before
    broker.start()
    assert listener._subscribed.wait(20), "before the agent, which only turns with this test"
    spin("two late reports", lambda: len([each for each in listener.of("health")[heard:] if "late_s" in each]) >= 2)
    late = [each for each in listener.of("health")[heard:] if "late_s" in each]
    assert "dropped" not in late[0]
    assert [each["time"] for each in late] == sorted(each["time"] for each in late)
    assert set(late[0]["beam"]) <= {"memory", "processes", "run_queue", "uptime_ms"}
    assert any(each.get("full") for each in listener.of("health")[heard:])


def test_who_asks_for_a_report_gets_all_of_it(device: Device, listener: Listener, spin: Spin) -> None:
    spin("two reports", lambda: len(listener.of("health")) >= 2)
    listener.tell("gw-1", "command", {"v": 1, "id": "1", "name": "report"})
    spin("another full one", lambda: len([each for each in listener.of("health") if each.get("full")]) >= 2)
