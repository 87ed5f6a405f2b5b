"""What may follow what a server holds: compare-and-swap, nothing lost, nothing changed, online keys kept."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from beamfleet_bundles import repository
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.publication import Publication, verify_publication
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from tests.support.repository import NOW, PRODUCT, TARGET, Repository, altered, manifest, resign

OFFLINE = ("root", "targets", PRODUCT)


@pytest.fixture
def repo() -> Repository:
    return Repository()


def held(repo: Repository) -> dict[str, bytes]:
    return {role: data for role, data in repo.current.items() if role not in ("snapshot", "timestamp")}


def publish(repo: Repository, current: Mapping[str, bytes], new: Mapping[str, bytes]) -> Publication:
    return verify_publication(current, new, repo.online_keys(), repo.now)


def refusal(repo: Repository, current: Mapping[str, bytes], new: Mapping[str, bytes]) -> str:
    with pytest.raises(BundleError) as refused:
        publish(repo, current, new)
    return refused.value.code


def next_list(repo: Repository, change: Any, role: str = PRODUCT) -> bytes:
    """The next version of a list of targets after `change`, well signed."""
    document: Metadata[Targets] = Metadata.from_bytes(repo.current[role])
    document.signed.version += 1
    change(document.signed)
    document.sign(repo.keys[role][0])
    return document.to_bytes()


def test_the_first_upload_brings_root_and_targets() -> None:
    repo = Repository(releases=[])
    targets = repository.new_targets(repo.role("director"), repo.keys["targets"], NOW)
    publication = publish(repo, {}, {"root": repo.root, "targets": targets})
    assert publication.chain.products == {}
    assert publication.new == ()


def test_a_product_comes_with_its_delegation(repo: Repository) -> None:
    before = held(repo)
    repo.create("edge-hub")
    assert publish(repo, before, {role: repo.current[role] for role in ("targets", "edge-hub")}).new == ()
    assert refusal(repo, before, {"targets": repo.current["targets"]}) == "trust.incomplete"
    assert refusal(repo, before, {"edge-hub": repo.current["edge-hub"]}) == "trust.inconsistent"


def test_a_new_release_is_told_by_its_facts(repo: Repository) -> None:
    before = held(repo)
    facts = repo.release(manifest("1.2.0"))
    assert publish(repo, before, {PRODUCT: repo.current[PRODUCT]}).new == (facts,)


def test_targets_must_come_before_anything_stands(repo: Repository) -> None:
    assert refusal(repo, {}, {"root": repo.root}) == "trust.incomplete"
    targets = repository.new_targets(repo.role("director"), repo.keys["targets"], NOW)
    assert refusal(repo, {}, {"targets": targets}) == "trust.incomplete"


def test_of_two_publishers_the_second_is_told(repo: Repository) -> None:
    before = repo.current[PRODUCT]
    mine, _ = repository.add_release(before, manifest("1.2.0"), repo.keys[PRODUCT], NOW)
    theirs, _ = repository.add_release(before, manifest("1.3.0"), repo.keys[PRODUCT], NOW)
    current = held(repo)
    publish(repo, current, {PRODUCT: mine})
    assert refusal(repo, {**current, PRODUCT: mine}, {PRODUCT: theirs}) == "trust.conflict"


@pytest.mark.parametrize("role", OFFLINE)
@pytest.mark.parametrize("step", [0, 2, -1])
def test_a_version_that_is_not_the_next_is_a_conflict(repo: Repository, role: str, step: int) -> None:
    repo.new_root()
    repo.release(manifest("1.2.0"))
    version = Metadata[Any].from_bytes(repo.current[role]).signed.version + step
    new = resign(repo.current[role], repo.keys[role], version=version)
    assert refusal(repo, held(repo), {role: new}) == "trust.conflict"


@pytest.mark.parametrize("role", OFFLINE)
def test_a_wrong_key_or_an_altered_byte_is_refused(repo: Repository, role: str) -> None:
    following = Metadata[Any].from_bytes(repo.current[role]).signed.version + 1
    good = resign(repo.current[role], repo.keys[role], version=following)
    foreign = resign(good, [CryptoSigner.generate_ed25519()])
    publish(repo, held(repo), {role: good})
    assert refusal(repo, held(repo), {role: foreign}) == "trust.signature"
    assert refusal(repo, held(repo), {role: altered(good)}) == "trust.signature"


@pytest.mark.parametrize("role", OFFLINE)
def test_what_has_expired_is_refused(repo: Repository, role: str) -> None:
    following = Metadata[Any].from_bytes(repo.current[role]).signed.version + 1
    new = resign(repo.current[role], repo.keys[role], version=following, expires=repo.now - timedelta(days=1))
    assert refusal(repo, held(repo), {role: new}) == "trust.expired"


def test_an_earlier_release_can_neither_go_nor_change(repo: Repository) -> None:
    path = f"{PRODUCT}/1.0.0/{TARGET}/manifest"

    def remove(signed: Targets) -> None:
        del signed.targets[path]

    def change(signed: Targets) -> None:
        signed.targets[path].hashes["sha256"] = "0" * 64

    def rename(signed: Targets) -> None:
        signed.targets[path].custom["erts"] = "14.0"

    for tampering in (remove, change, rename):
        assert refusal(repo, held(repo), {PRODUCT: next_list(repo, tampering)}) == "trust.release_changed"


def copied(version: str, **changes: object) -> Any:
    def change(signed: Targets) -> None:
        old = signed.targets[f"{PRODUCT}/1.1.0/{TARGET}/manifest"].to_dict()
        old["custom"] = {**old["custom"], "version": version, **changes}
        path = f"{PRODUCT}/{version}/{TARGET}/manifest"
        signed.targets[path] = TargetFile.from_dict(old, path)

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (copied("1.2.0", counter=3), None),
        (copied("1.2.0", counter=2), "trust.counter"),
        (copied("1.2.0", counter=1), "trust.counter"),
        (copied("1.2.0", counter=0), "trust.facts"),
        (copied("1.2.0", counter=3, floor=4), "trust.facts"),
        (copied("1.2.0", counter=3, product="edge-hub"), "trust.facts"),
        (copied("1.2.0", counter=3, more=1), "trust.facts"),
        (copied("1.2.0", counter=3, arch="aarch64"), "trust.facts"),
    ],
)
def test_counters_only_rise_and_facts_belong_to_their_name(repo: Repository, change: Any, code: str | None) -> None:
    new = next_list(repo, change)
    if code is None:
        publish(repo, held(repo), {PRODUCT: new})
    else:
        assert refusal(repo, held(repo), {PRODUCT: new}) == code


def test_a_counter_that_was_skipped_stays_skipped(repo: Repository) -> None:
    repo.put(PRODUCT, next_list(repo, copied("1.2.0", counter=5)))
    assert refusal(repo, held(repo), {PRODUCT: next_list(repo, copied("1.3.0", counter=4))}) == "trust.counter"


def test_two_new_releases_do_not_share_a_counter(repo: Repository) -> None:
    def both(signed: Targets) -> None:
        copied("1.2.0", counter=3)(signed)
        copied("1.3.0", counter=3)(signed)

    assert refusal(repo, held(repo), {PRODUCT: next_list(repo, both)}) == "trust.counter"


def test_the_targets_of_one_release_share_its_counter(repo: Repository) -> None:
    def on_another_machine(signed: Targets) -> None:
        target = signed.targets[f"{PRODUCT}/1.1.0/{TARGET}/manifest"].to_dict()
        target["custom"] = {**target["custom"], "arch": "aarch64", "counter": counter}
        path = f"{PRODUCT}/1.1.0/aarch64-glibc-otp25/manifest"
        signed.targets[path] = TargetFile.from_dict(target, path)

    counter = 3
    assert refusal(repo, held(repo), {PRODUCT: next_list(repo, on_another_machine)}) == "trust.counter"
    counter = 2
    assert len(publish(repo, held(repo), {PRODUCT: next_list(repo, on_another_machine)}).new) == 1


def test_floors_only_rise(repo: Repository) -> None:
    repo.release(manifest("1.2.0"), floor=2)
    lower = next_list(repo, copied("1.3.0", counter=4, floor=1))
    assert refusal(repo, held(repo), {PRODUCT: lower}) == "trust.counter"


def test_a_path_of_another_product_is_refused(repo: Repository) -> None:
    def stray(signed: Targets) -> None:
        path = f"edge-hub/1.0.0/{TARGET}/manifest"
        signed.targets[path] = signed.targets[f"{PRODUCT}/1.0.0/{TARGET}/manifest"]

    assert refusal(repo, held(repo), {PRODUCT: next_list(repo, stray)}) == "trust.delegation"


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_root_without_the_servers_keys_is_refused(repo: Repository, role: str) -> None:
    before, kept = held(repo), repo.online_keys()
    repo.new_root(rotate=[role])
    with pytest.raises(BundleError) as refused:
        verify_publication(before, {"root": repo.current["root"]}, kept, repo.now)
    assert refused.value.code == "trust.online_key"
    publish(repo, before, {"root": repo.current["root"]})


def test_targets_without_the_servers_director_are_refused(repo: Repository) -> None:
    foreign = repository.RoleKeys((CryptoSigner.generate_ed25519().public_key,))
    targets = repository.new_targets(foreign, repo.keys["targets"], NOW)
    assert refusal(repo, {}, {"root": repo.root, "targets": targets}) == "trust.online_key"


def test_a_director_that_needs_more_keys_than_the_server_has_is_refused(repo: Repository) -> None:
    repo.keys["director"].append(CryptoSigner.generate_ed25519())
    targets = repository.new_targets(repo.role("director", threshold=2), repo.keys["targets"], NOW)
    assert refusal(repo, {}, {"root": repo.root, "targets": targets}) == "trust.online_key"


def test_a_root_of_somebody_else_does_not_follow_ours(repo: Repository) -> None:
    before, foreign = held(repo), Repository()
    foreign.keys |= {role: repo.keys[role] for role in ("targets", "snapshot", "timestamp")}
    foreign.new_root()
    assert refusal(repo, before, {"root": foreign.current["root"]}) == "trust.signature"


def test_a_product_cannot_fall_out_of_targets(repo: Repository) -> None:
    def drop(signed: Targets) -> None:
        assert signed.delegations is not None
        assert signed.delegations.roles is not None
        del signed.delegations.roles[PRODUCT]

    assert refusal(repo, held(repo), {"targets": next_list(repo, drop, "targets")}) == "trust.inconsistent"


def test_new_product_keys_need_a_list_signed_by_them(repo: Repository) -> None:
    before = held(repo)
    new = CryptoSigner.generate_ed25519()

    def rotate(signed: Targets) -> None:
        signed.revoke_key(repo.keys[PRODUCT][0].public_key.keyid, PRODUCT)
        signed.add_key(new.public_key, PRODUCT)

    targets = next_list(repo, rotate, "targets")
    assert refusal(repo, before, {"targets": targets}) == "trust.signature"
    following = Metadata[Any].from_bytes(repo.current[PRODUCT]).signed.version + 1
    publish(repo, before, {"targets": targets, PRODUCT: resign(repo.current[PRODUCT], [new], version=following)})


@pytest.mark.parametrize("role", ["targets", PRODUCT])
def test_what_devices_have_seen_is_never_given_out_again(repo: Repository, role: str) -> None:
    current = held(repo)
    last = Metadata[Any].from_bytes(repo.current[role]).signed.version

    def offered(version: int) -> None:
        new = resign(repo.current[role], repo.keys[role], version=version)
        verify_publication(current, {role: new}, repo.online_keys(), repo.now, reported={role: last + 5})

    offered(last + 6)
    for version in (last + 1, last + 5, last + 7):
        with pytest.raises(BundleError, match="not the next version") as refused:
            offered(version)
        assert refused.value.code == "trust.conflict"


def test_a_root_follows_the_root_before_it_whatever_devices_report(repo: Repository) -> None:
    before = held(repo)
    repo.new_root()
    new = {"root": repo.current["root"]}
    publication = verify_publication(before, new, repo.online_keys(), repo.now, reported={"root": 40})
    assert publication.chain.root.version == 2


def test_a_release_and_a_product_can_be_signed_above_what_devices_have_seen(repo: Repository) -> None:
    product, _ = repository.add_release(repo.current[PRODUCT], manifest("1.2.0"), repo.keys[PRODUCT], NOW, version=40)
    targets = repository.add_product(
        repo.current["targets"], "edge-hub", repo.role(PRODUCT), repo.keys["targets"], NOW, version=30
    )
    assert [Metadata[Any].from_bytes(data).signed.version for data in (product, targets)] == [40, 30]
