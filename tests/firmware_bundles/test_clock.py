"""The time that trust counts with: a floor that only signatures move, and that a new root sets free."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beamfleet_bundles import clock, repository
from beamfleet_bundles.clock import SignedTime, is_behind, reference_time
from beamfleet_bundles.errors import BundleError

from tests.repo.tree import ROOT
from tests.support.repository import NOW, PRODUCT, Repository, manifest, resign
from tests.support.updater import PATH, contents, refusal, updater

LATER = int((NOW + timedelta(days=3)).timestamp())


@pytest.fixture
def repo() -> Repository:
    return Repository()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "trust"


def test_the_build_time_has_passed_and_is_not_older_than_the_newest_change() -> None:
    built = datetime.fromtimestamp(clock.BUILD_TIME, UTC)
    assert built < datetime.now(UTC)
    released = [word for word in (ROOT / "CHANGELOG.md").read_text().split() if word[:2] == "20" and len(word) == 10]
    assert all(datetime.fromisoformat(day).replace(tzinfo=UTC) <= built + timedelta(days=1) for day in released)


def test_the_reference_time_is_the_latest_of_clock_build_and_signature() -> None:
    assert reference_time(NOW) == NOW
    assert reference_time(NOW, LATER) == reference_time(NOW, 1, LATER) == NOW + timedelta(days=3)
    assert reference_time(NOW, 1, 2) == NOW


@pytest.mark.parametrize(
    ("build_time", "signed", "behind"),
    [(0, SignedTime(), False), (LATER, SignedTime(), True), (0, SignedTime(LATER, 1), True), (1, SignedTime(2), False)],
)
def test_a_clock_is_behind_when_it_shows_what_has_passed(build_time: int, signed: SignedTime, behind: bool) -> None:
    assert is_behind(NOW, build_time, signed) is behind


def test_a_signed_time_is_kept_and_read_again(tmp_path: Path) -> None:
    SignedTime(LATER, 7).store(tmp_path)
    assert SignedTime.load(tmp_path) == SignedTime(LATER, 7)
    assert (SignedTime.load(tmp_path).under(7), SignedTime.load(tmp_path).under(8)) == (LATER, 0)


@pytest.mark.parametrize(
    "torn",
    [b"", b"{", b"null", b"[]", b"\xff", b'{"time": 1}', b'{"time": -1, "root": 1}', b'{"time": 1.5, "root": 1}',
     b'{"time": true, "root": 1}', b'{"time": 1e400, "root": 1}', b'{"time": 99999999999999, "root": 1}', b"[" * 300],
)  # fmt: skip
def test_a_torn_floor_is_no_floor(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "clock").write_bytes(torn)
    assert SignedTime.load(tmp_path) == SignedTime()


def test_what_was_signed_binds_the_next_check_and_the_rest_of_this_one(repo: Repository, store: Path) -> None:
    looking = updater(repo, store)
    looking.advance(LATER)
    assert looking.time == NOW + timedelta(days=3)
    assert SignedTime.load(store) == SignedTime(LATER, 1)
    repo.put(PRODUCT, resign(repo.current[PRODUCT], repo.keys[PRODUCT], expires=NOW + timedelta(days=2)))
    repo.publish()
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert refusal(lambda: updater(repo, store, epoch, signed=SignedTime.load(store)).target(PATH)) == "trust.expired"
    assert updater(repo, store, epoch).target(PATH).custom.counter == 2


def test_an_older_time_moves_nothing(repo: Repository, store: Path) -> None:
    updater(repo, store).advance(LATER)
    before = contents(store)
    updater(repo, store, signed=SignedTime.load(store)).advance(LATER - 60)
    assert contents(store) == before


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a_time_at_which_anything_has_expired_is_refused_and_not_kept(repo: Repository, store: Path, role: str) -> None:
    short = NOW + timedelta(days=2)
    if role == "root":
        repo.put(role, resign(repo.current[role], repo.keys[role], version=2, expires=short))
    elif role == "targets":
        repo.put(role, resign(repo.current[role], repo.keys[role], version=3, expires=short))
    repo.later(seconds=60)
    repo.publish()
    if role in ("snapshot", "timestamp"):
        repo.put(role, resign(repo.current[role], repo.keys[role], expires=short))
        if role == "snapshot":
            (signer,) = repo.keys["timestamp"]
            repo.current["timestamp"] = repository.new_timestamp(repo.current["snapshot"], signer, repo.now)
        repo.served["timestamp.json"] = repo.current["timestamp"]
    looking = updater(repo, store)
    with pytest.raises(BundleError, match=rf"^{role} \d+ expired.*trust\.expired"):
        looking.advance(LATER)
    assert SignedTime.load(store) == SignedTime()


def test_a_new_root_sets_the_floor_free(repo: Repository, store: Path) -> None:
    updater(repo, store).advance(LATER)
    repo.new_root(rotate=["timestamp"])
    repo.later(hours=1)
    repo.publish()
    kept = SignedTime.load(store)
    assert updater(repo, store, signed=kept).time == repo.now
    updater(repo, store, signed=kept).advance(int(repo.now.timestamp()))
    assert SignedTime.load(store) == SignedTime(int(repo.now.timestamp()), 2)


def test_a_target_is_read_as_signed_or_not_at_all(repo: Repository, store: Path) -> None:
    signed, asked = manifest("1.1.0"), list[str]()

    def serving(*content: bytes) -> list[bytes]:
        looking = updater(repo, store)

        def fetch(name: str) -> list[bytes]:
            asked.append(name)
            return list(content)

        return [looking.read(PATH, fetch)]

    assert serving(signed.encode()[:10], signed.encode()[10:]) == [signed.encode()]
    assert asked == [f"{PATH.removesuffix('manifest')}{signed.sha256}.manifest"]
    assert refusal(lambda: serving(signed.encode()[:-1])) == "trust.mismatch"
    assert refusal(lambda: serving(b"x" * len(signed.encode()))) == "trust.mismatch"
    assert refusal(lambda: serving(signed.encode(), b"x")) == "trust.too_large"
    assert refusal(lambda: updater(repo, store).read("a/b/c/manifest", lambda _: [b""])) == "trust.unknown_target"
