import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from beamfleet_bundles import canonical, manifest
from beamfleet_bundles.manifest import FileEntry, LinkEntry, decode
from beamfleet_bundles.probes import Probe, Probes
from hypothesis import given
from hypothesis import strategies as st

from tests.support import manifests
from tests.support.refusal import refusal

PATHS = st.from_regex(r"[a-z]{1,3}(/[a-zA-Z0-9_.é-]{1,8}){0,3}", fullmatch=True).filter(
    lambda path: not any(part in (".", "..") for part in path.split("/"))
)


def altered(change: Callable[[Any], Any]) -> bytes:
    """The canonical bytes of a good manifest after a change to its decoded form."""
    value = json.loads(manifests.manifest(links={"lib/link": "my_app-1.0.0"}).encode())
    change(value)
    return canonical.encode(value)


def test_a_manifest_reads_back_and_its_hash_is_that_of_its_bytes() -> None:
    import hashlib

    built = manifests.manifest({"a": b"x"}, links={"lib/link": "my_app-1.0.0"})
    data = built.encode()
    assert decode(data) == built
    assert built.sha256 == hashlib.sha256(data).hexdigest()
    assert built.id == built.sha256[:32]
    assert built.unpacked == sum(map(len, manifests.contents({"a": b"x"}).values()))
    assert [entry.path for entry in built.files] == list(manifests.contents({"a": b"x"}))


@given(st.dictionaries(PATHS, st.binary(max_size=20), max_size=8))
def test_every_consistent_set_of_files_reads_back(more: dict[str, bytes]) -> None:
    built = manifests.manifest(more)
    if not (code := refusal(decode, built.encode())):
        assert decode(built.encode()) == built
    assert code in ("", "manifest.conflict")


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def entry(**fields: Any) -> Callable[[Any], None]:
    """Change the entry of the boot script."""
    return lambda document: document["entries"][3].update(fields)


def add(path: str, **fields: Any) -> Callable[[Any], None]:
    """Add an entry where it belongs."""

    def change(document: Any) -> None:
        document["entries"].append({"type": "link", "path": path, **fields} if fields else file(path))
        document["entries"].sort(key=lambda item: item["path"])

    return change


def file(path: str) -> dict[str, Any]:
    return {"type": "file", "path": path, "mode": "0644", "size": 0, "sha256": "0" * 64}


ALTERED = {
    "manifest.schema": [
        put("v", value=2),
        put("more", value=1),
        put("entries", value=1),
        put("release", "kind", value="docker"),
        put("requires", "libc", value="uclibc"),
        entry(mode="4755"),
        entry(mode="0600"),
        entry(type="device"),
        entry(owner="root"),
        entry(size="1"),
        entry(size=True),
        put("release", "applications", 0, "start", value="often"),
        put("launch", "more", value=""),
        put("launch", "probes", "more", value=""),
    ],
    "manifest.value": [
        entry(sha256="0" * 63),
        entry(sha256="A" * 64),
        entry(sha256=""),
        put("release", "name", value=""),
        put("release", "applications", 0, "name", value="a/b"),
        put("requires", "libraries", value=["a b"]),
        put("requires", "min_agent", value=0),
    ],
    "manifest.path": [
        add("zz/../b"),
        add("zz//b"),
        add("/etc/passwd"),
        add("zz\n"),
        add(".beamfleet/manifest.json"),
        add("z" * 256),
    ],
    "manifest.duplicate": [
        lambda document: document["entries"].insert(0, document["entries"][0]),
        lambda document: document["release"]["applications"].append(document["release"]["applications"][0]),
    ],
    "manifest.order": [
        lambda document: document["entries"].reverse(),
        put("requires", "libraries", value=["libz.so.1", "libc.so.6"]),
        put("requires", "libraries", value=["libc.so.6", "libc.so.6"]),
    ],
    "manifest.conflict": [add("releases"), add("lib/link/x"), add("erts-13.1.5", target="lib")],
    "manifest.link": [
        add("zz", target="/etc"),
        add("zz", target=".."),
        add("zz", target="lib/link/../.."),
        add("zz", target="nothing"),
        add("zz", target="zz"),
    ],
    "manifest.target": [
        put("target", value="aarch64-glibc-otp25"),
        put("target", value="x86_64-musl-otp25"),
        put("target", value="x86_64-glibc-otp26"),
        put("requires", "machine", value="aarch64"),
    ],
    "manifest.launch": [
        put("launch", "boot", value="releases/1.0.0/other"),
        put("launch", "config", value="releases/1.0.0/sys.config"),
        put("launch", "kind", value="mix"),
        put("launch", "erts", value="14.0"),
        put("launch", "args", value=["-eval"]),
        put("launch", "boot_vars", value={"LIB": "nowhere"}),
        put("launch", "probes", "command", value="bin/nothing"),
        put("launch", "probes", "liveness", value={"command": "bin/nothing"}),
        put("launch", "probes", "command", value="releases/1.0.0/start.boot"),
        lambda document: document["entries"].pop(0),
        lambda document: document["entries"].pop(1),
        lambda document: document["entries"][1].update(mode="0644"),
    ],
    "launch.value": [put("launch", "args", value=["a\nb"]), put("launch", "name", value="$(reboot)")],
    "launch.probe": [
        put("launch", "probes", "timeout_s", value=0),
        put("launch", "probes", "confirm", value=False),
        put("launch", "probes", "liveness", value={}),
    ],
    "manifest.too_large": [entry(size=-1), entry(size=(4 << 30) + 1), put("requires", "libraries", value=["a"] * 513)],
    "name.product": [put("product", value="A"), put("product", value="director")],
    "name.version": [put("version", value="../1")],
    "name.target": [put("target", value="x86_64")],
}


@pytest.mark.parametrize(
    ("code", "number"), [(code, number) for code, changes in ALTERED.items() for number in range(len(changes))]
)
def test_one_wrong_thing_is_refused_with_its_own_code(code: str, number: int) -> None:
    assert refusal(decode, altered(ALTERED[code][number])) == code


def test_the_untouched_manifest_of_these_cases_is_good() -> None:
    assert refusal(decode, altered(put("v", value=1))) == ""


def test_another_spelling_of_a_good_manifest_is_refused() -> None:
    data = manifests.manifest().encode()
    spaced = json.dumps(json.loads(data), sort_keys=True).encode() + b"\n"
    twice = data.replace(b'"product":', b'"product":"other","product":', 1)
    for other in (spaced, twice, data[:-1], data + b"\n", data.replace(b'"v":1', b'"v":1.0')):
        assert refusal(decode, other) in ("manifest.form", "manifest.schema")
    for other in (b"", b"[]", data[:-5], b"\xff", b"[" * 100_000):
        assert refusal(decode, other) in ("manifest.syntax", "manifest.schema")


def test_a_default_of_a_probe_that_is_spelled_is_refused() -> None:
    start = msgspec.structs.replace(manifests.LAUNCH, probes=Probes(liveness=Probe(tcp=80)))
    data = manifests.manifest(start=start).encode()
    assert decode(data).launch.probes.named == {"liveness": Probe(tcp=80)}
    assert refusal(decode, data.replace(b'{"tcp":80}', b'{"period_s":10,"tcp":80}')) == "manifest.form"


def test_sizes_are_bounded_before_they_cost_anything() -> None:
    assert refusal(decode, b" " * (manifest.MAX_SIZE + 1)) == "manifest.too_large"
    many = tuple(FileEntry(f"f/{number:05d}", "0644", 0, "0" * 64) for number in range(manifest.MAX_ENTRIES + 1))
    assert refusal(decode, manifests.manifest(entries=many).encode()) == "manifest.too_large"
    big = tuple(FileEntry(f"f/{number}", "0644", manifest.MAX_UNPACKED // 2, "0" * 64) for number in range(3))
    assert refusal(decode, manifests.manifest(entries=big).encode()) == "manifest.too_large"


def test_paths_that_differ_in_case_only_are_two_files() -> None:
    assert refusal(decode, manifests.manifest({"lib/Elixir.JSON": b"1", "lib/Elixir.Json": b"2"}).encode()) == ""


def test_a_probe_names_an_executable_of_the_release() -> None:
    start = msgspec.structs.replace(manifests.LAUNCH, probes=Probes(command="bin/check --fast"))
    assert refusal(decode, manifests.manifest({"bin/check": b"#!/bin/sh\n"}, start=start).encode()) == ""


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert refusal(decode, data).startswith("manifest.")


@given(st.integers(0), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_gives_another_hash(position: int, byte: int) -> None:
    data = bytearray(manifests.manifest(links={"lib/link": "my_app-1.0.0"}).encode())
    before = bytes(data)
    data[position % len(data)] = byte
    if not refusal(decode, bytes(data)):
        assert (decode(bytes(data)).sha256 == decode(before).sha256) == (bytes(data) == before)


def test_a_link_entry_and_a_file_entry_stay_apart() -> None:
    built = manifests.manifest(links={"lib/link": "my_app-1.0.0"})
    assert [type(entry) for entry in decode(built.encode()).entries].count(LinkEntry) == 1
