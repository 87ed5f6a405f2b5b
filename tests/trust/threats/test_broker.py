"""A broker in other hands, with the fleet's certificate: it can keep silent and lie about status, and install nothing.

A mosquitto of its own says everything that it can say to a device whose HTTPS server is the true one."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from tests.support.fleet import Fleet, wait_for
from tests.support.interception import identity_of
from tests.support.thief import Published, Thief
from tests.trust.threats.captive import PRODUCT, Captive, captured, committed, failures, logged, running_device, seen

pytestmark = pytest.mark.suite(name="trust")


@pytest.fixture(scope="module")
def captive(here: Fleet, work: Path) -> Iterator[Captive]:
    with captured(here, running_device(here, "listener"), work / "listener") as made:
        yield made


@pytest.fixture(scope="module")
def server(here: Fleet, work: Path) -> Thief:
    """What the true server could sign, to be said to the wrong one or at the wrong time."""
    return Thief(here.data, work / "listener-server")


def changed(document: bytes, **beamfleet: Any) -> bytes:
    """An assignment with other words than were signed."""
    content = json.loads(document)
    content["signed"]["beamfleet"] |= beamfleet
    return json.dumps(content).encode()


def unsigned(document: bytes) -> bytes:
    return json.dumps(json.loads(document) | {"signatures": []}).encode()


def plain(content: bytes) -> "Said":
    return lambda _server, _new: content


Said = Callable[[Thief, Published], bytes]
STRANGER = CryptoSigner.generate_ed25519()
ASSIGNMENTS: dict[str, tuple[str, Said]] = {
    "nothing that is JSON": ("assignment.malformed", plain(b"run /bin/sh")),
    "JSON that is nothing": ("assignment.malformed", plain(b"{}")),
    "JSON without an end": ("assignment.malformed", plain(b"[" * 8000)),
    "metadata of another kind": ("assignment.malformed", lambda server, _: server.documents["timestamp"]),
    "a list of releases": ("assignment.signature", lambda server, _: server.documents[PRODUCT]),
    "no signature": ("assignment.signature", lambda server, new: unsigned(server.assign("listener", new))),
    "a key of its own": ("assignment.signature", lambda server, new: server.assign("listener", new, signer=STRANGER)),
    "the snapshot's key": (
        "assignment.signature",
        lambda server, new: server.assign("listener", new, signer=server.signers["snapshot"]),
    ),
    "another attempt than was signed": (
        "assignment.signature",
        lambda server, new: changed(server.assign("listener", new), attempt=7),
    ),
    "another device than was signed": (
        "assignment.signature",
        lambda server, new: changed(server.assign("somebody", new), device="listener"),
    ),
    "somebody else's": ("assignment.wrong_device", lambda server, new: server.assign("somebody", new)),
    "another application's": ("assignment.wrong_app", lambda server, new: server.assign("listener", new, app="other")),
    "one from long ago": ("assignment.replayed", lambda server, new: server.assign("listener", new, sequence=1)),
}


@pytest.mark.parametrize("kind", ASSIGNMENTS)
def test_no_assignment_but_the_directors_own_newest_is_followed(captive: Captive, server: Thief, kind: str) -> None:
    codes, said = ASSIGNMENTS[kind]
    captive.refuses(codes, lambda: captive.push(said(server, server.release(PRODUCT, "1.1.0"))))


def test_one_that_has_expired_makes_the_device_ask_its_server_with_a_nonce(captive: Captive, server: Thief) -> None:
    before, asked = seen(captive.device), captive.front.asked.count("/assignment")
    release, expired = server.release(PRODUCT, "1.1.0"), timedelta(seconds=-1)
    captive.push(server.assign("listener", release, lives=expired))
    wait_for("a question", lambda: captive.front.asked.count("/assignment") > asked, deadline_s=20)
    wait_for("the worker to end", lambda: captive.device.worker_pid() is None, deadline_s=30)
    assert json.loads(captive.front.heard["/assignment"])["signed"]["beamfleet"]["nonce"]
    assert seen(captive.device) == before


UNHEARD: dict[str, tuple[str, bytes]] = {
    "an assignment larger than any": ("desired", b" " * 8193),
    "an assignment that is no text": ("desired", b"\xff\xfe"),
    "a command that is no JSON": ("command", b"reboot"),
    "a command without a name": ("command", b'{"v":1,"id":"1"}'),
    "a command larger than any": ("command", b'{"v":1,"id":"1","name":"refresh"}' + b" " * 512),
    "a command that is a list": ("command", b'["refresh"]'),
    "an ack that is no JSON": ("ack", b"yes"),
    "an ack of another kind": ("ack", b'{"v":1,"boot":"all","seq":[]}'),
    "an ack that is deep": ("ack", b"[" * 500),
}


@pytest.mark.parametrize("kind", UNHEARD)
def test_what_is_no_message_is_dropped_aloud(captive: Captive, kind: str) -> None:
    before, dropped = seen(captive.device), len(logged(captive.device, "message not understood"))
    captive.broker.tell("listener", UNHEARD[kind][0], UNHEARD[kind][1])

    def told() -> bool:
        return len(logged(captive.device, "message not understood")) == dropped + 1

    wait_for("it to be dropped", told, deadline_s=20)
    assert seen(captive.device) == before


def test_a_command_can_make_a_device_look_and_tell_and_nothing_else(captive: Captive) -> None:
    before, asked, refused = seen(captive.device), len(captive.front.asked), failures(captive.device)
    agent = captive.device.agent_pid()
    for number, name in enumerate(("install", "rollback", "exec", "stop", "diagnose", "refresh", "report") * 30):
        captive.broker.tell("listener", "command", {"v": 1, "id": str(number), "name": name, "argv": ["/bin/sh"]})
    told = len(captive.broker.of("state"))
    captive.broker.tell("listener", "command", {"v": 1, "id": "last", "name": "report"})
    captive.broker.wait("a report", lambda: len(captive.broker.of("state")) > told)
    wait_for("the worker to end", lambda: captive.device.worker_pid() is None, deadline_s=30)
    assert (seen(captive.device), failures(captive.device)) == (before, refused)
    assert captive.device.agent_pid() == agent
    assert 0 < len(captive.front.asked) - asked < 60, "thirty wishes in a row are not thirty checks"


def test_a_false_ack_makes_a_device_forget_events_and_nothing_else(captive: Captive) -> None:
    before = seen(captive.device)
    captive.broker.tell("listener", "ack", {"v": 1, "boot": 2**62, "seq": 2**62})
    captive.broker.tell("listener", "ack", {"v": 1, "boot": 0, "seq": 0})
    told = len(captive.broker.of("state"))
    captive.broker.tell("listener", "command", {"v": 1, "id": "after", "name": "report"})
    captive.broker.wait("a report", lambda: len(captive.broker.of("state")) > told)
    assert seen(captive.device) == before


def test_a_flood_of_assignments_changes_nothing(captive: Captive, server: Thief) -> None:
    before, release = seen(captive.device), server.release(PRODUCT, "1.1.0")
    for number in range(300):
        captive.broker.tell("listener", "desired", server.assign("somebody", release, attempt=number + 1))
    captive.refuses("assignment.signature", lambda: captive.push(unsigned(server.assign("listener", release))))
    assert seen(captive.device) == before


def test_whoever_listens_on_the_broker_learns_no_secret(captive: Captive) -> None:
    heard = b"".join(payload for _, _, payload in captive.broker.heard).lower()
    assert captive.broker.of("state")
    key = identity_of(captive.device)[1].read_bytes()
    for secret in (b"private key", b"token", b"password", *key.lower().splitlines()[1:-1]):
        assert secret not in heard, secret


def test_the_true_assignment_is_followed_whoever_brings_it(captive: Captive, server: Thief) -> None:
    captive.push(server.assign("listener", server.release(PRODUCT, "1.1.0")))
    committed(captive.device, "1.1.0")
