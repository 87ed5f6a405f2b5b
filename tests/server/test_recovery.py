"""A server that was restored from an old backup catches up with its devices, and believes no more than it must."""

import base64
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from beamfleet_bundles import chain, repository
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.repository import RoleKeys
from beamfleet_server.data import DataDirectory
from beamfleet_server.publishing import SETTLED_S, Publisher
from beamfleet_server.store.seen import AHEAD_S, FAR
from beamfleet_server.store.silence import BROKER, Ear
from securesystemslib.signer import CryptoSigner

from tests.server.conftest import PRODUCT, Centre, open_centre
from tests.support.author import first_metadata
from tests.support.fleet_store import FleetStore
from tests.support.mqtt_device import MqttDevice
from tests.support.postgres import Place
from tests.support.repository import manifest, resign, version_of
from tests.support.server import Identity, Server, eventually

NOTHING: dict[str, Any] = {"root": 0, "timestamp": 0, "snapshot": 0, "targets": 0, "products": {}}


class Recovering:
    """A store with metadata, what signs it, and a device that reports versions."""

    def __init__(self, work: Path, place: Place) -> None:
        self.fleet = FleetStore(work, place)
        self.fleet.enrol("dev-1", "dev-2")
        self.fleet.online("dev-1", "dev-2")
        self.publisher = Publisher(self.fleet.store, DataDirectory(work), self.fleet.keys, self.fleet.clock)
        self.signers = {role: CryptoSigner.generate_ed25519() for role in ("root", "targets", PRODUCT)}
        self.publisher.take_metadata(first_metadata(self.fleet.keys.public, self.time, self.signers))
        allowed = RoleKeys((self.signers[PRODUCT].public_key,))
        targets = repository.add_product(self.held("targets"), PRODUCT, allowed, [self.signers["targets"]], self.time)
        product = repository.new_product([self.signers[PRODUCT]], self.time)
        self.publisher.create_product(PRODUCT, targets, product)

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.fleet.now, UTC)

    def held(self, role: str) -> bytes:
        return self.fleet.store.metadata.latest(role)[1]

    def version(self, role: str) -> int:
        return self.fleet.store.metadata.latest(role)[0]

    def report(self, device: str = "dev-1", /, **versions: Any) -> list[str]:
        """A device reports versions; the offline roles in which the server is behind then."""
        self.fleet.report(device, metadata=NOTHING | versions)
        return self.publisher.catch_up()

    def later(self, seconds: int) -> None:
        self.fleet.now += seconds

    def signed(self, role: str, version: int) -> bytes:
        return resign(self.held(role), [self.signers[role]], version=version)


@pytest.fixture
def server(tmp_path: Path, place: Place) -> Iterator[Recovering]:
    made = Recovering(tmp_path, place)
    yield made
    made.fleet.close()


def test_snapshot_and_timestamp_are_signed_above_what_devices_have(server: Recovering) -> None:
    ahead = server.fleet.now + 1000
    assert server.report(timestamp=ahead, snapshot=ahead + 1) == []
    assert (server.version("timestamp"), server.version("snapshot")) == (ahead + 1, ahead + 2)
    meta = chain.parse_timestamp(server.held("timestamp")).signed.snapshot_meta
    assert meta.version == ahead + 2


def test_a_device_that_is_not_ahead_changes_nothing(server: Recovering) -> None:
    before = server.version("timestamp"), server.version("snapshot")
    server.later(3600)
    versions = {role: server.version(role) for role in ("root", "targets", "snapshot", "timestamp")}
    assert server.report(**versions, products={PRODUCT: server.version(PRODUCT)}) == []
    assert (server.version("timestamp"), server.version("snapshot")) == before
    assert server.fleet.store.seen.highest() == {}


def test_an_agent_that_does_not_say_what_it_has_is_fine(server: Recovering) -> None:
    server.fleet.report("dev-1")
    assert server.publisher.catch_up() == []


def test_a_liar_moves_the_numbers_by_a_day_and_once_a_minute_at_most(server: Recovering) -> None:
    before = server.version("timestamp")
    server.report(timestamp=server.fleet.now + AHEAD_S + 1, snapshot=2**62)
    assert server.version("timestamp") == before
    server.report(timestamp=server.fleet.now + AHEAD_S)
    first = server.version("timestamp")
    assert first == server.fleet.now + AHEAD_S + 1
    server.later(SETTLED_S - 1)
    server.report(timestamp=server.fleet.now + AHEAD_S)
    assert server.version("timestamp") == first
    server.later(1)
    server.report(timestamp=server.fleet.now + AHEAD_S)
    assert server.version("timestamp") == server.fleet.now + AHEAD_S + 1


def test_the_next_version_of_a_product_is_above_what_devices_have(server: Recovering) -> None:
    held = server.version(PRODUCT)
    assert server.report(targets=9, products={PRODUCT: held + 20, "no-such-product": 7}) == [PRODUCT, "targets"]
    versions = server.publisher.versions()
    assert (versions["targets"], versions[PRODUCT]) == ((2, 9, 10), (held, held + 20, held + 21))
    for wrong in (held + 1, held + 20, held + 22):
        with pytest.raises(BundleError, match=r"next version|metadata\.conflict") as refused:
            take(server, PRODUCT, wrong)
        assert refused.value.code == "metadata.conflict"
    take(server, PRODUCT, held + 21)
    assert server.publisher.versions()[PRODUCT] == (held + 21, held + 20, held + 22)


def take(server: Recovering, role: str, version: int) -> None:
    try:
        server.publisher.take_metadata({role: server.signed(role, version)})
    except Exception as error:
        raise BundleError(getattr(error, "code", "?"), str(error)) from error


@pytest.mark.parametrize("far", [FAR + 1, 2**62])
def test_versions_that_nobody_can_have_are_not_believed(server: Recovering, far: int) -> None:
    versions = {role: server.version(role) + far for role in ("root", "targets")}
    assert server.report(**versions, products={PRODUCT: server.version(PRODUCT) + far}) == []
    assert server.report(products={"timestamp": 5, "snapshot": 5, "root": 5, "targets": 5}) == []


def test_a_lie_within_bounds_does_not_hide_what_others_have(server: Recovering) -> None:
    server.report("dev-1", products={PRODUCT: 2**62})
    server.report("dev-2", products={PRODUCT: 7})
    assert server.publisher.versions()[PRODUCT][1] == 7


def test_the_devices_with_the_newest_are_asked_first(server: Recovering) -> None:
    server.report("dev-1", products={PRODUCT: 7})
    server.report("dev-2", products={PRODUCT: 9})
    ahead = server.fleet.store.seen.ahead
    assert ahead([PRODUCT], 1) == ["dev-2"]
    assert ahead([PRODUCT, "targets"], 5) == ["dev-2", "dev-1"]
    server.fleet.store.silence.expire(Ear(hears=False, since=server.fleet.now, away=BROKER), server.fleet.now + 300)
    assert ahead([PRODUCT], 5) == []


def test_what_a_device_offers_is_taken_back_with_everything_signed_over_it(server: Recovering) -> None:
    newer, _ = repository.add_release(
        server.held(PRODUCT), manifest("2.0.0"), [server.signers[PRODUCT]], server.time, version=30
    )
    before = server.version("snapshot")
    server.later(10)
    assert server.publisher.adopt({PRODUCT: newer}, "dev-1") == [f"{PRODUCT} 30"]
    snapshot = chain.parse_snapshot(server.held("snapshot")).signed
    assert snapshot.version > before
    assert snapshot.meta[f"{PRODUCT}.json"].version == 30
    event = server.fleet.store.events.newest(1)[0]
    assert (event.kind, event.cause, event.detail) == ("metadata", "adopted", f"{PRODUCT} 30, taken back from dev-1")


def test_every_root_is_kept_for_ever(server: Recovering) -> None:
    online = {role: RoleKeys((server.fleet.keys.public[role],)) for role in ("snapshot", "timestamp")}
    offline = {role: RoleKeys((server.signers[role].public_key,)) for role in ("root", "targets")}
    roots = [server.held("root")]
    for _ in range(40):
        roots.append(repository.new_root(online | offline, [server.signers["root"]], server.time, roots[-1]))
    adopted = server.publisher.adopt({f"{version_of(root)}.root": root for root in roots[:31]}, "dev-1")
    assert adopted == [f"root {number}" for number in range(2, 32)]
    for root in roots[31:]:
        server.publisher.take_metadata({"root": root})
    assert server.fleet.store.metadata.roots() == roots
    assert [server.fleet.store.metadata.find("root", number + 1) for number in range(41)] == roots


def test_an_offer_of_nothing_new_still_makes_the_server_newer(server: Recovering) -> None:
    server.later(3600)
    assert server.publisher.adopt({}, "dev-1") == []
    assert server.version("timestamp") == server.fleet.now


# --- the whole server


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[tuple[Centre, MqttDevice, dict[str, bytes]]]:
    """A server that was put back to before its last three publications, and what a device keeps of them."""
    server = Server(tmp_path / "server")
    server.start()
    try:
        centre = open_centre(tmp_path, server)
        identity = server.enrol("gw-1", tmp_path / "devices")
        server.stop()
        shutil.copytree(server.data, tmp_path / "backup")
        server.start()
        for number in range(3):
            centre.author.publish(PRODUCT, f"2.{number}.0")
        cached = {role: centre.author.held(role) for role in ("targets", PRODUCT, "timestamp")}
        server.stop()
        shutil.rmtree(server.data)
        shutil.copytree(tmp_path / "backup", server.data)
        server.start()
        device = MqttDevice(identity, server.facts["mqtt"], server.ca)
        device.birth()
        yield centre, device, cached
        device.close()
    finally:
        server.end()


def offer(server: Server, identity: Identity, documents: dict[str, bytes]) -> requests.Response:
    body = {"documents": {role: base64.b64encode(data).decode() for role, data in documents.items()}}
    pair = (str(identity.certificate), str(identity.key))
    return requests.post(f"{server.facts['devices']}/metadata", json=body, cert=pair, verify=str(server.ca), timeout=60)


def identity_of(centre: Centre) -> Identity:
    directory = centre.server.data.parent / "devices"
    return Identity("gw-1", directory / "gw-1.key", directory / "gw-1.pem")


def test_a_restored_server_asks_who_is_ahead_and_takes_back_what_it_has_lost(
    restored: tuple[Centre, MqttDevice, dict[str, bytes]],
) -> None:
    centre, device, cached = restored
    server = centre.server
    seen = {role: version_of(data) for role, data in cached.items()}
    versions = {"timestamp": seen["timestamp"], "targets": seen["targets"], "products": {PRODUCT: seen[PRODUCT]}}
    device.report(metadata=NOTHING | versions)
    device.wait("the wish to look", lambda: [each for each in device.received if each[0] == "command"])
    assert b'"refresh"' in dict(device.received)["command"]
    eventually("a newer timestamp", lambda: version_of(centre.author.held("timestamp")) > seen["timestamp"])
    numbers = server.get("/metadata/versions")["roles"]
    assert numbers[PRODUCT] == {"held": 1, "reported": seen[PRODUCT], "next": seen[PRODUCT] + 1}

    answer = offer(server, identity_of(centre), {PRODUCT: cached[PRODUCT]})
    assert (answer.status_code, answer.json()) == (200, {"adopted": [f"{PRODUCT} {seen[PRODUCT]}"]})
    assert centre.author.held(PRODUCT) == cached[PRODUCT]
    entry = server.get("/audit?newest=true&limit=1")["items"][0]
    assert (entry["actor"], entry["action"], entry["detail"]) == (
        "device:gw-1", "device.offer", f"{PRODUCT} {seen[PRODUCT]}",
    )  # fmt: skip
    centre.author.publish(PRODUCT, "3.0.0")
    assert version_of(centre.author.held(PRODUCT)) == seen[PRODUCT] + 1


def test_a_bundle_that_the_backup_did_not_have_is_published_again_as_it_was(
    restored: tuple[Centre, MqttDevice, dict[str, bytes]], tmp_path: Path
) -> None:
    centre, _, cached = restored
    assert offer(centre.server, identity_of(centre), {PRODUCT: cached[PRODUCT]}).status_code == 200
    path = next(tmp_path.glob(f"author/{PRODUCT}-2.1.0-*/*.bundle"))
    answer = centre.author.upload(path)
    assert answer.status_code == 201, answer.text
    assert centre.author.held(PRODUCT) == cached[PRODUCT]


def test_what_a_device_cannot_have_honestly_is_refused_and_changes_nothing(
    restored: tuple[Centre, MqttDevice, dict[str, bytes]],
) -> None:
    centre, _, cached = restored
    before = centre.server.get("/server")["metadata"]
    forged = resign(cached[PRODUCT], [CryptoSigner.generate_ed25519()])
    identity = identity_of(centre)
    answers = [
        offer(centre.server, identity, {PRODUCT: forged}),
        offer(centre.server, identity, {PRODUCT: b"{"}),
        offer(centre.server, identity, {PRODUCT: b"x" * (2 << 20)}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (422, "trust.signature"), (422, "trust.malformed"), (413, "request.too_large"),
    ]  # fmt: skip
    assert centre.server.get("/server")["metadata"] == before
    many = [offer(centre.server, identity, {}) for _ in range(5)]
    assert many[-1].status_code == 429
    assert int(many[-1].headers["Retry-After"]) > 0
    refused = [entry["outcome"] for entry in centre.server.get("/audit?newest=true&limit=20")["items"]]
    assert {"trust.signature", "trust.malformed"} <= set(refused)


def test_an_offer_needs_a_certificate_of_the_fleet(centre: Centre) -> None:
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.post(
            f"{centre.server.facts['devices']}/metadata",
            json={"documents": {}},
            verify=str(centre.server.ca),
            timeout=30,
        )
