"""What comes to the device by MQTT from a broker that nobody can trust: assignments that are none, that are signed by
somebody else, that are signed by the director itself and say too much; and messages that are none."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from beamfleet_bundles.names import target_path
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from tests.support.interception import Exchange
from tests.trust.hostile.case import Case, named
from tests.trust.hostile.ground import DEVICE, PRODUCT, PUBLISHED, Ground

Make = Callable[[Ground], bytes]


def raw(change: Callable[[bytes], bytes]) -> Make:
    """A good assignment with other bytes."""
    return lambda ground: change(ground.assigned())


def said(change: Callable[[Any], object], *, role: str = "director") -> Make:
    """A good assignment that says something else, signed by this role's key; by a stranger's if there is none."""

    def make(ground: Ground) -> bytes:
        document = json.loads(ground.assigned())
        change(document["signed"])
        return signed(document["signed"], ground.thief.signers.get(role) or ground.author.keys.get(role))

    return make


def signed(part: Any, signer: CryptoSigner | None) -> bytes:
    """Any JSON as a signed part: what no library would sign, a thief does."""
    from securesystemslib.formats import encode_canonical

    signer = signer or CryptoSigner.generate_ed25519()
    canonical = encode_canonical(part)
    signature = signer.sign((canonical if isinstance(canonical, str) else "").encode())
    return json.dumps({"signatures": [signature.to_dict()], "signed": part}).encode()


def put(*path: str, value: Any) -> Callable[[Any], None]:
    """Sets one value, deep inside."""

    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def target(change: Callable[[dict[str, Any]], object]) -> Callable[[Any], None]:
    """Changes the one target."""

    def found(document: Any) -> None:
        (one,) = document["targets"].values()
        change(one)

    return found


def path(name: str) -> Callable[[Any], None]:
    """The same target under another path."""

    def change(document: Any) -> None:
        document["targets"] = {name: next(iter(document["targets"].values()))}

    return change


def both(document: Any) -> None:
    """Two targets."""
    document["targets"][target_path(PRODUCT, "1.0.0", "x86_64-glibc-otp25")] = next(iter(document["targets"].values()))


def unsigned(data: bytes) -> bytes:
    """Without its signature."""
    document = Metadata[Targets].from_bytes(data)
    document.signatures.clear()
    return document.to_bytes()


def other_key(data: bytes) -> bytes:
    """Signed by a key that calls itself the director's."""
    document = json.loads(data)
    other = json.loads(signed(document["signed"], None))
    other["signatures"][0]["keyid"] = document["signatures"][0]["keyid"]
    return json.dumps(other).encode()


def changed(**fields: Any) -> Make:
    """An assignment that the director signs: of these fields."""
    return lambda ground: ground.assigned(**fields)


ASSIGNMENTS: dict[str, tuple[str, Make]] = {
    "no JSON": ("assignment.malformed", lambda _: b"hello"),
    "no object": ("assignment.malformed", lambda _: b"[]"),
    "an empty object": ("assignment.malformed", lambda _: b"{}"),
    "no UTF-8": ("assignment.malformed", raw(lambda data: b"\xff" + data)),
    "cut short": ("assignment.malformed", raw(lambda data: data[:-40])),
    "endless nesting": ("assignment.malformed", lambda _: b"[" * 8000),
    "too large": ("assignment.too_large", raw(lambda data: data + b" " * 9000)),
    "too large by far": ("assignment.too_large", lambda _: b"x" * 60_000),
    "a timestamp": ("assignment.malformed", lambda ground: ground.thief.documents["timestamp"]),
    "a product's list": (
        "assignment.signature | assignment.malformed", lambda ground: ground.author.held(PRODUCT)[:8000],
    ),
    "an altered byte": ("assignment.signature", raw(lambda data: data.replace(b'"attempt":', b'"attempt":9', 1))),
    "no signature": ("assignment.signature", raw(unsigned)),
    "a stranger's key": ("assignment.signature", said(lambda _: None, role="nobody")),
    "a stranger's key under the director's name": ("assignment.signature", raw(other_key)),
    "the snapshot's key": ("assignment.signature", said(lambda _: None, role="snapshot")),
    "the product's key": ("assignment.signature", said(lambda _: None, role=PRODUCT)),
    "another device's": ("assignment.wrong_device", said(put("beamfleet", "device", value="gw-2"))),
    "another application's": ("assignment.wrong_app", said(put("beamfleet", "app", value="other"))),
    "no device's name": ("name.device", said(put("beamfleet", "device", value="../gw-1"))),
    "an old one": ("assignment.replayed", changed(sequence=5)),
    "two targets": ("assignment.malformed", said(both)),
    "nobody's": ("assignment.malformed", said(lambda document: document.pop("beamfleet"))),
    "more than is known": ("assignment.malformed", said(put("beamfleet", "run", value="reboot"))),
    "attempt 0": ("assignment.malformed", said(put("beamfleet", "attempt", value=0))),
    "a number as text": ("assignment.malformed", said(put("beamfleet", "attempt", value="1"))),
    "a nonce that is none": ("assignment.malformed", said(put("beamfleet", "nonce", value="'; drop table"))),
    "a sequence beyond all": ("assignment.malformed", said(put("version", value=2**60))),
    "delegations": ("assignment.malformed", said(put("delegations", value={"keys": {}, "roles": []}))),
    "a path that climbs": ("name.path", said(path("../../etc/passwd"))),
    "facts of its own": ("assignment.malformed", said(target(put("custom", value={"floor": 1})))),
    "another hash": ("assignment.malformed", said(target(put("hashes", value={"sha512": "0" * 128})))),
    "an unknown product": (
        "trust.unknown_target", said(path(target_path("unheard-of", PUBLISHED, "x86_64-glibc-otp25"))),
    ),
    "an unpublished release": (
        "trust.unknown_target", said(path(target_path(PRODUCT, "6.6.6", "x86_64-glibc-otp25"))),
    ),
    "bytes that nobody signed": ("assignment.mismatch", said(target(put("hashes", "sha256", value="0" * 64)))),
    "a byte more": ("assignment.mismatch", said(target(lambda one: one.update(length=one["length"] + 1)))),
}  # fmt: skip


def pushed(make: Make) -> Callable[[Ground], str]:
    """Given as the retained assignment."""
    return lambda ground: ground.desired(make(ground))


def outlived(answer: Callable[[Ground, Exchange], bytes | int]) -> Callable[[Ground], str]:
    """Given after its time: the device asks for a fresh one, with a nonce, and this is what it hears."""

    def give(ground: Ground) -> str:
        with ground.served(**{"/assignment": lambda exchange: answer(ground, exchange)}):
            return ground.desired(ground.assigned(lives=timedelta(seconds=-60)))

    return give


def nonce(exchange: Exchange) -> str:
    """What the device asks with."""
    return exchange.query.partition("nonce=")[2]


OUTLIVED: dict[str, tuple[str, Callable[[Ground], str]]] = {
    "none": ("assignment.expired", outlived(lambda _, __: b"")),
    "without its nonce": ("assignment.nonce", outlived(lambda ground, _: ground.assigned())),
    "with another nonce": ("assignment.nonce", outlived(lambda ground, _: ground.assigned(nonce="0" * 32))),
    "expired as well": (
        "assignment.expired",
        outlived(lambda ground, asked: ground.assigned(nonce=nonce(asked), lives=timedelta(seconds=-60))),
    ),
    "an old one": (
        "assignment.replayed", outlived(lambda ground, asked: ground.assigned(nonce=nonce(asked), sequence=5)),
    ),
    "another device's": (
        "assignment.wrong_device",
        outlived(lambda ground, _: said(put("beamfleet", "device", value="gw-2"))(ground)),
    ),
    "garbage": ("assignment.malformed", outlived(lambda _, __: b"\0" * 900)),
    "too much": ("worker.too_large", outlived(lambda _, __: b"x" * 100_000)),
    "a refusal": ("worker.refused", outlived(lambda _, __: 403)),
    "a redirection": ("worker.refused", outlived(lambda _, __: 302)),
    "a mistake": ("worker.server", outlived(lambda _, __: 500)),
}  # fmt: skip


COMMANDS: dict[str, tuple[str, str, bytes]] = {
    "no JSON": ("message.syntax", "command", b"reboot"),
    "no UTF-8": ("message.syntax", "command", b'{"v":1,"id":"\xff","name":"report"}'),
    "endless nesting": ("message.syntax", "command", b"[" * 400),
    "no object": ("message.schema", "command", b'["report"]'),
    "no name": ("message.schema", "command", b'{"v":1,"id":"1"}'),
    "a name that is none": ("message.schema", "command", b'{"v":1,"id":"1","name":"reboot"}'),
    "a number as name": ("message.schema", "command", b'{"v":1,"id":"1","name":7}'),
    "too large": ("message.too_large", "command", b'{"v":1,"id":"1","name":"' + b"r" * 600 + b'"}'),
    "too large by far": ("message.too_large", "command", b"x" * 60_000),
    "an ack that is none": ("message.syntax", "ack", b"ok"),
    "an ack of text": ("message.schema", "ack", b'{"v":1,"boot":"one","seq":{}}'),
    "an ack of nothing": ("message.schema", "ack", b"null"),
    "an ack that is too large": ("message.too_large", "ack", b'{"v":1,"boot":1,"seq":' + b"9" * 5000 + b"}"),
}  # fmt: skip


def told(kind: str, content: bytes) -> Callable[[Ground], str]:
    """Given as a message of this kind."""

    def give(ground: Ground) -> str:
        ground.broker.tell(DEVICE, kind, content)
        return ground.heard("device")

    return give


CASES = [
    *(Case(f"assignment: {name}", codes, pushed(make), "device") for name, (codes, make) in ASSIGNMENTS.items()),
    *named("pulled", "device", OUTLIVED),
    *named("to a device", "device", {name: (code, told(kind, data)) for name, (code, kind, data) in COMMANDS.items()}),
]
