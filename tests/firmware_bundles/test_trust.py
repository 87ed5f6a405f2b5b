"""The device's updater against a repository that lies: a real client, real signatures, no socket."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles import repository
from beamfleet_bundles.errors import BeamfleetError
from beamfleet_bundles.trust import Updater
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tests.support.repository import NOW, PRODUCT, TARGET, Repository, altered, manifest, resign
from tests.support.updater import PATH, look, refusal, updater

DOCUMENTS = ("timestamp", "snapshot", "targets", PRODUCT)


@pytest.fixture
def repo() -> Repository:
    return Repository()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "trust"


# -- what is signed is found


def test_a_release_is_found_with_what_its_product_signs_about_it(repo: Repository, store: Path) -> None:
    facts = updater(repo, store).target(PATH)
    signed = manifest("1.1.0")
    assert facts.verify(signed.encode()) == signed.encode()
    assert (facts.sha256, facts.custom.counter, facts.custom.libc_version) == (signed.sha256, 2, "2.34")
    assert facts.served_path == f"{PRODUCT}/1.1.0/{TARGET}/{signed.sha256}.manifest"


def test_metadata_is_kept_exactly_as_served(repo: Repository, store: Path) -> None:
    look(repo, store)
    for role in ("root", *DOCUMENTS):
        assert (store / f"{role}.json").read_bytes() == repo.current[role]


def test_other_bytes_than_the_signed_manifest_are_refused(repo: Repository, store: Path) -> None:
    facts = updater(repo, store).target(PATH)
    other = manifest("1.1.0", content=b"something else").encode()
    assert refusal(lambda: facts.verify(other)) == "trust.mismatch"
    assert refusal(lambda: facts.verify(manifest("1.1.0").encode() + b"\n")) == "trust.mismatch"


@pytest.mark.parametrize("path", [f"{PRODUCT}/9.9.9/{TARGET}/manifest", f"other/1.1.0/{TARGET}/manifest"])
def test_what_no_product_signs_is_unknown(repo: Repository, store: Path, path: str) -> None:
    assert refusal(lambda: updater(repo, store).target(path)) == "trust.unknown_target"


@pytest.mark.parametrize("path", ["", "../root", "assign/device-1", f"{PRODUCT}/*/{TARGET}/manifest"])
def test_what_cannot_be_a_manifest_is_not_even_looked_for(repo: Repository, store: Path, path: str) -> None:
    assert refusal(lambda: updater(repo, store).target(path)).startswith("name.")
    assert repo.requests == []


def test_the_versions_that_a_device_reports_are_those_it_trusts(repo: Repository, store: Path) -> None:
    versions = updater(repo, store).versions
    assert versions == {"root": 1, "timestamp": int(NOW.timestamp()), "snapshot": int(NOW.timestamp()), "targets": 2}


@pytest.mark.parametrize("consistent", [True, False])
def test_any_tuf_repository_can_be_read_also_one_that_is_not_of_our_shape(store: Path, consistent: bool) -> None:
    signer, role, expires = CryptoSigner.generate_ed25519(), "../odd name?", NOW + timedelta(days=1)
    root = Root(expires=expires, consistent_snapshot=consistent)
    for top in root.roles:
        root.add_key(signer.public_key, top)
    keyid = signer.public_key.keyid
    delegated = DelegatedRole(role, [keyid], 1, terminating=False, paths=["some/*"])
    delegations = Delegations({keyid: signer.public_key}, {role: delegated})
    found = TargetFile.from_data("some/file", b"content")
    documents: dict[str, Any] = {
        "1.root.json": root,
        "timestamp.json": Timestamp(expires=expires),
        "snapshot.json": Snapshot(expires=expires, meta={"targets.json": MetaFile(1), f"{role}.json": MetaFile(1)}),
        "targets.json": Targets(expires=expires, delegations=delegations),
        "..%2Fodd%20name%3F.json": Targets(expires=expires, targets={"some/file": found}),
    }
    served = {}
    for name, signed in documents.items():
        document: Metadata[Any] = Metadata(signed)
        document.sign(signer)
        versioned = consistent and name not in ("1.root.json", "timestamp.json")
        served[f"1.{name}" if versioned else name] = document.to_bytes()

    def fetch(name: str) -> list[bytes]:
        if name not in served:
            raise FileNotFoundError(name)
        return [served[name]]

    looking = Updater(store, fetch, served["1.root.json"], NOW)
    assert looking.find("some/file") == found
    assert looking.find("some/other") is None
    assert looking.find("elsewhere") is None
    assert {path.name for path in store.parent.rglob("*.json")} == {
        "root.json", "1.root.json", "timestamp.json", "snapshot.json", "targets.json", "..%2Fodd%20name%3F.json",
    }  # fmt: skip


# -- it is cheap when there is nothing new


def test_a_check_with_nothing_new_is_two_requests_and_no_write(repo: Repository, store: Path) -> None:
    look(repo, store)
    before = {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in [store, *store.rglob("*")]}
    repo.requests.clear()
    look(repo, store)
    assert repo.requests == ["2.root.json", "timestamp.json"]
    assert {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in [store, *store.rglob("*")]} == before


def test_every_file_is_synced_before_anybody_relies_on_it(
    repo: Repository, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = set[int](), os.fsync

    def recording(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    look(repo, store)
    places = [store, store / "root_history", *(path for path in store.rglob("*") if path.is_file())]
    assert {place.name for place in places if place.stat().st_ino not in synced} == set()


def test_what_a_power_cut_left_half_written_is_in_nobodys_way(repo: Repository, store: Path) -> None:
    look(repo, store)
    (store / ".timestamp.json.new").write_bytes(b'{"half')
    (store / ".high-water.new").write_bytes(b'{"half')
    (store / ".root.json.new").symlink_to("nowhere")
    repo.later(days=1)
    repo.new_root()
    repo.publish()
    look(repo, store)
    assert [path.name for path in store.rglob(".*")] == []


# -- forged, altered, stale


@pytest.mark.parametrize("role", DOCUMENTS)
def test_one_altered_byte_is_refused(repo: Repository, store: Path, role: str) -> None:
    repo.served[repo.name(role)] = altered(repo.current[role])
    expected = "trust.signature" if role == "timestamp" else "trust.mismatch"
    assert refusal(lambda: look(repo, store)) == expected
    assert not (store / f"{role}.json").exists()


@pytest.mark.parametrize("role", DOCUMENTS)
def test_a_signature_by_a_key_that_the_role_does_not_have_is_refused(repo: Repository, store: Path, role: str) -> None:
    thief = CryptoSigner.generate_ed25519()
    repo.put(role, resign(repo.current[role], [thief]))
    if role == "timestamp":
        repo.served["timestamp.json"] = repo.current[role]
    else:
        repo.publish()  # the online keys vouch for it; that must not be enough
        if role == "snapshot":
            repo.put(role, resign(repo.current[role], [thief]))
            repo.served["timestamp.json"] = repository.new_timestamp(
                repo.current[role], repo.keys["timestamp"][0], repo.now
            )
    assert refusal(lambda: look(repo, store)) == "trust.signature"


@pytest.mark.parametrize("role", ["root", *DOCUMENTS])
def test_metadata_past_its_time_is_refused_even_with_good_signatures(repo: Repository, store: Path, role: str) -> None:
    expired = resign(repo.current[role], repo.keys[role], expires=repo.now - timedelta(seconds=1))
    if role == "root":
        repo.served["1.root.json"] = repo.current["root"] = expired
    else:
        repo.put(role, expired)
        if role == "snapshot":
            repo.served["timestamp.json"] = repository.new_timestamp(expired, repo.keys["timestamp"][0], repo.now)
        elif role == "timestamp":
            repo.served["timestamp.json"] = expired
        else:
            repo.publish()
    assert refusal(lambda: look(repo, store)) == "trust.expired"


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 15_000, b"1" * 15_000])
def test_what_is_not_metadata_is_refused_as_such(repo: Repository, store: Path, garbage: bytes) -> None:
    repo.served["timestamp.json"] = garbage
    assert refusal(lambda: look(repo, store)) == "trust.malformed"


@pytest.mark.parametrize("garbage", [b"", b"{}", b"not a root"])
def test_a_root_to_start_from_that_is_none_is_refused(repo: Repository, store: Path, garbage: bytes) -> None:
    assert refusal(lambda: Updater(store, repo, garbage, repo.now)) == "trust.malformed"
    assert repo.requests == []


def test_a_snapshot_from_another_day_does_not_pass_for_todays(repo: Repository, store: Path) -> None:
    yesterday = repo.current["snapshot"]
    repo.later(days=1)
    repo.release(manifest("1.2.0"))
    repo.publish()
    repo.served[repo.name("snapshot")] = yesterday
    assert refusal(lambda: look(repo, store)) == "trust.mismatch"


def test_a_products_older_list_does_not_pass_for_the_newest(repo: Repository, store: Path) -> None:
    older = repo.current[PRODUCT]
    repo.release(manifest("1.2.0"))
    repo.publish()
    repo.served[repo.name(PRODUCT)] = older
    assert refusal(lambda: look(repo, store)) == "trust.mismatch"


def test_another_products_list_does_not_pass_for_ours(repo: Repository, store: Path) -> None:
    repo.create("edge-hub")
    repo.release(manifest("1.0.0", product="edge-hub"))
    repo.publish()
    repo.served[repo.name(PRODUCT)] = repo.current["edge-hub"]
    assert refusal(lambda: look(repo, store)) == "trust.mismatch"


def test_a_product_key_cannot_speak_for_another_product(repo: Repository, store: Path) -> None:
    repo.create("edge-hub")
    foreign = manifest("6.6.6")  # of PRODUCT, signed into the list of edge-hub
    data, _ = repository.add_release(repo.current["edge-hub"], foreign, repo.keys["edge-hub"], repo.now)
    repo.put("edge-hub", data)
    repo.publish()
    assert refusal(lambda: updater(repo, store).target(f"{PRODUCT}/6.6.6/{TARGET}/manifest")) == "trust.unknown_target"


def test_facts_that_belong_to_another_target_are_refused(repo: Repository, store: Path) -> None:
    newer = f"{PRODUCT}/1.2.0/{TARGET}/manifest"
    document: Metadata[Targets] = Metadata.from_bytes(repo.current[PRODUCT])
    document.signed.targets[newer] = document.signed.targets[PATH]
    document.sign(repo.keys[PRODUCT][0])
    repo.put(PRODUCT, document.to_bytes())
    repo.publish()
    assert refusal(lambda: updater(repo, store).target(newer)) == "trust.facts"


# -- a server that is away, or that never ends


def test_endless_data_is_read_to_its_limit_and_no_further(repo: Repository, store: Path) -> None:
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1024
            yield bytes(1024)

    for name, limit in (("timestamp.json", 16_384), (repo.name("snapshot"), len(repo.current["snapshot"]))):
        given, kept = 0, repo.served[name]
        repo.served[name] = endless
        assert refusal(lambda: look(repo, store)) == "trust.too_large"
        assert given <= limit + 1024
        repo.served[name] = kept
    look(repo, store)


def test_a_server_without_metadata_is_unavailable(repo: Repository, store: Path) -> None:
    del repo.served["timestamp.json"]
    assert refusal(lambda: look(repo, store)) == "trust.unavailable"


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("slow"), OSError("no route")])
def test_a_connection_that_breaks_is_unavailable_and_the_next_check_goes_on(
    repo: Repository, store: Path, error: OSError
) -> None:
    def breaking() -> Iterator[bytes]:
        yield repo.current["targets"][:50]
        raise error

    whole = repo.served[repo.name("targets")]
    repo.served[repo.name("targets")] = breaking
    assert refusal(lambda: look(repo, store)) == "trust.unavailable"
    repo.served[repo.name("targets")] = whole
    look(repo, store)


def test_what_the_port_knows_better_is_passed_on(repo: Repository, store: Path) -> None:
    def revoked() -> Iterator[bytes]:
        raise BeamfleetError("identity.revoked", "the certificate is revoked")

    repo.served["timestamp.json"] = revoked
    with pytest.raises(BeamfleetError, match=r"identity\.revoked"):
        look(repo, store)


def test_a_store_that_cannot_be_written_is_told(repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert refusal(lambda: updater(repo, tmp_path / "file" / "trust")) == "trust.storage"
