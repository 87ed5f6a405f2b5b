"""HTTP to the operators' and the devices' listeners: requests that are none, that may not be, that say too much, and
signed metadata that somebody with an admin's token uploads."""

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from beamfleet_bundles import repository
from beamfleet_bundles.repository import RoleKeys
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from tests.support.author import now
from tests.trust.hostile import bundles
from tests.trust.hostile.case import named
from tests.trust.hostile.ground import LIAR, PRODUCT, Ground
from tests.trust.hostile.wire import Give, bare, devices, operators, request, send

BAD_IDS = {
    "a slash": "a/b", "a plus": "+", "a hash": "#", "capitals": "GW", "64 letters": "a" * 64, "nothing": "",
    "the server's": "_server", "a dot": ".", "a blank": "a b", "a line break": "gw\n", "another script": "gw-\u0660",
    "half a character": "\ud800", "a zero": "a\0b", "a path": "../../admin.token",
}  # fmt: skip


def json_of(value: Any) -> bytes:
    """A body."""
    return json.dumps(value).encode()


def post(path: str, value: Any) -> Give:
    """A request with a body of JSON."""
    return operators("POST", path, json_of(value))


PIECES = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
MANY_LABELS = dict.fromkeys((f"k{number}" for number in range(10_000)), "v")
SCHEMA = "request.schema"
MALFORMED = "request.malformed"
OPERATORS: dict[str, tuple[str, Give]] = {
    "no token": ("auth.required", operators("GET", "/devices", Authorization="")),
    "a wrong token": ("auth.required", operators("GET", "/devices", Authorization="Bearer x")),
    "a token of 9 kB": ("auth.required", operators("GET", "/devices", Authorization=f"Bearer {'x' * 9000}")),
    "a token that is no ASCII": ("auth.required", operators("GET", "/devices", Authorization="Bearer \xe9\xff")),
    "another scheme": ("auth.required", operators("GET", "/devices", Authorization="Basic YWRtaW46YWRtaW4=")),
    "a session that is none": (
        "auth.required", operators("GET", "/devices", Authorization="", Cookie="__Host-beamfleet=x; session=x"),
    ),
    "a false origin": (
        "auth.required | auth.csrf",
        operators("POST", "/tokens", b"{}", Authorization="", Cookie="__Host-beamfleet=x", Origin="https://evil"),
    ),
    "no such path": ("request.not_found", operators("GET", "/firmware")),
    "a path that climbs": ("request.not_found", operators("GET", "/../../../etc/passwd")),
    "a path that climbs in code": (
        "request.not_found | request.schema", operators("GET", "/metadata/..%2f..%2fadmin.token"),
    ),
    "a zero in a path": ("device.unknown", operators("GET", "/devices/%00")),
    "half a code in a path": ("device.unknown", operators("GET", "/devices/%zz")),
    "no UTF-8 in a path": ("device.unknown", operators("GET", "/devices/%ff%fe")),
    "a line break in a path": ("device.unknown", operators("GET", "/devices/x%0a%0dforged")),
    "a long path": ("device.unknown", operators("GET", f"/devices/{'x' * 9000}")),
    "a file of the server": ("request.not_found", operators("GET", "/static/../../beamfleet.db")),
    "another method": ("request.method", operators("DELETE", "/devices")),
    "a method that is none": ("request.malformed | request.method", operators("HACK", "/devices")),
    "headers of 40 kB": ("request.headers", operators("GET", "/devices", X="x" * 40_000)),
    "no HTTP": (MALFORMED, bare("operators", b"\x16\x03\x01\x02\x00" * 40)),
    "a request line only": (MALFORMED, bare("operators", b"GET\r\n\r\n")),
    "a header without a name": (MALFORMED, bare("operators", b"GET / HTTP/1.1\r\n: x\r\n\r\n")),
    "a folded header": (MALFORMED, bare("operators", b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\nBad Header: x\r\n\r\n")),
    "two lengths": (
        MALFORMED,
        bare("operators", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 30\r\n\r\nabc"),
    ),
    "a length and pieces": (
        MALFORMED,
        bare("operators", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n" + PIECES),
    ),
    "pieces that are none": (
        "request.method | request.malformed",
        bare("operators", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
    ),
    "pieces that are none, for a route": (
        MALFORMED,
        operators("POST", "/tokens", b"zz\r\nabc\r\n", Transfer_Encoding="chunked"),
    ),
    "a length below nothing": (
        MALFORMED, bare("operators", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
    ),
    "HTTP 9": (MALFORMED, bare("operators", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n")),
    "a body of 9 MB": ("request.too_large", operators("POST", "/tokens", b"x" * (9 << 20))),
    "a body of 20 digits": (
        "request.too_large | request.malformed",
        bare("operators", request("POST", "/api/v1/tokens", b"{}", length="9" * 19)),
    ),
    "no JSON": (SCHEMA, operators("POST", "/tokens", b"device=x")),
    "no UTF-8": (f"{SCHEMA} | {MALFORMED}", operators("POST", "/tokens", b'{"device":"\xff"}')),
    "endless nesting": (f"{SCHEMA} | {MALFORMED}", operators("POST", "/tokens", b"[" * 200_000)),
    "endless objects": (f"{SCHEMA} | {MALFORMED}", operators("POST", "/tokens", b'{"a":' * 100_000)),
    "a number of 5,000 digits": (
        f"{SCHEMA} | {MALFORMED}", operators("POST", "/tokens", b'{"expires_in_s":' + b"9" * 5000 + b"}"),
    ),
    "a list": (SCHEMA, post("/tokens", [])),
    "null": (SCHEMA, operators("POST", "/tokens", b"null")),
    "nothing at all": (SCHEMA, operators("POST", "/tokens")),
    "an unknown key": (SCHEMA, post("/tokens", {"device": "x", "role": "admin"})),
    "another type": (SCHEMA, post("/tokens", {"device": ["x"]})),
    "a time below nothing": (SCHEMA, post("/tokens", {"device": "x", "expires_in_s": -1})),
    "labels that are none": ("name.label | request.schema", post("/tokens", {"device": "x", "labels": {"A b": "\n"}})),
    "10,000 labels": (
        "name.label | request.schema", post("/tokens", {"device": "x", "labels": MANY_LABELS}),
    ),
    "an admin by mass assignment": (SCHEMA, post("/operators", {"name": "eve", "role": "viewer", "admin": True})),
    "a role that is none": (SCHEMA, post("/operators", {"name": "eve", "role": "root"})),
    "a name that is none": (SCHEMA, post("/operators", {"name": "Eve <script>", "role": "viewer"})),
    "an unknown operator": ("operator.unknown", operators("DELETE", "/operators/nobody")),
    "a rollout to nobody": (
        "rollout.no_selector | request.schema", post("/rollouts", {"product": PRODUCT, "version": "1.0.0"}),
    ),
    "a selector that is none": (
        "request.selector | request.schema",
        post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "selector": "'; DROP TABLE devices; --"}),
    ),
    "an unknown release": ("release.unknown", post("/rollouts", {"product": PRODUCT, "version": "6.6.6", "all": True})),
    "a product that climbs": (
        "name.product | release.unknown | request.schema | product.unknown",
        post("/rollouts", {"product": "../..", "version": "1.0.0", "all": True}),
    ),
    "a canary below nothing": (
        SCHEMA, post("/rollouts", {"product": PRODUCT, "version": "1.0.0", "all": True, "canary": -1}),
    ),
    "a rollout beyond all": (f"{SCHEMA} | rollout.unknown", operators("GET", f"/rollouts/{2**70}")),
    "an approval beyond all": (f"{SCHEMA} | approval.unknown", post(f"/approvals/{2**63}/approve", {})),
    "a session beyond all": (f"{SCHEMA} | session.unknown", operators("DELETE", f"/sessions/{2**64}")),
    "a cursor that is none": ("request.cursor", operators("GET", "/rollouts?cursor=%27%20OR%201=1")),
    "a cursor beyond all": ("request.cursor", operators("GET", f"/rollouts?cursor={2**80}")),
    "a number that is none": (SCHEMA, operators("GET", "/events?after=0x10")),
    "a number beyond all": (SCHEMA, operators("GET", f"/events?after={2**80}")),
    "a limit beyond all": (SCHEMA, operators("GET", f"/events?limit={10**12}")),
    "a limit below nothing": (SCHEMA, operators("GET", "/audit?limit=-1")),
    "an endless wait": (SCHEMA, operators("GET", "/events?wait_s=86400")),
    "a command that is none": (SCHEMA, post(f"/devices/{LIAR}/command", {"name": "reboot"})),
    "labels of nobody": ("device.unknown", operators("PATCH", "/devices/nobody", json_of({"labels": {"a": "b"}}))),
    "a label that is none": ("name.label", operators("PATCH", f"/devices/{LIAR}", json_of({"labels": {"A": "\n"}}))),
    "half a character in a label": (
        "name.label", operators("PATCH", f"/devices/{LIAR}", json_of({"labels": {"a": "\ud800"}})),
    ),
    "a bundle of nobody": ("bundle.unknown", operators("GET", "/bundles/nobody/1.0.0/x86_64-glibc-otp25")),
    **{
        f"a token for {name}": ("name.device | request.schema | request.malformed", post("/tokens", {"device": bad}))
        for name, bad in BAD_IDS.items()
    },
}  # fmt: skip


# --- signed metadata, as somebody with an admin's token uploads it


def upload(**documents: Callable[[Ground], bytes]) -> Give:
    """New documents by role; products under their names with `_` for `-`."""

    def give(ground: Ground) -> str:
        texts = {name.replace("_", "-"): base64.b64encode(make(ground)).decode() for name, make in documents.items()}
        body = {role: texts.pop(role) for role in ("root", "targets") if role in texts}
        return str(post("/metadata", body | ({"products": texts} if texts else {}))(ground))

    return give


def held(role: str) -> Callable[[Ground], bytes]:
    """What the server has already."""
    return lambda ground: ground.author.held(role)


def next_of(role: str, signer: str, change: Callable[[Any], object] = lambda _: None) -> Callable[[Ground], bytes]:
    """The version after the one that is held, after a change, signed by this key; "" by nobody."""

    def make(ground: Ground) -> bytes:
        document: Metadata[Any] = Metadata.from_bytes(ground.author.held(role))
        document.signed.version += 1
        change(document.signed)
        document.signatures.clear()
        if signer:
            document.sign(ground.author.keys.get(signer) or CryptoSigner.generate_ed25519())
        return document.to_bytes()

    return make


def over(signed: Any) -> None:
    """Past its time."""
    signed.expires = now() - timedelta(days=1)


def stranger_for(role: str) -> Callable[[Root], None]:
    """Another key for an online role."""

    def change(root: Root) -> None:
        for keyid in [*root.roles[role].keyids]:
            root.revoke_key(keyid, role)
        root.add_key(CryptoSigner.generate_ed25519().public_key, role)

    return change


def own_files(targets: Targets) -> None:
    """The top role signs a file itself."""
    from tuf.api.metadata import TargetFile

    targets.targets["x"] = TargetFile.from_data("x", b"x", ["sha256"])


def wider(targets: Targets) -> None:
    """A product that may speak for all."""
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[PRODUCT].paths = ["*/*/*/*"]


def without_director(targets: Targets) -> None:
    """Nobody assigns."""
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    del targets.delegations.roles["director"]


def dropped(targets: Targets) -> None:
    """A release is gone that was published."""
    del targets.targets[next(iter(targets.targets))]


def another_product(ground: Ground) -> bytes:
    """Targets that delegate to a product of which there is no metadata."""
    key = CryptoSigner.generate_ed25519().public_key
    return repository.add_product(
        ground.author.held("targets"), "other", RoleKeys((key,)), [ground.author.keys["targets"]], now()
    )


METADATA: dict[str, tuple[str, Give]] = {
    "nothing": (SCHEMA, post("/metadata", {})),
    "no base64": (SCHEMA, post("/metadata", {"root": "%%%"})),
    "an unknown role": (SCHEMA, post("/metadata", {"snapshot": ""})),
    "no metadata": ("trust.malformed", upload(root=lambda _: b"{}")),
    "endless nesting": ("trust.malformed", upload(root=lambda _: b"[" * 300_000)),
    "600 kB of root": ("trust.too_large", upload(root=lambda _: b" " * 600_000)),
    "the held root": ("metadata.conflict", upload(root=held("root"))),
    "a root by nobody": ("trust.signature", upload(root=next_of("root", ""))),
    "a root by a stranger": ("trust.signature", upload(root=next_of("root", "stranger"))),
    "a root by the targets key": ("trust.signature", upload(root=next_of("root", "targets"))),
    "a root two ahead": (
        "metadata.conflict", upload(root=next_of("root", "root", lambda root: setattr(root, "version", 9))),
    ),
    "an expired root": ("trust.expired", upload(root=next_of("root", "root", over))),
    "a root for another server": ("trust.online_key", upload(root=next_of("root", "root", stranger_for("timestamp")))),
    "targets as root": ("trust.malformed", upload(root=held("targets"))),
    "targets by the product's key": ("trust.signature", upload(targets=next_of("targets", PRODUCT))),
    "targets with files": ("trust.delegation", upload(targets=next_of("targets", "targets", own_files))),
    "targets that let one speak for all": ("trust.delegation", upload(targets=next_of("targets", "targets", wider))),
    "targets without a director": ("trust.delegation", upload(targets=next_of("targets", "targets", without_director))),
    "expired targets": ("trust.expired", upload(targets=next_of("targets", "targets", over))),
    "a product of which there is nothing": ("metadata.incomplete", upload(targets=another_product)),
    "a list of no product": (
        "trust.incomplete | metadata.incomplete | trust.conflict | metadata.conflict", upload(unheard_of=held(PRODUCT)),
    ),
    "a list by the targets key": ("trust.signature", upload(sensor_gateway=next_of(PRODUCT, "targets"))),
    "a list that drops a release": ("trust.release_changed", upload(sensor_gateway=next_of(PRODUCT, PRODUCT, dropped))),
    "a list for others": (
        "trust.delegation", upload(sensor_gateway=next_of(PRODUCT, PRODUCT, bundles.renamed("other/1/x/manifest"))),
    ),
    "unknown facts": ("trust.facts", upload(sensor_gateway=next_of(PRODUCT, PRODUCT, bundles.custom(run="reboot")))),
    "a product that is there": ("product.exists", post("/products", {"name": PRODUCT, "targets": "", "product": ""})),
    "a product that is none": (
        "name.product | request.schema", post("/products", {"name": "../x", "targets": "", "product": ""}),
    ),
    "the director as a product": (
        "name.product | request.schema", post("/products", {"name": "director", "targets": "", "product": ""}),
    ),
}  # fmt: skip


# --- the devices' listener

ZEROS = "0" * 64
DEVICES: dict[str, tuple[str, Give]] = {
    "no such path": ("request.not_found", devices("GET", "/")),
    "the operators' API": ("request.not_found", devices("GET", "/api/v1/devices")),
    "a path that climbs": ("request.not_found", devices("GET", "/packs/../../keys/director.key")),
    "a path that climbs in code": ("request.not_found", devices("GET", "/metadata/..%2f..%2fkeys%2fdirector.key")),
    "a manifest that climbs": ("request.not_found | bundle.unknown", devices("GET", "/targets/..%2f/1/x/y.manifest")),
    "a manifest of nobody": ("bundle.unknown", devices("GET", f"/targets/a/1/x/{ZEROS}.manifest")),
    "a pack of nobody": ("bundle.unknown", devices("GET", f"/packs/{ZEROS}/full")),
    "a pack that is none": (SCHEMA, devices("GET", "/packs/x/full")),
    "a pack in capitals": (SCHEMA, devices("GET", f"/packs/{'A' * 64}/full")),
    "a pack that climbs": (f"request.not_found | {SCHEMA}", devices("GET", "/packs/..%2fx/full")),
    "a zero in a pack": (SCHEMA, devices("GET", "/packs/%00/full")),
    "a nonce that is none": (SCHEMA, devices("GET", "/assignment?nonce=x")),
    "a nonce of 100 digits": (SCHEMA, devices("GET", f"/assignment?nonce={'a' * 100}")),
    "an application that is none": (SCHEMA, devices("GET", "/assignment?app=Main")),
    "an application that climbs": (SCHEMA, devices("GET", "/assignment?app=..%2f")),
    "metadata of 100 letters": (SCHEMA, devices("GET", f"/metadata/{'a' * 100}")),
    "a method that is none": ("request.method", devices("DELETE", "/assignment")),
    "a change": ("request.method", devices("PUT", f"/packs/{ZEROS}/full")),
    "a body": ("request.too_large", devices("GET", "/assignment", b"x" * 100_000)),
    "headers of 40 kB": ("request.headers", devices("GET", "/assignment", X="x" * 40_000)),
    "no HTTP": (MALFORMED, lambda ground: send(ground, "devices", b"\0" * 200, ground.identity)),
}  # fmt: skip

CASES = [
    *named("operators", "server", OPERATORS),
    *named("metadata", "server", METADATA),
    *named("devices", "server", DEVICES),
]
