"""What a device with a good certificate publishes to the real broker: messages that are none, and topics that are
not its own. The server drops the former with a line of its log, the broker refuses the latter."""

import json
from collections.abc import Callable
from typing import Any

from beamfleet_bundles import topics

from tests.support.mqtt_device import state
from tests.trust.hostile.case import named
from tests.trust.hostile.ground import DEVICE, LIAR, Ground

NUMBERS = {"v": 1, "boot": 1, "seq": 1, "time": 1_700_000_000}
GOOD: dict[str, dict[str, Any]] = {
    "state": state(1, 1),
    "event": NUMBERS | {"kind": "restart", "cause": "crash", "detail": "", "slot": "", "data": {}},
    "progress": {"v": 1, "manifest": "a" * 64, "phase": "downloading", "done": 1, "total": 2},
    "health": {
        "v": 1, "time": 1, "verdict": "healthy", "starts": 1, "full": True, "applications": ["kernel 8.5"],
        "beam": {"memory": {"total": 1}, "processes": [1, 2], "schedulers": 5, "queues": [["a", 1]], "metrics": {}},
        "probes": {"liveness": ["ok", ""]}, "host": {"load": [1, 2, 3], "memory": [1, 2]},
    },
    "logs": {"v": 1, "id": "a", "lines": ["hello"], "missed": 0, "end": False},
    "presence": {
        "v": 1, "session": 1, "online": True, "reason": "", "time": 1, "agent": "", "profile": "", "machine": "",
    },
}  # fmt: skip

Spoil = Callable[[dict[str, Any]], object]


def spoiled(kind: str, change: Spoil) -> Callable[[Ground], str]:
    """A good message of a kind after a change."""

    def give(ground: Ground) -> str:
        message = json.loads(json.dumps(GOOD[kind]))
        change(message)
        return ground.publish(kind, json.dumps(message).encode())

    return give


def put(*path: str, value: Any) -> Spoil:
    """Sets one value, deep inside."""

    def change(message: Any) -> None:
        for step in path[:-1]:
            message = message[step]
        message[path[-1]] = value

    return change


def raw(kind: str, content: bytes) -> Callable[[Ground], str]:
    """These bytes."""
    return lambda ground: ground.publish(kind, content)


def foreign(kind: str, device: str) -> Callable[[Ground], str]:
    """A good message on another's topic."""
    return lambda ground: ground.publish(kind, json.dumps(GOOD[kind]).encode(), device=device)


def topic(name: str, content: bytes = b"{}") -> Callable[[Ground], str]:
    """A topic that is no device's to write."""
    return lambda ground: ground.publish_on(name, content)


SCHEMA = "message.schema"
EVIDENCE: dict[str, Any] = {"slogan": "", "status": "", "log": []}
HUGE_METRIC = b'{"v":1,"time":1,"verdict":"healthy","starts":1,"beam":{"metrics":{"a":1e999}}}'
MESSAGES: dict[str, tuple[str, Callable[[Ground], str]]] = {
    "nothing": ("message.syntax", raw("state", b"")),
    "no JSON": ("message.syntax", raw("state", b"\x00\x01\x02")),
    "no UTF-8": ("message.syntax", raw("health", b'{"v":1,"verdict":"\xff\xfe"}')),
    "half a message": ("message.syntax", raw("event", json.dumps(GOOD["event"]).encode()[:-9])),
    "two messages": ("message.syntax", raw("event", json.dumps(GOOD["event"]).encode() * 2)),
    "endless nesting": ("message.syntax | message.schema", raw("state", b"[" * 16_000)),
    "endless objects": ("message.syntax | message.schema", raw("state", b'{"a":' * 3_000)),
    "nested unknown": (SCHEMA, raw("state", b'{"v":1,"x":' + b"[" * 3000 + b"]" * 3000 + b"}")),
    "a huge number": (SCHEMA, spoiled("state", put("time", value=10**400))),
    "17 kB": ("message.too_large", raw("state", b" " * 17_000)),
    "33 kB": ("message.too_large", raw("health", b"{" + b" " * 33_000)),
    "2 kB of progress": ("message.too_large", raw("progress", b" " * 2_000)),
    "2 kB of presence": ("message.too_large", raw("presence", b" " * 2_000)),
    "a list": (SCHEMA, raw("state", b"[]")),
    "null": (SCHEMA, raw("event", b"null")),
    "text": (SCHEMA, raw("health", b'"hello"')),
    "another version": (SCHEMA, spoiled("state", put("v", value=2))),
    "an unknown field": (SCHEMA, spoiled("state", put("role", value="admin"))),
    "an unknown field within": (SCHEMA, spoiled("state", put("inventory", "role", value="admin"))),
    "a missing field": (SCHEMA, spoiled("state", lambda message: message.pop("seq"))),
    "a number as text": (SCHEMA, spoiled("state", put("boot", value="1"))),
    "text as a number": (SCHEMA, spoiled("state", put("slot", value=7))),
    "a truth as a number": (SCHEMA, spoiled("presence", put("online", value=1))),
    "below nothing": (SCHEMA, spoiled("state", put("seq", value=-1))),
    "2^63": (SCHEMA, spoiled("state", put("boot", value=2**63))),
    "a fraction": (SCHEMA, spoiled("state", put("time", value=1.5))),
    "infinity": ("message.syntax", raw("progress", b'{"v":1,"manifest":"","phase":"idle","done":Infinity,"total":0}')),
    "session 0": (SCHEMA, spoiled("presence", put("session", value=0))),
    "a slot that climbs": (SCHEMA, spoiled("state", put("slot", value="../../etc"))),
    "a hash in capitals": (SCHEMA, spoiled("progress", put("manifest", value="A" * 64))),
    "a product that is none": (SCHEMA, spoiled("state", put("product", value="A/B"))),
    "a version that is none": (SCHEMA, spoiled("state", put("version", value="1.0 ; reboot"))),
    "a phase that is none": (SCHEMA, spoiled("state", put("phase", value="hacked"))),
    "a cause that is none": (SCHEMA, spoiled("state", put("cause", value="boredom"))),
    "an update that is none": (SCHEMA, spoiled("state", put("update", value={"phase": "idle"}))),
    "a page in a text": (SCHEMA, spoiled("state", put("inventory", "os", value="<script>alert(1)</script>" * 40))),
    "a line break": (SCHEMA, spoiled("event", put("detail", value="ok\nlevel=info event=forged"))),
    "an escape sequence": (SCHEMA, spoiled("event", put("detail", value="\x1b[2J\x1b]0;owned\x07"))),
    "text that turns": (SCHEMA, spoiled("presence", put("reason", value="gnp.\u202eexe"))),
    "text that hides": (SCHEMA, spoiled("presence", put("reason", value="a\u200bdmin"))),
    "a zero byte": (SCHEMA, spoiled("health", put("verdict", value="a\0b"))),
    "half a character": (
        "message.syntax",
        raw("event", json.dumps(GOOD["event"]).encode().replace(b'""', b'"\\ud800"', 1)),
    ),
    "a kind that is none": (SCHEMA, spoiled("event", put("kind", value="deleted"))),
    "17 facts": (SCHEMA, spoiled("event", put("data", value={f"k{n}": n for n in range(17)}))),
    "a key that is none": (SCHEMA, spoiled("event", put("data", value={"__proto__": 1}))),
    "a fact within a fact": (SCHEMA, spoiled("event", put("data", value={"k": {"k": 1}}))),
    "300 applications": (SCHEMA, spoiled("health", put("applications", value=["a"] * 300))),
    "a load of four": (SCHEMA, spoiled("health", put("host", "load", value=[1, 2, 3, 4]))),
    "17 kinds of memory": (SCHEMA, spoiled("health", put("beam", "memory", value={f"k{n}": n for n in range(17)}))),
    "17 metrics": (SCHEMA, spoiled("health", put("beam", "metrics", value={f"k{n}": n for n in range(17)}))),
    "a metric without end": ("message.syntax | message.schema", raw("health", HUGE_METRIC)),
    "a queue that turns": (SCHEMA, spoiled("health", put("beam", "queues", value=[["gnp.\u202eexe", 1]]))),
    "more of the time than there is": (SCHEMA, spoiled("health", put("beam", "schedulers", value=1001))),
    "a probe that is none": (SCHEMA, spoiled("health", put("probes", value={"reboot": ["ok", ""]}))),
    "a verdict that is none": (SCHEMA, spoiled("health", put("verdict", value="splendid"))),
    "a log of 51 lines": (SCHEMA, spoiled("logs", put("lines", value=["a"] * 51))),
    "a log line of two": (SCHEMA, spoiled("logs", put("lines", value=["a\nb"]))),
    "33 kB of log": ("message.too_large", raw("logs", b"{" + b" " * 33_000)),
    "evidence in excess": (SCHEMA, spoiled("event", put("evidence", value=EVIDENCE | {"log": ["a"] * 21}))),
    "evidence that writes": (SCHEMA, spoiled("event", put("evidence", value=EVIDENCE | {"slogan": "\x1b[2J"}))),
    "a keepalive of nothing": (SCHEMA, spoiled("presence", put("keepalive_s", value=0))),
    "a profile that is none": (SCHEMA, spoiled("presence", put("profile", value="unlimited"))),
    "a machine that is none": (SCHEMA, spoiled("presence", put("machine", value="this one"))),
}
DENIED: dict[str, tuple[str, Callable[[Ground], str]]] = {
    "another's state": ("Not authorized", foreign("state", DEVICE)),
    "another's log": ("Not authorized", foreign("logs", DEVICE)),
    "another's presence": ("Not authorized", foreign("presence", DEVICE)),
    "the server's epoch": ("Not authorized", topic(topics.EPOCH)),
    "its own assignment": ("Not authorized", topic(topics.down(LIAR, "main", "desired"))),
    "another's assignment": ("Not authorized", topic(topics.down(DEVICE, "main", "desired"))),
    "an acknowledgement": ("Not authorized", topic(topics.down(LIAR, "main", "ack"))),
    "another's command": ("Not authorized", topic(topics.down(DEVICE, "main", "command"))),
    "a kind that is none": ("Not authorized", topic(f"{topics.PREFIX}/{LIAR}/main/up/firmware")),
    "another application": ("Not authorized", topic(f"{topics.PREFIX}/{LIAR}/other/up/state")),
    "a level more": ("Not authorized", topic(f"{topics.PREFIX}/{LIAR}/main/up/state/x")),
    "another version of the protocol": ("Not authorized", topic(f"beamfleet/v2/{LIAR}/main/up/state")),
    "the broker's own": ("Not authorized", topic("$SYS/broker/version")),
    "anything": ("Not authorized", topic("hello")),
}

CASES = [*named("message", "server", MESSAGES), *named("topic", "nobody", DENIED)]
