"""What may be published: everything that is wrong with an upload has its code, and leaves nothing behind."""

import io
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from beamfleet_bundles.bundle import Bundle, write_bundle
from beamfleet_bundles.trust import Updater
from beamfleet_server.data import DataDirectory
from beamfleet_server.errors import ServerError
from beamfleet_server.publishing import Publisher
from securesystemslib.signer import CryptoSigner

from tests.server.conftest import PRODUCT, Centre
from tests.support.author import Author, first_metadata, now
from tests.support.fleet_store import FleetStore
from tests.support.postgres import Place
from tests.support.server import eventually, running_server

VERSIONS = iter(range(1, 1000))


@pytest.fixture
def version() -> str:
    """A version that no other test has published."""
    return f"1.0.{next(VERSIONS)}"


def code(answer: requests.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    return str(problem["code"])


def files(centre: Centre) -> set[str]:
    """Everything below bundles/ and quarantine/."""
    folders = (centre.server.data / "bundles", centre.server.data / "quarantine")
    return {path.name for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_published_bundle_is_listed_described_and_on_disk(centre: Centre, version: str) -> None:
    published = centre.author.publish(PRODUCT, version)
    manifest = published["manifest"]
    assert published["already"] is False
    listed = centre.server.get(f"/bundles?product={PRODUCT}&version={version}")["items"]
    assert listed == [{key: value for key, value in published.items() if key != "already"}]
    one = centre.server.get(f"/bundles/{PRODUCT}/{version}/{published['target']}")
    assert one["content"]["version"] == version
    assert one["release"]["kind"] == "relx"
    assert (centre.server.data / "bundles" / "packs" / f"{manifest}.full").stat().st_size == published["size"]


def test_the_same_bundle_again_is_no_error_and_changes_nothing(centre: Centre, version: str) -> None:
    path = centre.author.sign(centre.author.build(PRODUCT, version))
    first = centre.author.upload(path)
    before = centre.server.get("/server")["metadata"]
    again = centre.author.upload(path)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"already": True}
    assert centre.server.get("/server")["metadata"] == before


def test_a_device_can_verify_what_was_published(centre: Centre, version: str, tmp_path: Path) -> None:
    published = centre.author.publish(PRODUCT, version)
    identity = centre.server.enrol(f"verifier-{version.replace('.', '-')}", tmp_path)

    def fetch(name: str, /) -> list[bytes]:
        answer = centre.server.fetch(identity, f"/metadata/{name}")
        if answer.status_code == 404:
            raise FileNotFoundError(name)
        return [answer.content]

    root = centre.server.api("GET", "/metadata/root").content
    updater = Updater(tmp_path / "trust", fetch, root, now())
    facts = updater.target(f"{PRODUCT}/{version}/{published['target']}/manifest")
    assert facts.sha256 == published["manifest"]
    served = centre.server.fetch(identity, f"/targets/{facts.served_path}")
    assert facts.verify(served.content)


def test_the_same_version_with_other_content_is_refused(centre: Centre, version: str) -> None:
    published = centre.author.publish(PRODUCT, version)
    before = files(centre)
    other = centre.author.build(PRODUCT, version, note=b"other")
    answer = centre.author.upload(other)
    assert (answer.status_code, code(answer)) == (409, "bundle.version_exists")
    assert files(centre) == before
    listed = centre.server.get(f"/bundles?version={version}")["items"]
    assert [each["manifest"] for each in listed] == [published["manifest"]]


def unsigned(author: Author, path: Path) -> Path:
    return path


def wrongly_signed(author: Author, path: Path) -> Path:
    return author.sign(path, CryptoSigner.generate_ed25519())


def signed_for_another(author: Author, path: Path) -> Path:
    """The metadata signs the product's other releases, and not this one."""
    other = Bundle.open(author.sign(author.build(PRODUCT, f"9.9.{next(VERSIONS)}")))
    Bundle.open(path).with_metadata(path, other.metadata)
    return path


def signed_with_other_content(author: Author, path: Path) -> Path:
    """The metadata signs another manifest under the same name."""
    other = author.build(PRODUCT, Bundle.open(path).manifest.version, note=b"other")
    Bundle.open(path).with_metadata(path, Bundle.open(author.sign(other)).metadata)
    return path


def truncated(author: Author, path: Path) -> Path:
    author.sign(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def altered_pack(author: Author, path: Path) -> Path:
    """A byte of the pack is another one; the zip's own checksum is right."""
    bundle = Bundle.open(author.sign(path))
    with bundle.open_pack() as file:
        pack = bytearray(file.read())
    pack[len(pack) // 2] ^= 1
    altered = path.with_name("altered.bundle")
    write_bundle(altered, bundle.manifest_bytes, io.BytesIO(bytes(pack)), bundle.metadata)
    return altered


def no_bundle(author: Author, path: Path) -> Path:
    path.write_bytes(b"\x1f\x8b this is a tarball")
    return path


def nothing(author: Author, path: Path) -> Path:
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("spoil", "status", "expected"),
    [
        (unsigned, 422, "bundle.unsigned"),
        (wrongly_signed, 422, "bundle.untrusted"),
        (signed_for_another, 422, "bundle.unsigned"),
        (signed_with_other_content, 422, "bundle.untrusted"),
        (truncated, 422, "bundle.truncated"),
        (altered_pack, 422, "bundle.altered"),
        (no_bundle, 422, "bundle.not_a_bundle"),
        (nothing, 422, "bundle.not_a_bundle"),
    ],
)
def test_a_bad_bundle_is_refused_and_nothing_of_it_stays(
    centre: Centre, version: str, spoil: Callable[[Author, Path], Path], status: int, expected: str
) -> None:
    metadata, before = centre.server.get("/server")["metadata"], files(centre)
    answer = centre.author.upload(spoil(centre.author, centre.author.build(PRODUCT, version)))
    assert (answer.status_code, code(answer)) == (status, expected)
    assert files(centre) == before
    assert centre.server.get("/server")["metadata"] == metadata
    assert centre.server.get(f"/bundles?version={version}")["items"] == []


def test_of_two_publishers_the_second_is_told_to_sign_again(centre: Centre, version: str) -> None:
    later = f"{version}-later"
    first = centre.author.sign(centre.author.build(PRODUCT, version))
    second = centre.author.sign(centre.author.build(PRODUCT, later))
    assert centre.author.upload(first).status_code == 201
    answer = centre.author.upload(second)
    assert (answer.status_code, code(answer)) == (409, "metadata.conflict")
    assert centre.author.upload(centre.author.sign(second)).status_code == 201


def test_a_bundle_of_a_product_that_is_not_there_is_refused(centre: Centre, version: str) -> None:
    path = centre.author.build("unheard-of", version)
    documents = {"root.1": b"{}", "targets.1": b"{}", "unheard-of.1": centre.author.held(PRODUCT)}
    Bundle.open(path).with_metadata(path, documents)
    answer = centre.author.upload(path)
    assert answer.status_code in (409, 422)
    assert code(answer) in ("metadata.conflict", "metadata.incomplete")


def test_a_bundle_that_is_too_large_is_refused_by_name(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", max_bundle_bytes=5000) as server:
        answer = server.api("POST", "/bundles", data=b"x" * 3_000_000)
        assert (answer.status_code, code(answer)) == (413, "request.too_large")
        assert list((server.data / "quarantine").iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(centre: Centre) -> None:
    host, _, port = centre.server.facts["operators"].removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(centre.server.ca))
    before = files(centre)
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as connection:
        head = f"POST /api/v1/bundles HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {centre.server.token}\r\n"
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 70_000)
    eventually("the quarantine to be empty", lambda: files(centre) == before)


def test_metadata_is_uploaded_by_compare_and_swap(own_centre: Centre) -> None:
    again = own_centre.author.initialise()
    assert (again.status_code, code(again)) == (409, "metadata.conflict")
    versions = own_centre.server.get("/server")["metadata"]
    assert (versions["root"], versions["targets"], versions["products"]) == (1, 2, {PRODUCT: 1})
    assert own_centre.server.get("/server")["development"] is True


def test_a_product_is_made_once(own_centre: Centre) -> None:
    again = own_centre.server.api("POST", "/products", json={"name": PRODUCT, "targets": "", "product": ""})
    assert (again.status_code, code(again)) == (409, "product.exists")
    assert own_centre.author.create_product("other").status_code == 201
    assert [product["name"] for product in own_centre.server.get("/products")["items"]] == ["other", PRODUCT]


def test_before_anything_is_signed_there_is_no_metadata(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        assert code(server.api("GET", "/metadata/root")) == "metadata.none"
        metadata = server.get("/server")["metadata"]
        assert metadata == {"root": None, "targets": None, "products": {}, "root_json_base64": None}
        author = Author(server, tmp_path / "author")
        assert code(author.upload(author.build(PRODUCT, "1.0.0"))) == "bundle.unsigned"


def test_snapshot_and_timestamp_are_signed_again_at_half_of_their_time(tmp_path: Path, place: Place) -> None:
    fleet = FleetStore(tmp_path, place)
    publisher = Publisher(fleet.store, DataDirectory(tmp_path), fleet.keys, fleet.clock)
    publisher.refresh()
    publisher.take_metadata(first_metadata(fleet.keys.public, datetime.fromtimestamp(fleet.now, UTC)))

    def versions() -> tuple[int, int]:
        publisher.refresh()
        held = fleet.store.metadata.newest()
        return held["snapshot"][0], held["timestamp"][0]

    first = versions()
    fleet.now += 3 * 86_400
    assert versions() == first
    fleet.now += 86_400
    second = versions()
    assert second == (fleet.now, fleet.now)
    with pytest.raises(ServerError, match="timestamp"):
        fleet.store.metadata.find("timestamp", first[1])
    assert fleet.store.metadata.find("snapshot", first[0]), "a device in the middle of a refresh still gets it"
    fleet.close()
