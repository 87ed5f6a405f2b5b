"""Webhooks of a real server to real receivers: signed, tried again, bounded, and nothing lost when the server dies."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from beamfleet_server.webhooks.addresses import Addresses, parsed
from beamfleet_server.webhooks.sending import Sender, client_context

from tests.server.conftest import PRODUCT, open_centre
from tests.support.certificates import self_signed
from tests.support.hooks import FAST, Hooks, Item
from tests.support.mqtt_device import committed, update
from tests.support.receiver import Receiver, answers, silent
from tests.support.server import eventually, running_server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Hooks]:
    work = tmp_path_factory.mktemp("hooks")
    with running_server(work / "server", webhook_ca_file=certificate[0], **FAST) as server:
        yield Hooks(server, work / "devices")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(autouse=True)
def forget(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins without webhooks of another one."""
    yield
    if "hooks" in request.fixturenames:
        server = request.getfixturevalue("hooks").server
        for hook in server.get("/webhooks")["items"]:
            assert server.api("DELETE", f"/webhooks/{hook['id']}").status_code == 200


def test_an_event_is_told_at_once_signed_with_the_secret_that_was_shown_once(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.create(receiver, "enrolled")
    (device,) = hooks.happen()
    (received,) = receiver.wait()
    assert received.line == "POST /hook?of=test HTTP/1.1"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert received.signed_by(hook["secret"])
    assert not received.signed_by("whsec_" + "A" * 43 + "=")
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    body = received.json
    assert body.keys() == {"v", "type", "timestamp", "event", "rollout"}
    assert (body["v"], body["type"], body["rollout"]) == (1, "enrolled.token", None)
    (event,) = hooks.server.get(f"/events?device={device}&kind=enrolled")["items"]
    assert body["event"] == event
    (delivery,) = hooks.delivered(hook)
    assert (delivery["message"], delivery["event"], delivery["tries"]) == (received.id, event["id"], 1)
    assert (delivery["status"], delivery["next_try"]) == (204, None)


def test_a_secret_is_nowhere_but_in_the_answer(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.create(receiver)
    hooks.happen()
    hooks.delivered(hook)
    secret = hook["secret"]
    for path in ("/webhooks", f"/webhooks/{hook['id']}", f"/webhooks/{hook['id']}/deliveries", "/audit", "/config"):
        assert secret not in hooks.server.api("GET", path).text, path
    data = hooks.server.data
    for file in [hooks.server.log, *(each for each in data.rglob("*") if each.is_file())]:
        assert secret.removeprefix("whsec_").encode() not in file.read_bytes(), file


def test_a_rollout_comes_with_its_summary_and_only_the_wanted_causes_come(tmp_path: Path, receiver: Receiver) -> None:
    with running_server(tmp_path / "server", **FAST) as server:
        centre = open_centre(tmp_path, server)
        hooks = Hooks(server, tmp_path)
        hooks.create(receiver, "rollout", causes=["completed"])
        manifest = centre.author.publish(PRODUCT, "1.0.0")["manifest"]
        device = centre.device("gw-1")
        device.acknowledged(device.report(**committed(manifest)))
        rollout = server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True})
        (received,) = receiver.wait()
        body = received.json
        assert body["type"] == "rollout.completed"
        summary = body["rollout"]
        assert (summary["id"], summary["state"], summary["counts"]["committed"]) == (rollout["id"], "completed", 1)
        assert summary.keys() == {
            *("id", "kind", "product", "version", "state", "phase", "reason", "note", "created", "finished", "counts"),
        }
        device.close()


def test_a_halt_is_told_with_its_reason(tmp_path: Path, receiver: Receiver) -> None:
    with running_server(tmp_path / "server", **FAST) as server:
        centre = open_centre(tmp_path, server)
        hooks = Hooks(server, tmp_path)
        manifest = centre.author.publish(PRODUCT, "1.0.0")["manifest"]
        device = centre.device("gw-1")
        device.acknowledged(device.report())
        hooks.create(receiver, "rollout", causes=["halted"])
        rollout = server.post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True})
        device.wait_for_offer()
        device.acknowledged(device.report(update=update("reverted", manifest, reason="crash")))
        (received,) = receiver.wait()
        body = received.json
        assert (body["type"], body["event"]["rollout"]) == ("rollout.halted", rollout["id"])
        assert "crash" in body["event"]["detail"]
        assert (body["rollout"]["state"], body["rollout"]["phase"]) == ("halted", "canary")
        assert (body["rollout"]["reason"], body["rollout"]["counts"]["reverted"]) == (body["event"]["detail"], 1)
        device.close()


def test_what_fails_is_tried_again_under_the_same_id(hooks: Hooks, receiver: Receiver) -> None:
    behaviours = iter([answers(500), answers(503, "Retry-After: 1"), answers(200)])

    def better_each_time(connection: socket) -> None:
        next(behaviours)(connection)

    receiver.behave = better_each_time
    hook = hooks.create(receiver, "enrolled")
    hooks.happen()
    received = receiver.wait(3)
    assert len({each.id for each in received}) == 1
    assert all(each.signed_by(hook["secret"]) for each in received)
    (delivery,) = hooks.delivered(hook)
    assert (delivery["tries"], delivery["error"]) == (3, "")
    assert hooks.show(hook)["state"] == "ok"


def test_a_redirect_is_not_followed(hooks: Hooks, receiver: Receiver) -> None:
    other = Receiver()
    receiver.behave = answers(307, f"Location: {other.url}")
    hook = hooks.create(receiver, "enrolled")
    hooks.happen()
    receiver.wait(2)
    (delivery,) = hooks.deliveries(hook)
    assert (delivery["state"], delivery["status"], delivery["error"]) == ("pending", 307, "it answered 307")
    assert other.connections == 0
    other.close()


def drips(connection: socket, until: threading.Event) -> None:
    with suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nX-Drip: " + b"x" * 300:
            if until.wait(0.1):
                return
            connection.sendall(bytes([byte]))


def babbles(connection: socket, _: threading.Event) -> None:
    connection.sendall(b"220 mail.example ESMTP\r\n")


def never_ends(connection: socket, until: threading.Event) -> None:
    with suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not until.is_set():
            connection.sendall(b"X-Endless: " + b"x" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (silent, "no answer within 2 s"),
        (drips, "no answer within 2 s"),
        (babbles, "the answer is no HTTP"),
        (lambda *_: None, "the receiver closed the connection without an answer"),
        (never_ends, "the answer does not come to an end"),
    ],
)
def test_a_receiver_that_does_not_answer_as_one_is_left_in_time(
    hooks: Hooks, receiver: Receiver, behaviour: Any, error: str
) -> None:
    receiver.behave = lambda connection: behaviour(connection, receiver.released)
    hook = hooks.create(receiver, "enrolled")
    hooks.happen()
    receiver.wait(2)
    (delivery,) = hooks.deliveries(hook)
    assert (delivery["status"], delivery["error"]) == (0, error)


def test_an_endless_body_does_not_matter_once_the_status_is_there(hooks: Hooks, receiver: Receiver) -> None:
    def pours(connection: socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with suppress(OSError):
            while not receiver.released.is_set():
                connection.sendall(b"x" * 65536)

    receiver.behave = pours
    hook = hooks.create(receiver, "enrolled")
    hooks.happen()
    assert hooks.delivered(hook)[0]["tries"] == 1


def test_nobody_waits_for_a_receiver_that_is_slow_or_away(hooks: Hooks, receiver: Receiver) -> None:
    slow = [Receiver() for _ in range(5)]
    for each in slow:
        each.behave = lambda connection, each=each: silent(connection, each.released)  # type: ignore[misc]
        hooks.create(each, "enrolled")
    away = Receiver()
    away.close()
    hooks.create(away, "enrolled")
    hook = hooks.create(receiver, "enrolled")
    names = hooks.happen(5)
    hooks.delivered(hook, 5)
    assert [each.json["event"]["device"] for each in receiver.received] == names, "in the order of events"
    assert all(len(each.received) < 5 for each in slow)
    for each in slow:
        each.close()


def test_one_message_that_is_refused_does_not_hold_the_others_up(hooks: Hooks, receiver: Receiver) -> None:
    def picky(connection: socket) -> None:
        first, last = (receiver.received[each].json["event"]["device"] for each in (0, -1))
        (answers(400) if last == first else answers(200))(connection)

    receiver.behave = picky
    hook = hooks.create(receiver, "enrolled")
    hooks.happen(3)
    assert len(hooks.delivered(hook, 2, deadline_s=150)) == 2  # they wait for the first one's pauses, 32 s in the end
    (pending,) = hooks.deliveries(hook, "?state=pending")
    assert pending["error"] == "it answered 400"


def test_tls_is_verified(hooks: Hooks, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = Receiver(certificate), Receiver(self_signed(tmp_path))
    trusted, foreign = hooks.create(good, "enrolled"), hooks.create(bad, "enrolled")
    hooks.happen()
    assert good.wait()[0].signed_by(trusted["secret"])
    failing = eventually("a failure", lambda: [one] if (one := hooks.show(foreign))["state"] == "failing" else None)[0]
    assert failing["error"].startswith("its certificate is not good: self-signed certificate")
    assert failing["failing_since"] is not None
    assert bad.received == []
    good.close()
    bad.close()


def test_a_certificate_for_another_name_is_not_good(certificate: tuple[Path, Path]) -> None:
    receiver = Receiver(certificate)

    async def post() -> str:
        sender = Sender(Addresses(["127.0.0.0/8", "::1/128"]), client_context(certificate[0]), 5)
        return (await sender.post(parsed(f"https://localhost:{receiver.port}/"), {}, b"{}")).error

    assert "certificate is not good: Hostname mismatch" in asyncio.run(post())
    receiver.close()


def test_nothing_is_sent_to_a_private_address_unless_a_setting_names_its_network(
    tmp_path: Path, receiver: Receiver
) -> None:
    with running_server(tmp_path / "server") as server:
        hooks = Hooks(server, tmp_path)
        for url in (receiver.url, receiver.url.replace("http:", "https:"), "https://169.254.169.254/x"):
            refused = server.api("POST", "/webhooks", json={"url": url})
            assert (refused.status_code, refused.json()["code"]) == (422, "webhook.address")
        made = server.post("/webhooks", {"url": f"https://localhost:{receiver.port}/"})
        hooks.happen()
        failing = eventually("a failure", lambda: [one] if (one := hooks.show(made))["error"] else None)[0]
        assert failing["error"] == "its address is not public, and no network of webhook_networks"
        assert receiver.connections == 0


def test_both_secrets_are_good_for_a_while_after_a_rotation(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.create(receiver, "enrolled")
    rotated = hooks.ask(hook, "rotate")
    assert rotated["old_secret_until"] is not None
    hooks.happen()
    first = receiver.wait()[0]
    assert first.signed_by(hook["secret"])
    assert first.signed_by(rotated["secret"])
    stolen, newest = rotated, hooks.ask(hook, "rotate", overlap_s=0)
    hooks.happen()
    second = receiver.wait(2)[1]
    assert second.signed_by(newest["secret"])
    assert not second.signed_by(stolen["secret"])
    assert not second.signed_by(hook["secret"])


def test_a_test_is_sent_at_once_and_says_what_came_of_it(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.create(receiver, "rollout")
    hooks.ask(hook, "disable")
    tested = hooks.ask(hook, "test")
    assert (tested["state"], tested["status"], tested["type"]) == ("delivered", 204, "webhook.test")
    (received,) = receiver.received
    assert (received.type, received.id) == ("webhook.test", tested["message"])
    assert received.signed_by(hook["secret"])
    receiver.behave = answers(404)
    again = hooks.ask(hook, "test")
    assert (again["state"], again["error"], again["tries"]) == ("failed", "it answered 404", 1)
    assert again["message"] != tested["message"]


def test_a_disabled_webhook_sends_nothing_until_it_is_enabled_again(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.create(receiver, "enrolled")
    disabled = hooks.ask(hook, "disable")
    assert (disabled["state"], disabled["reason"]) == ("disabled", "disabled by admin")
    (missed,) = hooks.happen()
    assert receiver.received == []
    hooks.ask(hook, "enable")
    assert receiver.wait()[0].json["event"]["device"] == missed


def test_a_receiver_that_says_it_is_gone_ends_its_webhook_with_an_event(hooks: Hooks, receiver: Receiver) -> None:
    watcher = Receiver()
    hooks.create(watcher, "webhook")
    receiver.behave = answers(410)
    hook = hooks.create(receiver, "enrolled")
    hooks.happen()
    told = watcher.wait()[0].json["event"]
    assert (told["kind"], told["cause"], told["data"]) == ("webhook", "disabled", {"webhook": hook["id"]})
    assert hooks.show(hook)["state"] == "disabled"
    watcher.close()


def test_who_did_what_with_a_webhook_is_in_the_audit_without_the_rest_of_its_url(
    hooks: Hooks, receiver: Receiver
) -> None:
    hook = hooks.create(receiver, "enrolled")
    hooks.ask(hook, "rotate")
    hooks.ask(hook, "test")
    assert hooks.server.api("DELETE", f"/webhooks/{hook['id']}").status_code == 200
    entries = hooks.server.get("/audit?newest=true&limit=20")["items"]
    acts = [entry["action"] for entry in entries if entry["action"].startswith("webhooks.")][-4:]
    assert acts == ["webhooks.create", "webhooks.rotate", "webhooks.test", "webhooks.delete"]
    assert "of=test" not in json.dumps(entries)
    assert "of=test" not in hooks.server.log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/webhooks", {"url": "https://user:word@hooks.example/"}, (422, "webhook.url")),
        ("POST", "/webhooks", {"url": "https://hooks.example/", "kinds": ["Not One"]}, (422, "request.schema")),
        ("POST", "/webhooks", {"url": "https://hooks.example/", "secret": "mine"}, (422, "request.schema")),
        ("GET", "/webhooks/999", None, (404, "webhook.unknown")),
        ("GET", "/webhooks/999/deliveries", None, (404, "webhook.unknown")),
        ("POST", "/webhooks/999/test", None, (404, "webhook.unknown")),
        ("POST", "/webhooks/999/rotate", {"overlap_s": -1}, (422, "request.schema")),
        ("POST", "/webhooks/999/redeliver", {}, (404, "webhook.unknown")),
        ("DELETE", "/webhooks/999", None, (404, "webhook.unknown")),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    hooks: Hooks, method: str, path: str, body: Item | None, expected: tuple[int, str]
) -> None:
    answer = hooks.server.api(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == expected
