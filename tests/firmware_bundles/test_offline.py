"""A bundle carried by hand: the metadata inside it against what the device trusts already."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from beamfleet_bundles import chain
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.offline import Offline, known_targets, pin, trusted_root, verify_offline
from beamfleet_bundles.trust import Updater
from securesystemslib.signer import CryptoSigner

from tests.support.repository import NOW, PRODUCT, TARGET, Repository, altered, manifest, resign, version_of

PATH = f"{PRODUCT}/1.1.0/{TARGET}/manifest"
MANIFEST = manifest("1.1.0").encode()


@pytest.fixture
def repo() -> Repository:
    return Repository()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "trust"


def install(repo: Repository, store: Path, metadata: dict[str, bytes] | None = None) -> Offline:
    """What `install FILE` does with trust: verify with what is known, then pin."""
    root = trusted_root(store, repo.root)
    known = known_targets(store)
    verified = verify_offline(metadata or repo.bundle_metadata(), MANIFEST, PATH, root, repo.now, known)
    pin(store, verified)
    return verified


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as refused:
        action()
    return refused.value.code


def test_a_bundle_proves_its_manifest(repo: Repository, store: Path) -> None:
    facts = install(repo, store).facts
    assert (facts.path, facts.sha256, facts.custom.counter) == (PATH, manifest("1.1.0").sha256, 2)


def test_a_bundle_with_another_manifest_than_the_signed_one_is_refused(repo: Repository) -> None:
    other = manifest("1.1.0", content=b"other").encode()
    metadata = repo.bundle_metadata()
    assert refusal(lambda: verify_offline(metadata, other, PATH, repo.root, NOW)) == "trust.mismatch"


def test_a_bundle_that_was_never_signed_is_refused(repo: Repository, store: Path) -> None:
    assert refusal(lambda: verify_offline({}, MANIFEST, PATH, repo.root, NOW)) == "trust.incomplete"
    path = f"{PRODUCT}/3.0.0/{TARGET}/manifest"
    new = manifest("3.0.0").encode()
    assert refusal(lambda: verify_offline(repo.bundle_metadata(), new, path, repo.root, NOW)) == "trust.unknown_target"


@pytest.mark.parametrize("role", ["targets", PRODUCT])
def test_one_altered_byte_in_the_metadata_is_refused(repo: Repository, store: Path, role: str) -> None:
    metadata = repo.bundle_metadata()
    name = f"{role}.{version_of(repo.current[role])}"
    assert refusal(lambda: install(repo, store, {**metadata, name: altered(metadata[name])})) == "trust.signature"


@pytest.mark.parametrize("role", ["targets", PRODUCT])
def test_a_key_that_the_role_does_not_have_is_refused(repo: Repository, store: Path, role: str) -> None:
    repo.current[role] = resign(repo.current[role], [CryptoSigner.generate_ed25519()])
    assert refusal(lambda: install(repo, store)) == "trust.signature"


def test_a_bundle_of_another_fleet_is_refused_with_its_own_root_inside(repo: Repository, store: Path) -> None:
    foreign = Repository()
    assert refusal(lambda: install(repo, store, foreign.bundle_metadata())) == "trust.signature"
    foreign.new_root()
    assert refusal(lambda: install(repo, store, foreign.bundle_metadata())) == "trust.signature"


@pytest.mark.parametrize("role", ["root", "targets", PRODUCT])
def test_metadata_past_its_time_is_refused(repo: Repository, role: str) -> None:
    repo.current[role] = resign(repo.current[role], repo.keys[role], expires=NOW - timedelta(seconds=1))
    root = repo.current["root"]
    assert refusal(lambda: verify_offline(repo.bundle_metadata(), MANIFEST, PATH, root, NOW)) == "trust.expired"


def test_a_bundle_with_two_lists_of_one_role_is_refused(repo: Repository, store: Path) -> None:
    metadata = {**repo.bundle_metadata(), f"{PRODUCT}.99": repo.current[PRODUCT]}
    assert refusal(lambda: install(repo, store, metadata)) == "trust.incomplete"


@pytest.mark.parametrize(
    "name", ["snapshot", "timestamp", "assignment", "x.y", "..", "root.-1", "root.²", "a" * 10_000]
)
def test_other_documents_in_a_bundle_change_nothing(repo: Repository, store: Path, name: str) -> None:
    install(repo, store, {**repo.bundle_metadata(), name: b"anything"})


def test_newer_roots_in_a_bundle_are_followed_and_kept(repo: Repository, store: Path) -> None:
    repo.new_root(rotate=["root"])
    second = repo.current["root"]
    repo.new_root(rotate=["root", "targets"])
    repo.put("targets", resign(repo.current["targets"], repo.keys["targets"], version=3))
    metadata = repo.bundle_metadata()
    assert refusal(lambda: install(repo, store, metadata)) == "trust.signature"  # root 2 is missing
    verified = install(repo, store, {**metadata, "root.2": second})
    assert verified.root.version == 3
    assert trusted_root(store, repo.root) == repo.current["root"]
    install(repo, store, metadata)


def test_a_stolen_product_key_is_out_once_newer_targets_have_been_seen(repo: Repository, store: Path) -> None:
    stolen = repo.bundle_metadata()
    thief = repo.keys[PRODUCT][0]
    install(repo, store)
    new = CryptoSigner.generate_ed25519()
    targets = chain.parse_top_targets(repo.current["targets"]).signed
    targets.revoke_key(thief.public_key.keyid, PRODUCT)
    targets.add_key(new.public_key, PRODUCT)
    delegations = targets.delegations
    repo.put("targets", resign(repo.current["targets"], repo.keys["targets"], version=3, delegations=delegations))
    repo.put(PRODUCT, resign(repo.current[PRODUCT], [new]))
    install(repo, store)
    assert refusal(lambda: install(repo, store, stolen)) == "trust.signature"


def test_an_older_bundle_installs_after_products_have_come(repo: Repository, store: Path) -> None:
    older = repo.bundle_metadata()
    repo.create("edge-hub")
    repo.publish()
    Updater(store, repo, repo.root, NOW).refresh()
    verified = install(repo, store, older)
    assert version_of(verified.targets) == version_of(repo.current["targets"])


@pytest.mark.parametrize("torn", [b"", b"{", b"null"])
def test_torn_caches_bind_nobody(repo: Repository, store: Path, torn: bytes) -> None:
    repo.publish()
    Updater(store, repo, repo.root, NOW).refresh()
    (store / "targets.json").write_bytes(torn)
    (store / "high-water").write_bytes(torn)
    install(repo, store)


def test_the_network_cannot_go_back_behind_an_installation(repo: Repository, store: Path) -> None:
    lagging = dict(repo.served)
    repo.create("edge-hub")
    install(repo, store)
    served, repo.served = repo.served, lagging
    assert refusal(lambda: Updater(store, repo, repo.root, NOW).refresh()) == "trust.rollback"
    repo.served = served
    repo.publish()
    Updater(store, repo, repo.root, NOW).refresh()


def test_the_network_cannot_go_back_behind_a_root_that_an_installation_brought(repo: Repository, store: Path) -> None:
    repo.new_root(rotate=["timestamp"])
    install(repo, store)
    assert refusal(lambda: Updater(store, repo, repo.root, NOW).refresh()) == "trust.signature"
    for path in (store / "root_history").iterdir():
        path.unlink()
    del repo.served["2.root.json"]
    assert refusal(lambda: Updater(store, repo, repo.root, NOW).refresh()) == "trust.rollback"
    assert refusal(lambda: trusted_root(store, repo.root)) == "trust.rollback"


def test_what_is_pinned_is_synced(repo: Repository, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.new_root()
    synced, fsync = set[int](), os.fsync

    def recording(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    install(repo, store)
    places = [store, *store.rglob("*")]
    assert {place.name for place in places if place.stat().st_ino not in synced} == set()
