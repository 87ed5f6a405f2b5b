"""Evidence and logs over the real listeners: who may ask, what a device may hand in, and what the audit says of it."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from beamfleet_bundles import drafts, recipients
from beamfleet_bundles.sealing import seal
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.server.conftest import Centre
from tests.support.author import _text, now
from tests.support.mqtt_device import MqttDevice

ANNA = recipients.of(X25519PrivateKey.generate(), "anna")
PIECE = 1 << 17


def names(centre: Centre, *who: recipients.Recipient) -> None:
    """The owners of targets say who may open evidence."""
    held = centre.author.held("targets")
    version = centre.server.get("/metadata/versions")["roles"]["targets"]["next"]
    top = drafts.next_targets(held, "targets", now(), version)
    recipients.write(top, who)
    signed = drafts.signed(drafts.unsigned(top), centre.author.keys["targets"])
    answer = centre.server.api("POST", "/metadata", json={"targets": _text(signed)})
    assert answer.status_code < 300, answer.text


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


class Talking:
    """A device with a certificate and a session whose agent is new enough."""

    def __init__(self, centre: Centre, name: str) -> None:
        self.centre, self.name = centre, name
        self.identity = centre.server.enrol(name, centre.work)
        self.mqtt = MqttDevice(self.identity, centre.server.facts["mqtt"], centre.server.ca)
        self.mqtt.publish("presence", {**self.mqtt._presence(online=True, reason="start"), "keepalive_s": 90})
        self.mqtt.acknowledged(self.mqtt.report())

    def put(self, word: str, offset: int, total: int, piece: bytes) -> requests.Response:
        pair = (str(self.identity.certificate), str(self.identity.key))
        query = {"id": word, "offset": str(offset), "total": str(total)}
        url = f"{self.centre.server.facts['devices']}/evidence"
        return requests.put(url, params=query, data=piece, cert=pair, verify=str(self.centre.server.ca), timeout=60)

    def command(self, name: str) -> dict[str, Any]:
        def find() -> Any:
            said = [json.loads(payload) for kind, payload in self.mqtt.received if kind == "command"]
            return next((each for each in said if each["name"] == name), None)

        found: dict[str, Any] = self.mqtt.wait(f"the command {name}", find)
        return found


@pytest.fixture(scope="module")
def talking(centre: Centre) -> Iterator[Talking]:
    made = Talking(centre, "evidence-1")
    yield made
    names(centre)
    made.mqtt.close()


def ask(talking: Talking) -> dict[str, Any]:
    found: dict[str, Any] = talking.centre.server.post(f"/devices/{talking.name}/evidence", {}, 202)
    return found


def test_nobody_is_asked_who_could_not_answer(centre: Centre, talking: Talking) -> None:
    place = f"/devices/{talking.name}/evidence"
    names(centre)
    assert code(centre.server.api("POST", place)) == (409, "evidence.no_key")
    names(centre, ANNA)
    old = centre.device("evidence-old")
    old.acknowledged(old.report())
    assert code(centre.server.api("POST", "/devices/evidence-old/evidence")) == (409, "device.old_agent")
    assert code(centre.server.api("GET", "/devices/evidence-old/logs")) == (409, "device.old_agent")
    old.farewell(1)
    old.acknowledged(old.report())
    assert code(centre.server.api("POST", "/devices/nobody-here/evidence")) == (404, "device.unknown")
    old.close()


def test_a_device_hands_in_what_was_asked_for_and_the_audit_has_one_entry_of_it(
    centre: Centre, talking: Talking
) -> None:
    names(centre, ANNA)
    asked = ask(talking)
    assert asked["recipients"] == [{"name": "anna", "key": ANNA.id}]
    assert talking.command("diagnose")["id"] == asked["id"]
    word = asked["id"]
    place = f"/devices/{talking.name}/evidence/{word}"
    sealed = b"".join(seal(b"x" * 3 * PIECE, talking.name, word, [ANNA]))
    assert code(centre.server.api("GET", place)) == (409, "evidence.waits")
    for offset in range(0, len(sealed), PIECE):
        answer = talking.put(word, offset, len(sealed), sealed[offset : offset + PIECE])
        assert answer.json() == {"received": min(len(sealed), offset + PIECE)}
    assert centre.server.fetch(talking.identity, f"/evidence?id={word}").json() == {"received": len(sealed)}
    assert centre.server.api("GET", place).content == sealed
    listed = centre.server.get(f"/devices/{talking.name}/evidence")["items"]
    assert (listed[0]["id"], listed[0]["state"], listed[0]["bytes"]) == (word, "complete", len(sealed))
    entries = centre.server.get("/audit?newest=true&limit=30")["items"]
    put = [entry for entry in entries if entry["action"] == "device.put_evidence"]
    assert [(entry["target"], entry["detail"]) for entry in put] == [
        (talking.name, f"evidence {word}, {len(sealed)} bytes")
    ]
    assert [entry["detail"] for entry in entries if entry["action"] == "evidence.ask"][-1] == f"evidence {word}"
    assert centre.server.api("DELETE", place).status_code == 200
    assert code(centre.server.api("GET", place)) == (404, "evidence.unknown")


def test_nothing_else_is_taken(centre: Centre, talking: Talking) -> None:
    names(centre, ANNA)
    word = ask(talking)["id"]
    other = centre.server.enrol("evidence-2", centre.work)
    stranger = Talking.__new__(Talking)
    stranger.centre, stranger.name, stranger.identity = centre, "evidence-2", other
    assert code(stranger.put(word, 0, 10, b"x")) == (404, "evidence.unknown"), "what another was asked for"
    assert code(talking.put("f" * 16, 0, 10, b"x")) == (404, "evidence.unknown")
    assert code(talking.put(word, 5, 10, b"x")) == (409, "evidence.offset")
    assert code(talking.put(word, 0, 2 * PIECE, b"x" * (PIECE + 1))) == (413, "request.too_large")
    for wrong in ("../../x", "F" * 16, ""):
        assert talking.put(wrong, 0, 10, b"x").status_code == 422
    assert code(talking.put(word, 0, 17 << 20, b"x")) == (413, "evidence.too_large")
    assert centre.server.get(f"/devices/{talking.name}/evidence")["items"] == []


def test_a_log_is_passed_on_while_somebody_reads_it(centre: Centre, talking: Talking) -> None:
    heard: list[dict[str, Any]] = []

    def read() -> None:
        query = {"lines": "7", "follow": "true"}
        with centre.server.api("GET", f"/devices/{talking.name}/logs", params=query, stream=True) as answer:
            lines = answer.iter_lines(chunk_size=None)
            heard.extend(json.loads(line[6:]) for line in lines if line.startswith(b"data: "))

    reader = threading.Thread(target=read)
    reader.start()
    wish = talking.command("logs")
    assert (wish["lines"], wish["follow_s"]) == (7, 60)
    said = {"v": 1, "id": wish["id"], "lines": ["one", "two"], "missed": 3, "end": False}
    talking.mqtt.publish("logs", said)
    talking.mqtt.publish("logs", {**said, "id": "another", "lines": ["not for you"]})
    talking.mqtt.publish("logs", {**said, "lines": ["three"], "missed": 0, "end": True})
    reader.join(30)
    assert not reader.is_alive()
    assert heard == [
        {"lines": ["one", "two"], "missed": 3, "end": False},
        {"lines": ["three"], "missed": 0, "end": True},
    ]
    entries = centre.server.get("/audit?newest=true&limit=10")["items"]
    assert ("logs.stream", talking.name, "followed") in [
        (entry["action"], entry["target"], entry["detail"]) for entry in entries
    ]
