"""`.bundle` files: broken as zips, as manifests, in what they are signed with, in their packs. Each is installed on the
device from a file, and uploaded to the server, where that is another way in."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast

import msgspec
from beamfleet_bundles import canonical, manifest, repository
from beamfleet_bundles.bundle import Bundle, write_bundle
from beamfleet_bundles.manifest import Manifest
from beamfleet_bundles.repository import RoleKeys
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, Metadata, Targets

from tests.support.author import first_metadata, now
from tests.trust.hostile.case import Case
from tests.trust.hostile.ground import PRODUCT, Ground

VERSION = "9.0.0"
END = struct.Struct("<4sHHHHLLH")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a bundle is made of."""

    manifest: bytes
    pack: bytes
    metadata: Mapping[str, bytes]

    def write(self, ground: Ground) -> bytes:
        """The file, of the right form."""
        path = ground.work / "parts.bundle"
        write_bundle(path, self.manifest, io.BytesIO(self.pack), self.metadata)
        return path.read_bytes()

    def document(self, role: str) -> tuple[str, bytes]:
        """Name and bytes of a role's metadata."""
        return next((name, data) for name, data in self.metadata.items() if name.rpartition(".")[0] == role)

    def altered(self, role: str, change: Callable[[bytes], bytes]) -> "Parts":
        """With other metadata of a role."""
        name, data = self.document(role)
        return replace(self, metadata={**self.metadata, name: change(data)})


Make = Callable[[Ground], bytes]


def good(ground: Ground) -> Parts:
    """A signed release that nobody has published."""
    if "good" not in ground.made:
        path = ground.author.sign(ground.author.build(PRODUCT, VERSION))
        bundle = Bundle.open(path)
        with bundle.open_pack() as file:
            ground.made["good"] = Parts(bundle.manifest_bytes, file.read(), bundle.metadata)
    return cast("Parts", ground.made["good"])


def signed(ground: Ground, changed: Manifest) -> Parts:
    """The same files under another manifest, which is signed as it should be."""
    held = ground.author.held(PRODUCT)
    data, _ = repository.add_release(held, changed, [ground.author.keys[PRODUCT]], now())
    parts = good(ground)
    return replace(parts.altered(PRODUCT, lambda _: data), manifest=changed.encode())


# --- the zip


def raw(change: Callable[[bytes], bytes]) -> Make:
    """The good file with other bytes."""
    return lambda ground: change(good(ground).write(ground))


def entries(change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]], **how: Any) -> Make:
    """A zip of other entries than those of the good file."""

    def make(ground: Ground) -> bytes:
        with zipfile.ZipFile(io.BytesIO(good(ground).write(ground))) as old:
            found = [(name, old.read(name)) for name in old.namelist()]
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", **how) as new:
            for name, content in change(found):
                new.writestr(zipfile.ZipInfo(name), content, compress_type=how.get("compression", zipfile.ZIP_STORED))
        return out.getvalue()

    return make


def ending(**changes: int) -> Make:
    """The last record of the zip with another number in a field."""
    names = ("mark", "disk", "first", "here", "count", "size", "start", "comment")

    def change(data: bytes) -> bytes:
        values = dict(zip(names, END.unpack(data[-END.size :]), strict=True)) | changes
        return data[: -END.size] + END.pack(*values.values())

    return raw(change)


def at(mark: bytes, offset: int, new: bytes) -> Make:
    """Other bytes behind the first `mark`."""

    def change(data: bytes) -> bytes:
        place = data.index(mark) + offset
        return data[:place] + new + data[place + len(new) :]

    return raw(change)


# --- the manifest


def described(change: Callable[[Any], None]) -> Make:
    """A manifest that says something else, in canonical form."""

    def make(ground: Ground) -> bytes:
        document = json.loads(good(ground).manifest)
        change(document)
        return replace(good(ground), manifest=canonical.encode(document)).write(ground)

    return make


def spelled(change: Callable[[bytes], bytes]) -> Make:
    """A manifest of other bytes."""
    return lambda ground: replace(good(ground), manifest=change(good(ground).manifest)).write(ground)


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    """Sets one value, deep inside."""

    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def more(path: str, **fields: Any) -> Callable[[Any], None]:
    """A further entry, where its path belongs."""
    entry = fields or {"type": "file", "mode": "0644", "size": 0, "sha256": "0" * 64}

    def change(document: Any) -> None:
        document["entries"] = sorted([*document["entries"], {**entry, "path": path}], key=lambda each: each["path"])

    return change


def unfit(change: Callable[[Manifest], Manifest]) -> Make:
    """A release that is signed as it should be, and does not run here."""
    return lambda ground: signed(ground, change(manifest.decode(good(ground).manifest))).write(ground)


# --- the metadata


def document(role: str, change: Callable[[Ground, bytes], bytes]) -> Make:
    """Other metadata of a role."""
    return lambda ground: good(ground).altered(role, lambda data: change(ground, data)).write(ground)


def documents(change: Callable[[Ground, dict[str, bytes]], dict[str, bytes]]) -> Make:
    """Other documents altogether."""
    return lambda ground: replace(good(ground), metadata=change(ground, dict(good(ground).metadata))).write(ground)


def again(data: bytes, signer: CryptoSigner | None, change: Callable[[Targets], object] = lambda _: None) -> bytes:
    """Metadata after a change, signed by this key alone; by nobody if there is none."""
    loaded = Metadata[Targets].from_bytes(data)
    change(loaded.signed)
    loaded.signatures.clear()
    if signer is not None:
        loaded.sign(signer)
    return loaded.to_bytes()


def by(key: str, change: Callable[[Targets], object] = lambda _: None) -> Callable[[Ground, bytes], bytes]:
    """Signed again by a key of the author's, or by one that nobody knows."""
    return lambda ground, data: again(data, ground.author.keys.get(key) or CryptoSigner.generate_ed25519(), change)


def custom(**changes: Any) -> Callable[[Targets], None]:
    """Other facts about each target."""

    def change(targets: Targets) -> None:
        for target in targets.targets.values():
            target.unrecognized_fields["custom"] = {**target.custom, **changes}

    return change


def renamed(path: str) -> Callable[[Targets], None]:
    """The targets under another path."""

    def change(targets: Targets) -> None:
        (*_, last) = targets.targets.values()
        targets.targets[path] = last

    return change


def delegating(targets: Targets) -> None:
    """A product that lets another speak."""
    targets.delegations = Delegations({}, {})


def foreign(ground: Ground, found: dict[str, bytes]) -> dict[str, bytes]:
    """A whole fleet of somebody else's, under the same names."""
    keys = {role: CryptoSigner.generate_ed25519() for role in ("root", "targets", PRODUCT)}
    online = {role: signer.public_key for role, signer in ground.thief.signers.items()}
    first = first_metadata(online, now(), keys)
    targets = repository.add_product(
        first["targets"], PRODUCT, RoleKeys((keys[PRODUCT].public_key,)), [keys["targets"]], now()
    )
    empty = repository.new_product([keys[PRODUCT]], now())
    release, _ = repository.add_release(empty, manifest.decode(good(ground).manifest), [keys[PRODUCT]], now())
    del found
    return {"root.1": first["root"], "targets.2": targets, f"{PRODUCT}.2": release}


def false_root(ground: Ground, found: dict[str, bytes]) -> dict[str, bytes]:
    """The next root, by keys that the root before does not name; and targets by them."""
    key = CryptoSigner.generate_ed25519()
    root = Metadata.from_bytes(ground.author.held("root"))
    root.signed.version += 1
    for role in ("root", "targets"):
        for keyid in [*root.signed.roles[role].keyids]:
            root.signed.revoke_key(keyid, role)
        root.signed.add_key(key.public_key, role)
    root.signatures.clear()
    root.sign(key)
    targets = next(name for name in found if name.startswith("targets."))
    return found | {f"root.{root.signed.version}": root.to_bytes(), targets: again(found[targets], key)}


def other_content(ground: Ground) -> bytes:
    """The metadata signs another manifest under the same name."""
    other = manifest.decode(good(ground).manifest)
    entry = msgspec.structs.replace(other.entries[-1], mode="0755")
    other = msgspec.structs.replace(other, entries=(*other.entries[:-1], entry))
    return replace(signed(ground, other), manifest=good(ground).manifest).write(ground)


# --- the pack


def packed(change: Callable[[bytes], bytes]) -> Make:
    """Other bytes of the pack; the zip's own sums are right."""
    return lambda ground: replace(good(ground), pack=change(good(ground).pack)).write(ground)


def flipped(data: bytes, place: int) -> bytes:
    """One byte is another."""
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def repacked(ground: Ground) -> bytes:
    """A sound pack of as many bytes, of which one is another."""
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    content = zstd.decompress(good(ground).pack)
    return replace(good(ground), pack=zstd.compress(flipped(content, len(content) // 2), 3)).write(ground)


def header(size: int, window: int = 0x58) -> bytes:
    """The head of a zstd frame that announces `size` bytes and this window."""
    return b"\x28\xb5\x2f\xfd" + bytes([0x80, window]) + size.to_bytes(4, "little")


# --- the tables: code on the device, code of the server ("" where it is no other way in), and the file

ANY = "bundle.malformed"
BUNDLES: dict[str, tuple[str, str, Make]] = {
    "nothing": ("bundle.not_a_bundle", "bundle.not_a_bundle", lambda _: b""),
    "text": ("bundle.not_a_bundle", "bundle.not_a_bundle", lambda _: b"hello\n" * 1000),
    "a tarball": ("bundle.not_a_bundle", "bundle.not_a_bundle", lambda _: b"\x1f\x8b\x08" + bytes(3000)),
    "half": ("bundle.truncated", "bundle.truncated", raw(lambda data: data[: len(data) // 2])),
    "all but a byte": ("bundle.truncated", "bundle.truncated", raw(lambda data: data[:-1])),
    "a byte more": (ANY, ANY, raw(lambda data: data + b"\0")),
    "twice": (ANY, ANY, raw(lambda data: data + data)),
    "a script before it": ("bundle.not_a_bundle", "bundle.not_a_bundle", raw(lambda data: b"#!/bin/sh\n" + data)),
    "a comment": (ANY, ANY, raw(lambda data: data[:-2] + b"\x05\0hello")),
    "entries in another order": (ANY, ANY, entries(lambda found: found[::-1])),
    "a further entry": (ANY, ANY, entries(lambda found: [*found, ("evil.sh", b"reboot")])),
    "an entry twice": (ANY, ANY, raw(lambda data: data.replace(b"metadata/root.1.json", b"metadata/root.2.json", 1))),
    "a path that climbs": (ANY, ANY, entries(lambda found: [*found, ("metadata/../../../etc/passwd", b"x")])),
    "an absolute path": (ANY, ANY, entries(lambda found: [*found, ("/etc/passwd", b"x")])),
    "no manifest": (ANY, ANY, entries(lambda found: found[1:])),
    "no pack": (ANY, ANY, entries(lambda found: [found[0], *found[2:]])),
    "compressed entries": (ANY, ANY, entries(lambda found: found, compression=zipfile.ZIP_DEFLATED)),
    "300 documents": (ANY, ANY, entries(lambda found: [*found, *((f"metadata/zz.{n}.json", b"") for n in range(300))])),
    "a document of 2 MB": (
        "bundle.too_large", "bundle.too_large",
        entries(lambda found: [*found, ("metadata/zzz.1.json", bytes(2 << 20))]),
    ),
    "a manifest of 9 MB": (
        "bundle.too_large", "bundle.too_large",
        entries(lambda found: [(found[0][0], bytes(9 << 20)), *found[1:]]),
    ),
    "a wrong sum": (ANY, ANY, at(b"PK\3\4", 14, b"\1\2\3\4")),
    "another name inside": (ANY, ANY, at(b"PK\3\4", 30, b"nanifest.json")),
    "an encrypted entry": (ANY, ANY, at(b"PK\3\4", 6, b"\1\0")),
    "a directory elsewhere": (ANY, ANY, ending(start=0)),
    "a directory of 4 GB": (ANY, ANY, ending(size=0xFFFFFFFF)),
    "65,535 entries": (ANY, ANY, ending(count=0xFFFF, here=0xFFFF)),
    "a manifest that is no JSON": ("manifest.syntax", "manifest.syntax", spelled(lambda _: b"{")),
    "endless nesting": ("manifest.syntax | manifest.schema",) * 2 + (spelled(lambda _: b"[" * 100_000),),
    "no UTF-8": ("manifest.syntax", "manifest.syntax", spelled(lambda data: data.replace(b'"v":1', b'"\xff":1'))),
    "a list": ("manifest.schema", "manifest.schema", spelled(lambda _: b"[]\n")),
    "spaces": ("manifest.form", "manifest.form", spelled(lambda data: data.replace(b'"v":1', b'"v": 1'))),
    "a key twice": ("manifest.form", "manifest.form", spelled(lambda data: data[:-2] + b',"v":1}\n')),
    "an unknown field": ("manifest.schema", "manifest.schema", described(put("post_install", value="reboot"))),
    "another version": ("manifest.schema", "manifest.schema", described(put("v", value=2))),
    "a setuid file": ("manifest.schema", "manifest.schema", described(put("entries", 0, "mode", value="4755"))),
    "a device node": ("manifest.schema", "manifest.schema", described(more("dev/sda", type="device"))),
    "a file above": ("manifest.path", "manifest.path", described(more("lib/../../../etc/cron.d/x"))),
    "an absolute file": ("manifest.path", "manifest.path", described(more("/etc/cron.d/x"))),
    "a line break": ("manifest.path", "manifest.path", described(more("zz\n"))),
    "our own place": ("manifest.path", "manifest.path", described(more(".beamfleet/boot"))),
    "a link outside": ("manifest.link", "manifest.link", described(more("zz", type="link", target="../../../etc"))),
    "a link to itself": ("manifest.link", "manifest.link", described(more("zz", type="link", target="zz"))),
    "a file below a link": (
        "manifest.conflict", "manifest.conflict",
        described(lambda document: (more("zz", type="link", target="lib")(document), more("zz/x")(document))[0]),
    ),
    "a file twice": (
        "manifest.duplicate", "manifest.duplicate",
        described(lambda document: document["entries"].insert(0, document["entries"][0])),
    ),
    "5 GB": ("manifest.too_large", "manifest.too_large", described(put("entries", 0, "size", value=5 << 30))),
    "less than nothing": ("manifest.too_large", "manifest.too_large", described(put("entries", 0, "size", value=-1))),
    "no hash": ("manifest.value", "manifest.value", described(put("entries", 0, "sha256", value="0" * 63))),
    "a product that is none": ("name.product", "name.product", described(put("product", value="../x"))),
    "the director's name": ("name.product", "name.product", described(put("product", value="director"))),
    "words for the VM": ("manifest.launch", "manifest.launch", described(put("launch", "args", value=["-eval"]))),
    "a shell in the launch": ("launch.value", "launch.value", described(put("launch", "name", value="$(reboot)"))),
    "unsigned": ("trust.incomplete", "bundle.unsigned", documents(lambda _, __: {})),
    "no targets": (
        "trust.incomplete", "",
        documents(lambda _, found: {name: data for name, data in found.items() if not name.startswith("targets")}),
    ),
    "two lists of the product": (
        "trust.incomplete", "bundle.unsigned",
        documents(lambda _, found: found | {f"{PRODUCT}.1": b"{}"}),
    ),
    "no signature": ("trust.signature", "bundle.untrusted", document(PRODUCT, lambda _, data: again(data, None))),
    "another key": ("trust.signature", "bundle.untrusted", document(PRODUCT, by("nobody"))),
    "the targets key for the product": ("trust.signature", "bundle.untrusted", document(PRODUCT, by("targets"))),
    "the product key for targets": ("trust.signature", "", document("targets", by(PRODUCT))),
    "targets by another key": ("trust.signature", "", document("targets", by("nobody"))),
    "another fleet": ("trust.signature", "bundle.untrusted | metadata.conflict", documents(foreign)),
    "a root by nobody": ("trust.signature", "", documents(false_root)),
    "a list that signs something else": (
        "trust.unknown_target", "bundle.unsigned",
        document(PRODUCT, lambda ground, _: ground.author.held(PRODUCT)),
    ),
    "a list of another content": ("trust.mismatch", "bundle.untrusted", other_content),
    "an expired list": (
        "trust.expired", "trust.expired",
        document(PRODUCT, by(PRODUCT, lambda targets: setattr(targets, "expires", now() - timedelta(days=1)))),
    ),
    "a list for others": (
        "trust.delegation", "trust.delegation",
        document(PRODUCT, by(PRODUCT, renamed("other/1/x/manifest"))),
    ),
    "a list that delegates": ("trust.delegation", "trust.delegation", document(PRODUCT, by(PRODUCT, delegating))),
    "unknown facts": ("trust.facts", "trust.facts", document(PRODUCT, by(PRODUCT, custom(script="reboot")))),
    "a floor above": ("trust.facts", "trust.facts", document(PRODUCT, by(PRODUCT, custom(floor=2**50)))),
    "facts of another": ("trust.facts", "trust.facts", document(PRODUCT, by(PRODUCT, custom(version="1.2.3")))),
    "metadata that is none": ("trust.malformed", "trust.malformed", document(PRODUCT, lambda _, __: b"{}")),
    "nested metadata": ("trust.malformed", "trust.malformed", document(PRODUCT, lambda _, __: b"[" * 200_000)),
    "a snapshot as list": (
        "trust.malformed", "trust.malformed", document(PRODUCT, lambda ground, _: ground.thief.documents["snapshot"])
    ),
    "another board": (
        "assignment.wrong_hardware", "",
        unfit(lambda one: msgspec.structs.replace(one, target=f"{one.target}-rpi9")),
    ),
    "another machine": (
        "assignment.wrong_target", "",
        unfit(lambda one: msgspec.structs.replace(
            one, target=one.target.replace("x86_64", "riscv64"),
            requires=msgspec.structs.replace(one.requires, machine="riscv64"),
        )),
    ),
    "an agent of the future": (
        "assignment.old_agent", "",
        unfit(lambda one: msgspec.structs.replace(one, requires=msgspec.structs.replace(one.requires, min_agent=99))),
    ),
    "a library that nobody has": (
        "assignment.missing_library", "",
        unfit(lambda one: msgspec.structs.replace(
            one, requires=msgspec.structs.replace(one.requires, libraries=("libnobody.so.9",)))),
    ),
    "no pack at all": ("pack.truncated", "bundle.altered", packed(lambda _: b"")),
    "half a pack": ("pack.truncated", "bundle.altered", packed(lambda data: data[: len(data) // 2])),
    "an altered pack": (
        "pack.frame | slot.altered", "bundle.altered", packed(lambda data: flipped(data, len(data) // 2)),
    ),
    "a pack of other content": ("slot.altered", "bundle.altered", repacked),
    "a pack that goes on": ("pack.trailing", "bundle.altered", packed(lambda data: data + b"more")),
    "a pack that is none": ("pack.frame", "bundle.altered", packed(lambda data: b"PK" + data)),
    "a frame of 4 GB": ("pack.frame", "bundle.altered", packed(lambda _: header(0xFFFFFFFF) + bytes(100))),
    "a window of 2 GB": ("pack.frame", "bundle.altered", packed(lambda data: header(1 << 20, 0xA8) + data[10:])),
    "a frame to be skipped": (
        "pack.frame", "bundle.altered", packed(lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0skip" + data),
    ),
    "a dictionary": ("pack.frame", "bundle.altered", packed(lambda data: data[:4] + b"\x83\x58" + data[6:])),
}  # fmt: skip


def installed(make: Make) -> Callable[[Ground], str]:
    """Given to the agent as a file."""

    def give(ground: Ground) -> str:
        path = ground.work / "hostile.bundle"
        path.write_bytes(make(ground))
        return ground.install(path)

    return give


def uploaded(make: Make) -> Callable[[Ground], str]:
    """Given to the server's API by somebody who may publish."""

    def give(ground: Ground) -> str:
        answer = ground.server.api("POST", "/bundles", data=make(ground))
        assert answer.status_code >= 400, answer.text
        return str(answer.json()["code"])

    return give


CASES = [
    *(Case(f"install: {name}", codes, installed(make), "device") for name, (codes, _, make) in BUNDLES.items()),
    *(Case(f"upload: {name}", codes, uploaded(make), "server") for name, (_, codes, make) in BUNDLES.items() if codes),
]
