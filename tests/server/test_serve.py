"""The real server process with its real mosquitto: its life, its deaths, and devices that speak to it over TLS."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles import pki, topics

from tests.server.conftest import PRODUCT, Centre
from tests.support.mqtt_device import MqttDevice, committed, update
from tests.support.server import Server, alive, eventually, running_server, start_server


def test_a_first_start_makes_everything_and_says_where_it_is(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        facts = server.facts
        assert facts["pid"] == server.pid
        assert all(facts[name].startswith("https://127.0.0.1:") for name in ("operators", "devices", "enrolment"))
        assert (server.data / "admin.token").stat().st_mode & 0o777 == 0o600
        assert server.get("/health") | {"refused_messages": {}} == {
            "status": "ok",
            "broker": "up",
            "devices": 0,
            "online": 0,
            "verdicts": dict.fromkeys(("failing", "degraded", "unknown", "offline", "healthy"), 0),
            "refused_messages": {},
            "alarms": [],
            "expiries": {"due": 0, "expired": 0},
        }
        keys = {path.name for path in server.data.rglob("*.key")}
        assert keys == {
            "authority.key",
            "server.key",
            "client_server.key",
            "snapshot.key",
            "timestamp.key",
            "director.key",
            "webhooks.key",
        }


def test_a_clean_stop_leaves_nothing_running_and_a_start_finds_the_same_ports(tmp_path: Path) -> None:
    server = start_server(tmp_path / "server")
    ports, broker, token = server.facts["ports"], server.broker_pid, server.token
    assert server.stop() == 0
    assert not alive(broker)
    server.start()
    try:
        assert server.facts["ports"] == ports
        assert server.token == token
    finally:
        assert server.stop() == 0


def test_sigint_stops_it_as_well(tmp_path: Path) -> None:
    server = start_server(tmp_path / "server")
    os.kill(server.pid, signal.SIGINT)
    assert server.stop() == 0


def test_a_second_server_on_the_same_data_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        second = Server(server.data).attempt()
        assert second.returncode == 1
        assert "server.data_in_use" in second.stderr
        assert f"pid {server.pid}" in second.stderr
        assert server.get("/health")["broker"] == "up"


@pytest.mark.parametrize("name", ["operators", "devices", "enrolment", "mqtt", "metrics"])
def test_a_taken_port_is_named(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = Server(tmp_path / "server", **{f"{name}_port": port}).attempt()
    assert done.returncode == 1
    assert "server.port_taken" in done.stderr
    assert str(port) in done.stderr
    assert f"--{name}-port" in done.stderr


def test_a_missing_mosquitto_is_named_with_the_remedy(tmp_path: Path) -> None:
    done = Server(tmp_path / "server", mosquitto=tmp_path / "no-mosquitto").attempt()
    assert done.returncode == 1
    assert "broker.missing" in done.stderr
    assert "apt install mosquitto" in done.stderr


def test_a_mosquitto_that_does_not_run_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho no licence today >&2\nexit 3\n")
    program.chmod(0o755)
    done = Server(tmp_path / "server", mosquitto=program).attempt()
    assert done.returncode == 1
    assert "broker.failed" in done.stderr
    assert "no licence today" in done.stderr


def test_a_server_killed_with_9_starts_again_and_ends_its_orphaned_broker(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        orphan = server.broker_pid
        assert orphan is not None
        (server.data / "quarantine" / "half.bundle").write_bytes(b"half an upload")
        server.kill()
        assert alive(orphan)
        server.start()
        assert server.broker_pid != orphan
        assert not alive(orphan)
        assert not list((server.data / "quarantine").iterdir())


def test_another_servers_mosquitto_is_left_alone(tmp_path: Path) -> None:
    with running_server(tmp_path / "one") as one, running_server(tmp_path / "two") as two:
        broker = one.broker_pid
        two.kill()
        two.start()
        assert one.broker_pid == broker


def test_a_state_is_acknowledged_when_it_is_committed(centre: Centre) -> None:
    device = centre.device("ack-1", labels={"site": "berlin"})
    number = device.report(starts=3, cause="crash")
    device.acknowledged(number)
    shown = centre.server.get("/devices/ack-1")
    assert shown["online"]
    assert (shown["starts"], shown["cause"], shown["labels"]) == (3, "crash", {"site": "berlin"})
    assert shown["inventory"]["arch"] == "x86_64"
    device.close()


def test_an_event_is_kept_once_however_often_it_is_sent(centre: Centre) -> None:
    device = centre.device("event-1")
    number = device.event("restart", "crash", detail="exit 1", data={"starts": 4})
    device.acknowledged(number)
    device.seq -= 1
    device.event("restart", "crash", detail="exit 1", data={"starts": 4})
    device.acknowledged(device.report())
    events = [event for event in centre.server.get("/events?device=event-1")["items"] if event["kind"] == "restart"]
    assert [(event["cause"], event["data"]["starts"]) for event in events] == [("crash", 4)]
    device.close()


def test_an_older_state_changes_nothing_and_is_acknowledged_with_the_newest(centre: Centre) -> None:
    device = centre.device("order-1")
    device.report(starts=1)
    newest = device.report(starts=2)
    device.acknowledged(newest)
    device.seq = 0
    device.report(starts=1)
    device.wait("a second ack", lambda: device.acks.count(newest) >= 2)
    assert centre.server.get("/devices/order-1")["starts"] == 2
    device.close()


@pytest.mark.parametrize(
    ("kind", "message", "code"),
    [
        ("state", b"\xff\xfe", "message.syntax"),
        ("state", b'{"v":1}', "message.schema"),
        ("event", b'{"v":1,"boot":1,"seq":1,"kind":"restart","more":1}', "message.schema"),
        ("presence", b"[" * 1000, "message.s"),
        ("progress", b"x" * 2000, "message.too_large"),
    ],
)
def test_a_bad_message_is_counted_and_dropped_and_the_next_one_taken(
    centre: Centre, kind: str, message: bytes, code: str
) -> None:
    device = centre.device(f"bad-{kind}-{len(message)}")
    before = sum(
        count for each, count in centre.server.get("/health")["refused_messages"].items() if each.startswith(code)
    )
    device.publish(kind, message)
    device.acknowledged(device.report())
    after = sum(
        count for each, count in centre.server.get("/health")["refused_messages"].items() if each.startswith(code)
    )
    assert after == before + 1
    device.close()


def test_offline_of_an_old_session_does_not_count(centre: Centre) -> None:
    device = centre.device("session-1", session=5)
    device.farewell(4)
    device.acknowledged(device.report())
    assert centre.server.get("/devices/session-1")["online"]
    device.farewell(5)
    device.acknowledged(device.report())
    assert not centre.server.get("/devices/session-1")["online"]
    device.close()


def test_a_device_that_loses_its_power_is_shown_offline_by_its_will(centre: Centre) -> None:
    device = centre.device("will-1")
    device.acknowledged(device.report())
    device.vanish()
    eventually("the will", lambda: not centre.server.get("/devices/will-1")["online"])


def test_a_silent_device_is_shown_offline_at_the_deadline(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", offline_after_s=5) as server:
        identity = server.enrol("silent-1", tmp_path)
        device = MqttDevice(identity, server.facts["mqtt"], server.ca)
        device.birth()
        device.acknowledged(device.report())
        eventually("the deadline", lambda: not server.get("/devices/silent-1")["online"], 60)
        device.acknowledged(device.report())
        assert server.get("/devices/silent-1")["online"]
        device.close()


def test_a_device_can_write_to_and_hear_of_nothing_but_its_own_topics(centre: Centre) -> None:
    victim = centre.device("victim-1")
    victim.acknowledged(victim.report(starts=1))
    identity = centre.server.enrol("thief-1", centre.work)
    thief = MqttDevice(identity, centre.server.facts["mqtt"], centre.server.ca, subscribe="#")
    for kind in topics.UP_KINDS:
        assert thief.publish(kind, b"{}", device="victim-1", retain=True) == "Not authorized"
    thief.acknowledged(thief.report())
    victim.acknowledged(victim.report(starts=2))
    centre.server.post("/devices/victim-1/command", {"name": "report"}, 202)
    victim.wait("the command", lambda: [1 for kind, _ in victim.received if kind == "command"])
    thief.acknowledged(thief.report())
    assert {kind for kind, _ in thief.received} == {"ack"}, "only its own down topics reach it"
    assert centre.server.get("/devices/victim-1")["starts"] == 2
    for device in (victim, thief):
        device.close()


def test_the_name_in_the_certificate_is_the_client_id_whatever_the_client_says(centre: Centre) -> None:
    victim = centre.device("victim-2")
    victim.acknowledged(victim.report())
    identity = centre.server.enrol("thief-2", centre.work)
    pretended = type(identity)("victim-2", identity.key, identity.certificate)
    thief = MqttDevice(pretended, centre.server.facts["mqtt"], centre.server.ca)
    thief.publish("presence", b"{}")
    victim.acknowledged(victim.report(starts=7))
    assert victim.connections == 1, "the session of the victim was not taken over"
    assert centre.server.get("/devices/victim-2")["starts"] == 7
    for device in (victim, thief):
        device.close()


def test_nobody_without_a_certificate_of_the_fleet_reaches_the_broker(centre: Centre, tmp_path: Path) -> None:
    host, _, port = centre.server.facts["mqtt"].rpartition(":")
    stranger = tmp_path / "stranger"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subject = ["-subj", "/CN=_server", "-keyout", f"{stranger}.key", "-out", f"{stranger}.pem"]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    for pair in ([], ["-cert", f"{stranger}.pem", "-key", f"{stranger}.key"]):
        where = ["-connect", f"{host}:{port}", "-CAfile", str(centre.server.ca), "-tls1_2"]
        done = subprocess.run(["openssl", "s_client", *where, *pair], input=b"", capture_output=True, timeout=30)
        assert done.returncode != 0


def drawn(rollout: dict[str, Any], devices: Sequence[MqttDevice]) -> list[MqttDevice]:
    """The devices, the one canary first: the lot chose it."""
    canary = {member["id"]: member["canary"] for member in rollout["devices"]}
    return sorted(devices, key=lambda device: not canary[device.name])


def test_a_rollout_goes_canary_first_and_ends_when_all_are_committed(own_centre: Centre) -> None:
    server = own_centre.server
    manifest = own_centre.author.publish(PRODUCT, "1.0.0")["manifest"]
    devices = [own_centre.device(f"dev-{number}", labels={"site": "berlin"}) for number in (1, 2, 3)]
    for device in devices:
        device.acknowledged(device.report())
    started = server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "selector": "site=berlin"})
    canary, *rest = drawn(started, devices)
    assignment = canary.wait_for_offer()
    path = f"{PRODUCT}/1.0.0/x86_64-glibc-otp25/manifest"
    assert assignment["targets"][path]["hashes"]["sha256"] == manifest
    assert assignment["beamfleet"] | {"time": 0} == {
        "v": 1,
        "device": canary.name,
        "app": "main",
        "attempt": 1,
        "nonce": None,
        "time": 0,
    }
    shown = server.get(f"/rollouts/{started['id']}")
    assert (shown["state"], shown["phase"]) == ("running", "canary")
    assert sorted((member["id"], member["state"], member["canary"]) for member in shown["devices"]) == sorted(
        [(canary.name, "offered", True), *((device.name, "pending", False) for device in rest)]
    )
    canary.acknowledged(canary.report(update=update("trial", manifest), sequence=assignment["version"]))
    assert not any(device.desired for device in rest)
    canary.report(**committed(manifest))
    for device in rest:
        device.wait_for_offer()
        device.report(**committed(manifest))
    eventually("the end", lambda: server.get(f"/rollouts/{started['id']}")["state"] == "completed")
    shown = server.get(f"/rollouts/{started['id']}")
    assert (shown["phase"], shown["counts"]["committed"]) == ("done", 3)
    assert server.get("/devices/dev-2")["version"] == "1.0.0"
    for device in devices:
        device.close()


def test_a_canary_that_reverts_halts_the_rollout_and_nobody_else_sees_it(own_centre: Centre) -> None:
    server = own_centre.server
    manifest = own_centre.author.publish(PRODUCT, "1.0.0")["manifest"]
    devices = [own_centre.device(f"dev-{number}") for number in (1, 2)]
    for device in devices:
        device.acknowledged(device.report())
    started = server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True})
    number = started["id"]
    canary, other = drawn(started, devices)
    canary.wait_for_offer()
    canary.acknowledged(canary.report(update=update("reverted", manifest, reason="crash")))
    eventually("the halt", lambda: server.get(f"/rollouts/{number}")["state"] == "halted")
    shown = server.get(f"/rollouts/{number}")
    assert shown["reason"].endswith(f": {canary.name} reverted: crash")
    assert shown["counts"] | {"reverted": 1, "pending": 1} == shown["counts"]
    other.acknowledged(other.report())
    assert not other.desired
    for device in devices:
        device.close()


def test_the_broker_dies_in_mid_rollout_and_every_device_has_its_assignment_again(own_centre: Centre) -> None:
    server = own_centre.server
    manifest = own_centre.author.publish(PRODUCT, "1.0.0")["manifest"]
    device = own_centre.device("dev-1")
    device.acknowledged(device.report())
    server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True})
    device.acknowledged(device.report(sequence=device.wait_for_offer()["version"]))  # no safety net repeats it now
    broker = server.broker_pid
    assert broker is not None
    (server.data / "broker" / "mosquitto.db").unlink(missing_ok=True)
    os.kill(broker, signal.SIGKILL)
    device.wait("a new connection", lambda: device.connections >= 2)
    device.wait_for_offer(2)
    assert device.desired[0] == device.desired[1]
    device.birth()
    device.acknowledged(device.report(**committed(manifest)))
    eventually("the end", lambda: server.get("/rollouts/1")["state"] == "completed")
    device.close()


def test_the_server_dies_between_offer_and_report_and_the_rollout_goes_on(own_centre: Centre) -> None:
    server = own_centre.server
    manifest = own_centre.author.publish(PRODUCT, "1.0.0")["manifest"]
    device = own_centre.device("dev-1")
    device.acknowledged(device.report())
    server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True})
    server.kill()
    server.start()
    device.wait_for_offer()
    device.acknowledged(device.report(**committed(manifest)))
    eventually("the end", lambda: server.get("/rollouts/1")["state"] == "completed")
    assert len({json.dumps(each, sort_keys=True) for each in device.desired}) == 1, "nothing was signed twice"
    device.close()


def test_what_is_said_while_the_server_is_dead_is_not_lost_and_nothing_is_heard_twice(own_centre: Centre) -> None:
    server, device = own_centre.server, own_centre.device("dev-1")
    device.publish("event", b"not a message")
    device.acknowledged(device.report())
    server.kill()
    number = device.event("restart", "crash")
    server.start()
    device.acknowledged(number)
    eventually("its kept event", lambda: [each for each in server.get("/events")["items"] if each["kind"] == "restart"])
    assert server.get("/health")["refused_messages"] == {}, "what was acknowledged does not come again"
    device.close()


def test_a_device_that_enrols_while_the_server_is_killed_gets_the_same_certificate(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        token = server.new_token("dev-1")
        request = pki.make_request(pki.create_key(tmp_path / "key"), "dev-1")
        first = server.simpleenroll("dev-1", token, request)
        server.kill()
        server.start()
        assert server.simpleenroll("dev-1", token, request).content == first.content


def test_topics_are_those_of_the_protocol(centre: Centre) -> None:
    acl = (centre.server.data / "broker" / "acl").read_text()
    for kind in topics.UP_KINDS:
        assert f"pattern write {topics.PREFIX}/%u/main/up/{kind}\n" in acl
    assert "#" not in acl
