"""Whom the broker is told to keep out: flooders for a while, deleted devices for good, their live sessions included."""

import sqlite3
import time
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import topics
from beamfleet_server.flooding import ALLOWANCE_S, Flooding, Judgement

from tests.server.conftest import PRODUCT, Centre, open_centre
from tests.support.mqtt_device import MqttDevice
from tests.support.server import Identity, eventually, running_server

PASS, DROP, CUT = Judgement.PASS, Judgement.DROP, Judgement.CUT


def test_a_minutes_worth_passes_at_once_and_what_is_above_is_dropped() -> None:
    flooding = Flooding(10, 60)
    judged = [flooding.judge("gw-1", 100.0) for _ in range(10 * ALLOWANCE_S + 5)]
    assert judged == [PASS] * 600 + [DROP] * 5
    assert flooding.judge("gw-2", 100.0) is PASS, "others are served"
    assert flooding.judge("gw-1", 100.2) is PASS, "and it may go on at its rate"


def test_who_stays_above_for_a_minute_is_cut_and_a_pause_forgives() -> None:
    flooding = Flooding(1, 60)
    for second in range(200):
        judged = {flooding.judge("gw-1", second + part / 10) for part in range(10)}
        if CUT in judged:
            break
    assert 60 <= second <= 70
    flooding = Flooding(1, 60)
    for _ in range(100):
        flooding.judge("gw-1", 0)
    assert flooding.judge("gw-1", 59) is PASS
    assert all(flooding.judge("gw-1", 61) is not CUT for _ in range(100))


def test_the_last_sender_that_was_heard_is_remembered_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamfleet_server.flooding.MOST", 3)
    flooding = Flooding(1, 60)
    for _ in range(70):
        flooding.judge("gw-1", 0)
    for name in ("a", "gw-1", "b", "c"):
        flooding.judge(name, 0)
    assert flooding.judge("gw-1", 0) is DROP


def flood(device: MqttDevice, count: int) -> None:
    """Publish without waiting for the broker."""
    for number in range(count):
        device._client.publish(topics.up(device.name, "main", "health"), b"nonsense %d" % number, qos=1)


def test_a_flooder_is_throttled_then_cut_then_taken_again_while_others_are_served(tmp_path: Path) -> None:
    settings = {"ingest_rate": 2, "flood_patience_s": 2, "flood_deny_s": 12}
    with running_server(tmp_path / "server", **settings) as server:
        centre = open_centre(tmp_path, server)
        flooder, honest = centre.device("flooder"), centre.device("honest")
        flood(flooder, 300)
        eventually("the throttle", lambda: server.get("/health")["refused_messages"].get("message.rate", 0) > 50)
        end = time.monotonic() + 30
        while flooder._client.is_connected() and time.monotonic() < end:
            flood(flooder, 20)
            time.sleep(0.2)
        taken = flooder.connections
        denied = eventually(
            "the denial",
            lambda: [item for item in server.get("/audit?newest=true")["items"] if item["action"] == "devices.deny"],
        )
        identity = Identity("flooder", centre.work / "flooder.key", centre.work / "flooder.pem")
        refusal = server.fetch(identity, "/assignment")
        assert (refusal.status_code, refusal.json()["code"]) == (429, "request.rate")
        assert 0 < int(refusal.headers["retry-after"]) <= 12
        assert (denied[0]["actor"], denied[0]["target"], denied[0]["outcome"]) == ("server", "flooder", "ok")
        honest.acknowledged(honest.report())  # others are served
        assert [each["kind"] for each in server.get("/events?device=flooder")["items"]].count("denied") == 1
        flooder.wait("to be taken again", lambda: flooder.connections > taken)
        lifted = server.get("/audit?newest=true")["items"][-1]["time"]
        assert lifted >= denied[0]["time"]
        honest.close()
        flooder.close()


def test_a_denied_device_is_not_taken_again_before_its_time(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", ingest_rate=1, flood_patience_s=1, flood_deny_s=3600) as server:
        centre = open_centre(tmp_path, server)
        flooder = centre.device("flooder")
        flood(flooder, 120)
        end = time.monotonic() + 30
        while flooder._client.is_connected() and time.monotonic() < end:
            flood(flooder, 10)
            time.sleep(0.2)
        eventually("the end of its session", lambda: not flooder._client.is_connected())
        taken = flooder.connections
        time.sleep(5)  # nothing tells that somebody is still outside, but time
        assert not flooder._client.is_connected()
        assert flooder.connections <= taken + 1, "at most once more, before mosquitto had read the list"
        server.restart()
        time.sleep(2)
        assert not flooder._client.is_connected(), "a restart forgets no denial"
        flooder.close()


def refused(centre: Centre, identity: Identity) -> bool:
    try:
        return centre.server.fetch(identity, "/assignment").status_code == 403
    except requests.exceptions.SSLError:
        return True


def test_a_deleted_device_is_cut_off_and_all_that_was_known_of_it_is_gone(own_centre: Centre) -> None:
    centre, server = own_centre, own_centre.server
    centre.author.publish(PRODUCT, "1.0.0")
    device = centre.device("leaver-1", labels={"owner": "somebody"})
    device.acknowledged(device.report())
    server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "selector": "owner=somebody"})
    device.wait_for_offer()
    device.acknowledged(device.event("restart", "crash"))
    identity = Identity("leaver-1", centre.work / "leaver-1.key", centre.work / "leaver-1.pem")
    server.new_token("leaver-1", replace=True)

    assert server.api("DELETE", "/devices/leaver-1").json() == {"ended": "leaver-1"}
    eventually("the end of its session", lambda: not device._client.is_connected())
    assert refused(centre, identity)
    assert server.api("GET", "/devices/leaver-1").json()["code"] == "device.unknown"
    assert server.api("DELETE", "/devices/leaver-1").json()["code"] == "device.unknown"
    device.close()
    database = sqlite3.connect(server.data / "beamfleet.db")
    text = "\n".join(line for line in database.iterdump() if 'INTO "audit"' not in line)
    database.close()
    assert "leaver-1" not in text
    asked_for = '"owner": ["somebody"]'  # in the plan of the rollout: an operator's word
    assert asked_for in text
    assert "somebody" not in text.replace(asked_for, "")
    done = [each for each in server.get("/audit?limit=1000")["items"] if each["action"] == "devices.delete"]
    assert [(each["target"], each["outcome"]) for each in done] == [("leaver-1", "ok"), ("leaver-1", "device.unknown")]

    again = centre.device("leaver-1", labels={"owner": "else"})
    again.acknowledged(again.report())
    assert again.desired == [], "nothing retained is left for whoever gets its name"
    server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "selector": "owner=else"})
    again.wait_for_offer()
    again.close()


def test_a_replaced_device_loses_its_live_session_too(own_centre: Centre) -> None:
    old = own_centre.device("stolen-1")
    own_centre.server.enrol("stolen-1", own_centre.work / "new", replace=True)
    eventually("the end of the old session", lambda: not old._client.is_connected())
    old.close()
