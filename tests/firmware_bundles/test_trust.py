"""The device's updater against a repository that lies: a real client, real signatures, no socket."""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beamfleet_bundles import repository
from beamfleet_bundles.errors import BeamfleetError, BundleError
from beamfleet_bundles.trust import Updater, reference_time
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from tests.support.repository import NOW, PRODUCT, TARGET, Repository, altered, manifest, resign

PATH = f"{PRODUCT}/1.1.0/{TARGET}/manifest"
DOCUMENTS = ("timestamp", "snapshot", "targets", PRODUCT)


@pytest.fixture
def repo() -> Repository:
    return Repository()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "trust"


def updater(repo: Repository, store: Path, now: datetime | None = None, **time: int) -> Updater:
    return Updater(store, repo, repo.root, now or repo.now, **time)


def look(repo: Repository, store: Path, now: datetime | None = None) -> None:
    """One whole check: refresh, then the product's metadata."""
    updater(repo, store, now).target(PATH)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as refused:
        action()
    return refused.value.code


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


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


# -- replay


@pytest.mark.parametrize("role", ["snapshot", "targets", PRODUCT])
def test_older_metadata_under_a_newer_timestamp_is_refused(repo: Repository, store: Path, role: str) -> None:
    """The thief has the online keys and lets the repository list something older."""
    older = dict(repo.current)
    repo.later(days=1)
    repo.create("edge-hub")
    repo.release(manifest("1.2.0"))
    repo.publish()
    look(repo, store)
    repo.later(days=1)
    if role == "snapshot":
        repo.current["snapshot"] = older["snapshot"]
        repo.served["timestamp.json"] = repository.new_timestamp(
            older["snapshot"], repo.keys["timestamp"][0], repo.now, repo.current["timestamp"]
        )
    else:
        repo.current[role] = older[role]
        repo.publish()
    assert refusal(lambda: look(repo, store)) == "trust.rollback"


def test_a_role_cannot_disappear_from_the_snapshot(repo: Repository, store: Path) -> None:
    look(repo, store)
    repo.later(days=1)
    del repo.current[PRODUCT]
    repo.publish()
    assert refusal(lambda: look(repo, store)) == "trust.inconsistent"


def publish_next_day(repo: Repository) -> None:
    repo.later(days=1)
    repo.release(manifest("1.2.0"))
    repo.publish()


def test_an_older_timestamp_is_refused(repo: Repository, store: Path) -> None:
    yesterday = dict(repo.served)
    publish_next_day(repo)
    look(repo, store)
    before = contents(store)
    repo.served = yesterday
    assert refusal(lambda: look(repo, store)) == "trust.rollback"
    assert contents(store) == before


TORN = {"empty": lambda _: b"", "half": lambda data: data[: len(data) // 2], "zeroes": lambda data: bytes(len(data))}


@pytest.mark.parametrize("lost", [("timestamp",), ("timestamp", "snapshot"), ("timestamp", "snapshot", "targets")])
@pytest.mark.parametrize("tear", TORN.values(), ids=TORN.keys())
def test_an_older_timestamp_is_refused_after_a_power_cut_tore_the_cache(
    repo: Repository, store: Path, lost: tuple[str, ...], tear: Callable[[bytes], bytes]
) -> None:
    yesterday = dict(repo.served)
    publish_next_day(repo)
    look(repo, store)
    for role in lost:
        (store / f"{role}.json").write_bytes(tear(repo.current[role]))
    today, repo.served = repo.served, yesterday
    assert refusal(lambda: look(repo, store)) == "trust.rollback"
    assert refusal(lambda: look(repo, store)) == "trust.rollback"
    repo.served = today
    look(repo, store)


def test_an_older_timestamp_of_the_same_snapshot_is_refused_after_a_power_cut(repo: Repository, store: Path) -> None:
    older, (signer,) = repo.current["timestamp"], repo.keys["timestamp"]
    repo.later(days=1)
    newer = repository.new_timestamp(repo.current["snapshot"], signer, repo.now, older)
    repo.served["timestamp.json"] = newer
    look(repo, store)
    (store / "timestamp.json").write_bytes(b"")
    repo.served["timestamp.json"] = older
    assert refusal(lambda: look(repo, store)) == "trust.rollback"


def test_an_older_timestamp_is_refused_with_nothing_left_but_the_marks(repo: Repository, store: Path) -> None:
    yesterday = dict(repo.served)
    publish_next_day(repo)
    look(repo, store)
    for path in list(store.iterdir()):
        if path.name != "high-water":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    repo.served = yesterday
    assert refusal(lambda: look(repo, store)) == "trust.rollback"


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN.keys())
def test_torn_marks_leave_the_cache_to_guard_alone(
    repo: Repository, store: Path, tear: Callable[[bytes], bytes]
) -> None:
    yesterday = dict(repo.served)
    publish_next_day(repo)
    look(repo, store)
    (store / "high-water").write_bytes(tear((store / "high-water").read_bytes()))
    today, repo.served = repo.served, yesterday
    assert refusal(lambda: look(repo, store)) == "trust.rollback"
    repo.served = today
    look(repo, store)
    (store / "timestamp.json").write_bytes(b"")
    repo.served = yesterday
    assert refusal(lambda: look(repo, store)) == "trust.rollback"


def test_nothing_is_known_any_more_after_a_refused_check(repo: Repository, store: Path) -> None:
    yesterday = dict(repo.served)
    publish_next_day(repo)
    look(repo, store)
    (store / "timestamp.json").write_bytes(b"")
    (store / "snapshot.json").write_bytes(b"")
    repo.served = yesterday
    refused = updater(repo, store)
    assert refusal(refused.refresh) == "trust.rollback"
    assert refusal(refused.refresh) == "trust.rollback"
    assert refusal(lambda: refused.target(PATH)) == "trust.rollback"
    assert refusal(lambda: refused.targets) == "trust.rollback"


def test_a_frozen_repository_is_noticed_when_its_timestamp_runs_out(repo: Repository, store: Path) -> None:
    look(repo, store)
    look(repo, store, NOW + timedelta(days=6))
    assert refusal(lambda: look(repo, store, NOW + timedelta(days=8))) == "trust.expired"


# -- roots


def test_new_keys_come_in_by_the_root_and_the_old_ones_are_out(repo: Repository, store: Path) -> None:
    look(repo, store)
    thief = repo.keys["timestamp"][0]
    repo.new_root(rotate=["timestamp"])
    repo.later(hours=1)
    repo.publish()
    look(repo, store)
    assert (store / "root.json").read_bytes() == repo.current["root"]
    repo.served["timestamp.json"] = repository.new_timestamp(
        repo.current["snapshot"], thief, repo.now + timedelta(hours=1), repo.current["timestamp"]
    )
    assert refusal(lambda: look(repo, store)) == "trust.signature"


def test_a_device_that_slept_through_many_roots_follows_them_one_by_one(repo: Repository, store: Path) -> None:
    for _ in range(12):
        repo.new_root(rotate=["root", "snapshot"])
    repo.later(hours=1)
    repo.publish()
    assert updater(repo, store).versions["root"] == 13


def test_a_root_that_the_last_one_did_not_sign_is_refused(repo: Repository, store: Path) -> None:
    foreign = Repository()
    foreign.new_root()
    repo.served["2.root.json"] = foreign.current["root"]
    assert refusal(lambda: look(repo, store)) == "trust.signature"


def test_a_root_below_its_own_threshold_is_refused(repo: Repository, store: Path) -> None:
    repo.new_root(rotate=["root"], threshold=2)
    look(repo, store)
    repo.put("root", resign(repo.current["root"], repo.keys["root"][:1], version=3))
    assert refusal(lambda: look(repo, store)) == "trust.signature"


def test_a_root_that_skips_a_version_is_refused(repo: Repository, store: Path) -> None:
    repo.served["2.root.json"] = resign(repo.current["root"], repo.keys["root"], version=3)
    assert refusal(lambda: look(repo, store)) == "trust.rollback"


def test_a_lost_root_history_does_not_bring_stolen_keys_back(repo: Repository, store: Path) -> None:
    stolen = dict(repo.served)
    look(repo, store)
    repo.new_root(rotate=["timestamp", "snapshot"])
    repo.later(hours=1)
    repo.publish()
    look(repo, store)
    for path in (store / "root_history").iterdir():
        path.write_bytes(b"")
    today, repo.served = repo.served, stolen
    assert refusal(lambda: look(repo, store)) == "trust.rollback"
    repo.served = today
    look(repo, store)


@pytest.mark.parametrize("torn", [False, True])
def test_versions_that_ran_away_are_called_back_by_new_keys(repo: Repository, store: Path, torn: bool) -> None:
    """A thief with the online keys signs version 2^40; the owner replaces the keys and goes on where he was."""
    thief = {role: repo.keys[role][0] for role in ("snapshot", "timestamp")}
    mine = dict(repo.current)
    far = repository.new_snapshot(
        {role: mine[role] for role in ("targets", PRODUCT)}, thief["snapshot"], repo.now, reported=2**40
    )
    repo.put("snapshot", far)
    repo.served["timestamp.json"] = repository.new_timestamp(far, thief["timestamp"], repo.now, reported=2**40)
    look(repo, store)
    repo.current |= mine
    repo.new_root(rotate=["snapshot", "timestamp"])
    repo.publish()
    if torn:
        (store / "timestamp.json").write_bytes(b"")
    look(repo, store)
    assert updater(repo, store).versions["timestamp"] < 2**40


# -- clocks


def test_a_clock_at_1970_takes_the_newest_and_nothing_older(repo: Repository, store: Path) -> None:
    yesterday = dict(repo.served)
    publish_next_day(repo)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    look(repo, store, epoch)
    repo.served = yesterday
    assert refusal(lambda: look(repo, store, epoch)) == "trust.rollback"


def test_a_clock_at_1970_does_not_revive_what_had_expired_when_the_software_was_built(
    repo: Repository, store: Path
) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    later = int((NOW + timedelta(days=60)).timestamp())
    assert refusal(lambda: updater(repo, store, epoch, build_time=later).refresh()) == "trust.expired"
    assert refusal(lambda: updater(repo, store, epoch, signed_time=later).refresh()) == "trust.expired"
    updater(repo, store, epoch, build_time=int(NOW.timestamp())).refresh()


def test_a_clock_at_2040_refuses_all_changes_nothing_and_heals(repo: Repository, store: Path) -> None:
    look(repo, store)
    before = contents(store)
    assert refusal(lambda: look(repo, store, datetime(2040, 1, 1, tzinfo=UTC))) == "trust.expired"
    assert contents(store) == before
    look(repo, store)


def test_the_reference_time_is_the_latest_of_clock_build_and_signature() -> None:
    assert reference_time(NOW) == NOW
    assert reference_time(NOW, int(NOW.timestamp()) + 60) == NOW + timedelta(seconds=60)
    assert reference_time(NOW, 1, int(NOW.timestamp()) + 60) == NOW + timedelta(seconds=60)


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
