"""The device's updater against replay: older metadata, stolen keys, torn caches, clocks that lie."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beamfleet_bundles import repository
from beamfleet_bundles.clock import SignedTime
from beamfleet_bundles.highwater import HighWater

from tests.support.repository import NOW, PRODUCT, Repository, manifest, resign
from tests.support.updater import PATH, contents, look, refusal, updater


@pytest.fixture
def repo() -> Repository:
    return Repository()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "trust"


# -- replay


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("role", ["snapshot", "targets", PRODUCT])
def test_older_metadata_under_a_newer_timestamp_is_refused(
    repo: Repository, store: Path, role: str, torn: bool
) -> None:
    """The thief has the online keys and lets the repository list something older."""
    older = dict(repo.current)
    repo.later(days=1)
    repo.create("edge-hub")
    repo.release(manifest("1.2.0"))
    repo.publish()
    look(repo, store)
    repo.later(days=1)
    if torn:
        (store / "timestamp.json").write_bytes(b"")
        (store / "snapshot.json").write_bytes(b"")
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


def test_an_older_snapshot_of_the_same_content_is_refused_after_a_power_cut(repo: Repository, store: Path) -> None:
    older, (signer,) = repo.current["snapshot"], repo.keys["timestamp"]
    repo.later(days=1)
    repo.publish()
    look(repo, store)
    (store / "timestamp.json").write_bytes(b"")
    (store / "snapshot.json").write_bytes(b"")
    repo.served["timestamp.json"] = repository.new_timestamp(older, signer, repo.now, repo.current["timestamp"])
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


# -- marks


def test_a_torn_cache_is_mended_from_the_marks_before_anything_is_asked(repo: Repository, store: Path) -> None:
    look(repo, store)
    whole = contents(store)
    (store / "timestamp.json").write_bytes(b"")
    (store / "snapshot.json").unlink()
    repo.requests.clear()
    look(repo, store)
    assert contents(store) == whole
    assert repo.requests == ["2.root.json", "timestamp.json"]


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_what_was_accepted_counts_even_if_the_cache_could_not_be_written(
    repo: Repository, store: Path, role: str
) -> None:
    """The power goes between the mark and the cache; then somebody replays yesterday."""
    look(repo, store)
    yesterday = dict(repo.served)
    publish_next_day(repo)
    cached, name = store / f"{role}.json", repo.name(role)
    content = repo.current[role]

    def arriving() -> list[bytes]:
        cached.unlink()
        cached.mkdir()
        return [content]

    repo.served[name] = arriving
    assert refusal(lambda: look(repo, store)) == "trust.storage"
    cached.rmdir()
    repo.served[name] = content
    today, repo.served = repo.served, yesterday
    assert refusal(lambda: look(repo, store)) == "trust.rollback"
    repo.served = today
    look(repo, store)


def test_the_largest_documents_fit_into_the_marks(tmp_path: Path) -> None:
    """Those of a thief, made of characters that would take most room."""
    sizes = {"timestamp": 16_384, "snapshot": 512_000, "targets": 1 << 20}
    for letters in ('"', "\\", "\n", "é", "\U0001f511"):
        documents = {role: (letters * size).encode()[: size // 4 * 4] for role, size in sizes.items()}
        HighWater(7, **documents).store(tmp_path)
        assert HighWater.load(tmp_path) == HighWater(7, **documents)


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
    assert refusal(lambda: updater(repo, store, epoch, signed=SignedTime(later, root=1)).refresh()) == "trust.expired"
    updater(repo, store, epoch, build_time=int(NOW.timestamp())).refresh()


def test_a_clock_at_2040_refuses_all_changes_nothing_and_heals(repo: Repository, store: Path) -> None:
    look(repo, store)
    before = contents(store)
    assert refusal(lambda: look(repo, store, datetime(2040, 1, 1, tzinfo=UTC))) == "trust.expired"
    assert contents(store) == before
    look(repo, store)
