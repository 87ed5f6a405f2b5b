import io
import zipfile
from pathlib import Path

import pytest
from beamfleet_bundles import bundle
from beamfleet_bundles.bundle import Bundle, file_name, write_bundle
from beamfleet_bundles.pack import write_pack

from tests.support import manifests
from tests.support.refusal import refusal

METADATA = {"targets.3": b'{"targets":3}', "root.10": b'{"root":10}', "my-app.1": b"{}", "root.2": b'{"root":2}'}


def bundle_file(folder: Path, metadata: dict[str, bytes] | None = None, manifest_bytes: bytes | None = None) -> Path:
    contents, manifest, pack = manifests.contents(), manifests.manifest(), io.BytesIO()
    write_pack(manifest, lambda entry: io.BytesIO(contents[entry.path]), pack)
    pack.seek(0)
    folder.mkdir(exist_ok=True)
    path = folder / file_name(manifest)
    write_bundle(path, manifest_bytes or manifest.encode(), pack, METADATA if metadata is None else metadata)
    return path


def test_a_bundle_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = bundle_file(tmp_path)
    read = Bundle.open(path)
    assert path.name == "my-app-1.0.0-x86_64-glibc-otp25.bundle"
    assert read.manifest == manifests.manifest()
    assert read.manifest_bytes == manifests.manifest().encode()
    assert read.metadata == METADATA
    assert list(read.metadata) == ["my-app.1", "root.2", "root.10", "targets.3"]
    with read.open_pack() as pack:
        data = pack.read()
    assert len(data) == read.pack_size
    assert b"".join(read.pack_chunks()) == data
    read.verify()


def test_any_zip_reader_can_open_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle_file(tmp_path)) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[:3] == ["manifest.json", "pack", "metadata/my-app.1.json"]


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    first = bundle_file(tmp_path).read_bytes()
    assert bundle_file(tmp_path, dict(reversed(METADATA.items()))).read_bytes() == first


def test_metadata_can_be_replaced_in_place(tmp_path: Path) -> None:
    path = bundle_file(tmp_path, {})
    unsigned = Bundle.open(path)
    assert unsigned.metadata == {}
    unsigned.with_metadata(path, METADATA)
    signed = Bundle.open(path)
    assert signed.metadata == METADATA
    signed.verify()
    assert path.read_bytes() == bundle_file(tmp_path / "other").read_bytes()


def test_nothing_is_left_when_a_bundle_cannot_be_written(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    assert refusal(write_bundle, tmp_path / "a.bundle", b"", Broken(), {}) == "bundle.io"
    assert refusal(write_bundle, tmp_path / "no/a.bundle", b"", io.BytesIO(), {}) == "bundle.io"
    assert refusal(write_bundle, tmp_path / "a.bundle", b"", io.BytesIO(), {"../x": b""}) == "bundle.malformed"
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_is_called_one(tmp_path: Path) -> None:
    path = bundle_file(tmp_path)
    data = path.read_bytes()
    for end in range(4, len(data)):
        path.write_bytes(data[:end])
        assert refusal(Bundle.open, path) == "bundle.truncated"


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bundle"
    assert refusal(Bundle.open, path) == "bundle.not_found"
    assert refusal(Bundle.open, tmp_path) == "bundle.not_found"
    for data in (b"", b"PK", b"\x1f\x8b a tarball"):
        path.write_bytes(data)
        assert refusal(Bundle.open, path) == "bundle.not_a_bundle"


def test_bytes_before_after_or_between_are_refused(tmp_path: Path) -> None:
    path = bundle_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    assert refusal(Bundle.open, path) == "bundle.malformed"
    path.write_bytes(b"#!/bin/sh\n" + data)
    assert refusal(Bundle.open, path) == "bundle.not_a_bundle"
    second = data.index(b"PK\3\4", 4)
    path.write_bytes(data[:second] + b"hidden" + data[second:])
    assert refusal(Bundle.open, path) == "bundle.malformed"
    path.write_bytes(data[:second] + data)
    assert refusal(Bundle.open, path) == "bundle.malformed"


def test_directory_and_entries_must_say_the_same(tmp_path: Path) -> None:
    path = bundle_file(tmp_path)
    data = path.read_bytes()
    directory = data.index(b"PK\1\2")
    hidden = bytearray(data[:directory] + b"hidden" + data[directory:])
    hidden[-6:-2] = (directory + 6).to_bytes(4, "little")
    path.write_bytes(hidden)
    assert refusal(Bundle.open, path) == "bundle.malformed"
    for field in (4 + 10, 4 + 14, 4 + 18):  # check sum, stored size and plain size in the first entry's own header
        altered = bytearray(data)
        altered[field] ^= 1
        path.write_bytes(altered)
        assert refusal(Bundle.open, path) == "bundle.malformed"


def test_an_entry_cannot_lie_inside_another(tmp_path: Path) -> None:
    document, name = b"{}", b"metadata/root.1.json"
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name.decode()), document)
    path = tmp_path / "x.bundle"
    write_bundle(path, manifests.manifest().encode(), io.BytesIO(inner.getvalue()), {"root.1": document})
    data = bytearray(path.read_bytes())
    offset = data.rindex(b"PK\1\2") + 42
    data[offset : offset + 4] = data.index(b"PK\3\4", 4 + data.index(b"pack")).to_bytes(4, "little")
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.read(name.decode()) == document
    assert refusal(Bundle.open, path) == "bundle.malformed"


def test_every_changed_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = bundle_file(tmp_path)
    data, good = path.read_bytes(), Bundle.open(path)
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 0xFF
        path.write_bytes(altered)
        if not (code := refusal(lambda: Bundle.open(path).verify())):
            read = Bundle.open(path)
            assert (read.manifest_bytes, read.metadata) == (good.manifest_bytes, good.metadata)
        assert code == "" or code.startswith("bundle.")


ENTRIES = {"manifest.json": manifests.manifest().encode(), "pack": b"", "metadata/root.1.json": b"{}"}


@pytest.mark.parametrize(
    "names",
    [
        ["pack", "manifest.json"],
        ["manifest.json"],
        ["manifest.json", "pack", "metadata/root.1.json", "metadata/root.1.json"],
        ["manifest.json", "pack", "evil.sh"],
        ["manifest.json", "pack", "metadata/../../x.json"],
        ["manifest.json", "pack", "/etc/passwd"],
        ["manifest.json", "pack", "metadata/root.01.json"],
        ["manifest.json", "pack", "metadata/targets.1.json", "metadata/root.1.json"],
        ["manifest.json", "pack", *(f"metadata/root.{number}.json" for number in range(1, 300))],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_entries_and_other_orders_are_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "x.bundle"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), ENTRIES.get(name, b"{}"))
    assert refusal(Bundle.open, path) == "bundle.malformed"


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bundle"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in ENTRIES.items():
            archive.writestr(name, data)
    assert refusal(Bundle.open, path) == "bundle.malformed"


def test_a_document_beyond_its_size_is_refused(tmp_path: Path) -> None:
    path = bundle_file(tmp_path, {"root.1": bytes(bundle.MAX_METADATA + 1)})
    assert refusal(Bundle.open, path) == "bundle.too_large"


def test_an_altered_manifest_is_refused_when_opening_and_an_altered_pack_when_verifying(tmp_path: Path) -> None:
    assert refusal(Bundle.open, bundle_file(tmp_path, manifest_bytes=b"{}")) == "manifest.schema"
    path = bundle_file(tmp_path, manifest_bytes=manifests.manifest({"more": b"x"}).encode())
    assert refusal(Bundle.open(path).verify) == "bundle.altered"
