"""Making signed metadata, and the facts that go into it."""

import json
from datetime import timedelta
from typing import Any

import pytest
from beamfleet_bundles import chain, facts, repository
from beamfleet_bundles.errors import BundleError
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from tests.support.repository import NOW, PRODUCT, TARGET, TOP_ROLES, Repository, altered, manifest, resign, version_of

PATH = f"{PRODUCT}/1.0.0/{TARGET}/manifest"


def signed(data: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(data)["signed"]
    return document


def refusal(*arguments: Any, of: Any) -> str:
    with pytest.raises(BundleError) as refused:
        of(*arguments)
    return refused.value.code


# -- roots and delegations


def test_a_root_names_the_keys_of_the_four_top_roles() -> None:
    repo = Repository()
    root = signed(repo.root)
    assert root["version"] == 1
    assert root["consistent_snapshot"] is True
    assert {role: named["keyids"] for role, named in root["roles"].items()} == {
        role: [repo.keys[role][0].public_key.keyid] for role in TOP_ROLES
    }


def test_a_root_that_its_signers_cannot_sign_is_not_made() -> None:
    repo = Repository()
    roles = {role: repo.role(role) for role in TOP_ROLES}
    thief = [CryptoSigner.generate_ed25519()]
    assert refusal(roles, thief, NOW, of=repository.new_root) == "trust.signature"
    assert refusal(roles, thief, NOW, repo.root, of=repository.new_root) == "trust.signature"


def test_targets_delegates_to_the_director_first_and_to_products_after_it() -> None:
    roles = signed(Repository().current["targets"])["delegations"]["roles"]
    assert [(role["name"], role["paths"], role["terminating"]) for role in roles] == [
        ("director", ["assign/*"], True),
        (PRODUCT, [f"{PRODUCT}/*/*/*"], True),
    ]


def test_a_product_cannot_be_added_twice() -> None:
    repo = Repository()
    arguments = (repo.current["targets"], PRODUCT, repo.role(PRODUCT), repo.keys["targets"], NOW)
    assert refusal(*arguments, of=repository.add_product) == "trust.product_exists"


@pytest.mark.parametrize("name", ["assign", "director", "root", "Sensor", "a/b", "*", ""])
def test_a_product_cannot_have_a_name_that_means_something_else(name: str) -> None:
    repo = Repository()
    arguments = (repo.current["targets"], name, repo.role(PRODUCT), repo.keys["targets"], NOW)
    assert refusal(*arguments, of=repository.add_product) == "name.product"


# -- releases


def test_a_release_is_signed_with_a_closed_set_of_facts() -> None:
    new = manifest("1.0.0", target="aarch64-musl-otp27-rpi4")
    repo = Repository(releases=[])
    repo.release(new)
    (target,) = signed(repo.current[PRODUCT])["targets"].values()
    assert target == {
        "length": len(new.encode()),
        "hashes": {"sha256": new.sha256},
        "custom": {
            "product": PRODUCT,
            "version": "1.0.0",
            "counter": 1,
            "floor": 1,
            "arch": "aarch64",
            "libc": "musl",
            "libc_version": "2.34",
            "otp": 27,
            "erts": "13.1.5",
            "hardware": "rpi4",
            "libraries": ["libc.so.6", "libstdc++.so.6"],
            "unpacked": 11,
            "files": 1,
            "min_agent": 1,
        },
    }


def test_every_release_counts_one_up_and_its_targets_share_the_number() -> None:
    repo = Repository(releases=[])
    counters = [
        repo.release(manifest(version, target=target)).custom.counter
        for version, target in [
            ("1.10.0", TARGET),
            ("1.9.0", TARGET),
            ("1.10.0", "aarch64-glibc-otp25"),
            ("0.1", "aarch64-glibc-otp25"),
            ("1.9.0", "aarch64-glibc-otp25"),
        ]
    ]
    assert counters == [1, 2, 1, 3, 2]


def test_a_floor_never_sinks_and_never_passes_the_counter() -> None:
    repo = Repository(releases=["1.0.0", "1.1.0"])
    assert repo.release(manifest("1.2.0"), floor=2).custom.floor == 2
    assert repo.release(manifest("1.3.0")).custom.floor == 2
    assert repo.release(manifest("1.4.0"), floor=1).custom.floor == 2
    assert repo.release(manifest("1.0.0", target="aarch64-glibc-otp25")).custom.floor == 1
    with pytest.raises(BundleError) as refused:
        repo.release(manifest("1.5.0"), floor=7)
    assert refused.value.code == "trust.facts"


def test_the_same_manifest_again_changes_nothing() -> None:
    repo = Repository()
    before = repo.current[PRODUCT]
    data, again = repository.add_release(before, manifest("1.0.0"), repo.keys[PRODUCT], NOW + timedelta(days=1))
    assert data == before
    assert again.custom.counter == 1


def test_other_content_under_a_signed_name_is_refused() -> None:
    repo = Repository()
    arguments = (repo.current[PRODUCT], manifest("1.0.0", content=b"other"), repo.keys[PRODUCT], NOW)
    assert refusal(*arguments, of=repository.add_release) == "trust.release_exists"


def test_twenty_releases_stay_below_fifteen_kilobytes() -> None:
    repo = Repository(releases=[f"1.{number}.0" for number in range(20)])
    assert len(repo.current[PRODUCT]) < 15_000


CUSTOM = Metadata[Targets].from_bytes(Repository().current[PRODUCT]).signed.targets[PATH].custom


@pytest.mark.parametrize(
    "custom",
    [
        None,
        [],
        {},
        {**CUSTOM, "more": 1},
        {key: value for key, value in CUSTOM.items() if key != "floor"},
        {**CUSTOM, "counter": 0},
        {**CUSTOM, "counter": -1},
        {**CUSTOM, "counter": 2**53},
        {**CUSTOM, "counter": "1"},
        {**CUSTOM, "counter": True},
        {**CUSTOM, "floor": 2},
        {**CUSTOM, "product": "other"},
        {**CUSTOM, "version": "1.0.1"},
        {**CUSTOM, "arch": "aarch64"},
        {**CUSTOM, "hardware": "rpi4"},
        {**CUSTOM, "otp": 26},
        {**CUSTOM, "libraries": ["../libc.so.6"]},
        {**CUSTOM, "libraries": ["libc.so.6"] * 513},
        {**CUSTOM, "libc_version": "new\nest"},
        {**CUSTOM, "unpacked": 1.5},
    ],
)
def test_facts_that_do_not_fit_their_schema_or_their_name_are_refused(custom: object) -> None:
    assert refusal(PATH, 10, {"sha256": "0" * 64}, custom, of=facts.read_facts) == "trust.facts"


@pytest.mark.parametrize(
    ("length", "hashes"),
    [(0, {"sha256": "0" * 64}), (2**40, {"sha256": "0" * 64}), (10, {}), (10, {"sha256": "0"}), (10, {"sha512": "00"})],
)
def test_a_target_without_a_usable_length_and_sha256_is_refused(length: int, hashes: dict[str, str]) -> None:
    assert refusal(PATH, length, hashes, CUSTOM, of=facts.read_facts) == "trust.facts"


# -- snapshot, timestamp, versions


def test_snapshot_and_timestamp_pin_what_they_list_by_length_and_hash() -> None:
    repo = Repository()
    snapshot = Metadata[Snapshot].from_bytes(repo.current["snapshot"]).signed
    assert set(snapshot.meta) == {"targets.json", f"{PRODUCT}.json"}
    for role in ("targets", PRODUCT):
        snapshot.meta[f"{role}.json"].verify_length_and_hashes(repo.current[role])
    chain.parse_timestamp(repo.current["timestamp"]).signed.snapshot_meta.verify_length_and_hashes(
        repo.current["snapshot"]
    )


def test_versions_follow_the_clock_and_never_go_back() -> None:
    seconds = int(NOW.timestamp())
    assert repository.next_version(0, NOW) == seconds
    assert repository.next_version(seconds, NOW) == seconds + 1
    assert repository.next_version(seconds + 9, NOW - timedelta(days=1)) == seconds + 10
    assert repository.next_version(7, NOW, reported=seconds + 500) == seconds + 501


def test_two_publications_within_one_second_have_different_versions() -> None:
    repo = Repository()
    first = version_of(repo.current["timestamp"])
    repo.publish()
    assert version_of(repo.current["timestamp"]) == first + 1


# -- the chain


def test_a_whole_chain_is_verified_to_its_facts() -> None:
    repo = Repository()
    repo.new_root(rotate=["root", "targets"])
    repo.put("targets", resign(repo.current["targets"], repo.keys["targets"], version=3))
    roots = [repo.root, repo.current["root"]]
    verified = chain.verify_chain(roots, repo.current["targets"], {PRODUCT: repo.current[PRODUCT]}, NOW)
    assert (verified.root.version, verified.targets.version) == (2, 3)
    assert {path: found.custom.counter for path, found in verified.facts.items()} == {
        f"{PRODUCT}/1.0.0/{TARGET}/manifest": 1,
        f"{PRODUCT}/1.1.0/{TARGET}/manifest": 2,
    }


@pytest.mark.parametrize("role", ["root", "targets", PRODUCT])
def test_a_chain_with_an_altered_link_is_refused(role: str) -> None:
    repo = Repository()
    repo.current[role] = altered(repo.current[role])
    products = {PRODUCT: repo.current[PRODUCT]}
    arguments = ([repo.current["root"]], repo.current["targets"], products, NOW)
    assert refusal(*arguments, of=chain.verify_chain) == "trust.signature"


def test_documents_in_each_others_place_are_refused() -> None:
    repo = Repository()
    root: Root = chain.verify_root(repo.root, None)
    assert refusal(repo.root, root, of=chain.verify_targets) == "trust.malformed"
    assert refusal(repo.current["targets"], None, of=chain.verify_root) == "trust.malformed"
    assert refusal(repo.current["timestamp"], of=chain.parse_snapshot) == "trust.malformed"


def test_metadata_above_its_limit_is_not_even_parsed() -> None:
    assert refusal(bytes(chain.MAX_METADATA["timestamp"] + 1), of=chain.parse_timestamp) == "trust.too_large"


def with_delegations(repo: Repository, change: Any) -> bytes:
    document = Metadata[Targets].from_bytes(repo.current["targets"])
    change(document.signed)
    document.sign(repo.keys["targets"][0])
    return document.to_bytes()


def widen(targets: Targets) -> None:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[PRODUCT].paths = ["*/*/*/*"]


def open_end(targets: Targets) -> None:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[PRODUCT].terminating = False


def drop_director(targets: Targets) -> None:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    del targets.delegations.roles["director"]


def drop_all(targets: Targets) -> None:
    targets.delegations = None


def sign_a_file(targets: Targets) -> None:
    targets.targets[PATH] = Metadata[Targets].from_bytes(Repository().current[PRODUCT]).signed.targets[PATH]


@pytest.mark.parametrize("change", [widen, open_end, drop_director, drop_all, sign_a_file])
def test_top_targets_of_another_shape_are_refused_even_when_signed(change: Any) -> None:
    repo = Repository()
    root = chain.verify_root(repo.root, None)
    assert refusal(with_delegations(repo, change), root, of=chain.verify_targets) == "trust.delegation"


def test_a_product_that_delegates_further_is_refused() -> None:
    repo = Repository()
    targets = chain.verify_targets(repo.current["targets"], chain.verify_root(repo.root, None))
    own = resign(repo.current[PRODUCT], repo.keys[PRODUCT], delegations=targets.delegations)
    assert refusal(own, PRODUCT, targets, of=chain.verify_product) == "trust.delegation"
