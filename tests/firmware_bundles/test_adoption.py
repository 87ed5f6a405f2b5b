"""What a restored server takes back from its devices: only what is signed offline, whole, and newer."""

from collections.abc import Mapping
from datetime import timedelta

import pytest
from beamfleet_bundles import repository
from beamfleet_bundles.adoption import MAX_DOCUMENTS, Adoption, verify_offer
from beamfleet_bundles.errors import BundleError
from securesystemslib.signer import CryptoSigner

from tests.support.repository import PRODUCT, Repository, altered, manifest, resign


@pytest.fixture
def repo() -> Repository:
    return Repository()


def held(repo: Repository) -> dict[str, bytes]:
    return {role: data for role, data in repo.current.items() if role not in ("snapshot", "timestamp")}


def cached(repo: Repository) -> dict[str, bytes]:
    """What a device has kept that has followed everything so far."""
    roots = {name.removesuffix(".json"): data for name, data in repo.served.items() if name.endswith(".root.json")}
    return {role: data for role, data in held(repo).items() if role != "root"} | roots  # type: ignore[return-value]


def offer(repo: Repository, current: Mapping[str, bytes], offered: Mapping[str, bytes]) -> Adoption:
    return verify_offer(current, offered, repo.online_keys(), repo.now)


def refusal(repo: Repository, current: Mapping[str, bytes], offered: Mapping[str, bytes]) -> str:
    with pytest.raises(BundleError) as refused:
        offer(repo, current, offered)
    return refused.value.code


def test_what_was_published_after_the_backup_comes_back(repo: Repository) -> None:
    backup = held(repo)
    for number in range(3):
        repo.release(manifest(f"2.{number}.0"))
    repo.create("edge-hub")
    repo.new_root()
    repo.new_root()
    adoption = offer(repo, backup, cached(repo))
    assert adoption.documents == {role: repo.current[role] for role in ("targets", PRODUCT, "edge-hub")}
    assert adoption.roots == (repo.served["2.root.json"], repo.served["3.root.json"])
    assert adoption.names == ["root 2", "root 3", "edge-hub 1", f"{PRODUCT} 6", "targets 3"]
    assert len(adoption.chain.facts) == 5


def test_what_is_not_newer_is_not_looked_at(repo: Repository) -> None:
    old = cached(repo)
    repo.release(manifest("2.0.0"))
    nonsense = {"snapshot": b"{", "1.root": b"{", "no-product": b"{"}
    for offered in (cached(repo), old, {}, nonsense):
        adoption = offer(repo, held(repo), offered)
        assert (adoption.roots, dict(adoption.documents)) == ((), {})


def test_half_of_what_a_device_has_is_taken_too(repo: Repository) -> None:
    backup = held(repo)
    repo.release(manifest("2.0.0"))
    product_only = {PRODUCT: repo.current[PRODUCT]}
    assert offer(repo, backup, product_only).documents == product_only


def test_an_offered_delegation_needs_its_product(repo: Repository) -> None:
    backup = held(repo)
    repo.create("edge-hub")
    assert refusal(repo, backup, {"targets": repo.current["targets"]}) == "trust.incomplete"


@pytest.mark.parametrize("role", ["targets", PRODUCT])
def test_a_wrong_key_or_an_altered_byte_is_refused(repo: Repository, role: str) -> None:
    newer = resign(repo.current[role], repo.keys[role], version=40)
    assert offer(repo, held(repo), {role: newer}).names == [f"{role} 40"]
    assert refusal(repo, held(repo), {role: altered(newer)}) == "trust.signature"
    assert refusal(repo, held(repo), {role: resign(newer, [CryptoSigner.generate_ed25519()])}) == "trust.signature"
    online = [repo.keys[name][0] for name in ("snapshot", "timestamp", "director")]
    assert refusal(repo, held(repo), {role: resign(newer, online)}) == "trust.signature"


def test_a_root_that_does_not_follow_ours_is_refused(repo: Repository) -> None:
    backup, foreign = held(repo), Repository()
    foreign.new_root()
    assert refusal(repo, backup, {"2.root": foreign.current["root"]}) == "trust.signature"
    repo.new_root()
    assert refusal(repo, backup, {"2.root": altered(repo.current["root"])}) == "trust.signature"


def test_a_root_beyond_a_gap_is_not_looked_at(repo: Repository) -> None:
    backup = held(repo)
    repo.new_root()
    repo.new_root()
    assert offer(repo, backup, {"3.root": repo.current["root"]}).roots == ()


def test_what_has_expired_is_refused(repo: Repository) -> None:
    newer = resign(repo.current[PRODUCT], repo.keys[PRODUCT], version=40, expires=repo.now - timedelta(days=1))
    assert refusal(repo, held(repo), {PRODUCT: newer}) == "trust.expired"


def test_a_server_whose_keys_were_replaced_is_told_so(repo: Repository) -> None:
    backup, old_keys = held(repo), repo.online_keys()
    repo.new_root(rotate=["snapshot"])
    with pytest.raises(BundleError) as refused:
        verify_offer(backup, cached(repo), old_keys, repo.now)
    assert refused.value.code == "trust.online_key"


def test_of_two_histories_none_swallows_the_other(repo: Repository) -> None:
    backup = held(repo)
    after_restore, _ = repository.add_release(backup[PRODUCT], manifest("3.0.0"), repo.keys[PRODUCT], repo.now)
    for number in range(3):
        repo.release(manifest(f"2.{number}.0"))
    assert refusal(repo, {**backup, PRODUCT: after_restore}, cached(repo)) == "trust.release_changed"


def test_a_server_without_metadata_believes_nobody(repo: Repository) -> None:
    assert refusal(repo, {}, cached(repo)) == "trust.incomplete"


def test_an_offer_is_bounded(repo: Repository) -> None:
    assert refusal(repo, held(repo), dict.fromkeys(map(str, range(MAX_DOCUMENTS + 1)), b"")) == "trust.too_large"
    large = resign(repo.current[PRODUCT], repo.keys[PRODUCT], version=40).ljust(2 << 20)
    assert refusal(repo, held(repo), {PRODUCT: large}) == "trust.too_large"


@pytest.mark.parametrize("role", ["targets", PRODUCT, "2.root"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"signed":{},"signatures":[]}'])
def test_nonsense_is_refused_by_its_form(repo: Repository, role: str, data: bytes) -> None:
    assert refusal(repo, held(repo), {role: data}) == "trust.malformed"
