"""What a device believes of its server: assignments by metadata, freshness by nonce, and the time by signatures."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beamfleet_agent.paths import Paths
from beamfleet_agent.worker.centre import Centre, Order
from beamfleet_agent.worker.job import Job
from beamfleet_bundles import clock, repository
from beamfleet_bundles.errors import BundleError
from securesystemslib.signer import CryptoSigner

from tests.agent.authority import Authority
from tests.agent.centre import SmallCentre
from tests.agent.device import Worker, work
from tests.support.repository import PRODUCT, Repository, resign

LONG_AGO, FAR_AHEAD = datetime(1970, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


@pytest.fixture
def small(authority: Authority) -> Iterator[SmallCentre]:
    made = SmallCentre(authority, Repository(now=datetime.now(UTC).replace(microsecond=0)))
    yield made
    made.close()


@pytest.fixture
def paths(small: SmallCentre, tmp_path: Path) -> Paths:
    return small.device(tmp_path / "device")


def looking(paths: Paths, now: datetime | None = None) -> Centre:
    """The device's worker, at this time by its clock."""
    return Centre(Job({"job": "fetch", "root": paths.root}), now or datetime.now(UTC))


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as refused:
        action()
    return refused.value.code


def floor(paths: Paths) -> clock.SignedTime:
    return clock.SignedTime.load(Path(paths.trust))


class TestNonce:
    def test_a_pulled_assignment_answers_this_very_question(self, small: SmallCentre, paths: Paths) -> None:
        kept: list[bytes] = []
        small.answer = lambda nonce: kept.append(small.sign(nonce=nonce)) or kept[0]  # type: ignore[func-returns-value]
        found = looking(paths).pulled()
        assert found is not None
        assert found[1].sequence == 1000
        assert refusal(lambda: looking(paths).pulled()) == "assignment.nonce"  # a good answer, to an older question
        assert len({json.loads(document)["signed"]["beamfleet"]["nonce"] for document in kept}) == 2

    def test_a_pushed_one_does_not_pass_for_an_answer(self, small: SmallCentre, paths: Paths) -> None:
        small.answer = lambda _: small.sign()
        assert refusal(lambda: looking(paths).pulled()) == "assignment.nonce"

    def test_an_answer_is_ordered_by_its_sequence_like_any_other(self, paths: Paths) -> None:
        assert refusal(lambda: looking(paths).pulled(Order(1001))) == "assignment.replayed"

    def test_a_device_that_is_given_nothing_has_nothing_to_prove(self, small: SmallCentre, paths: Paths) -> None:
        small.answer = lambda _: b""
        assert looking(paths).pulled() is None
        assert work(Path(paths.root), "poll", prove=True)["result"]["document"] == ""

    def test_a_poll_that_is_to_prove_asks_with_a_nonce_and_keeps_the_time(
        self, small: SmallCentre, paths: Paths
    ) -> None:
        plain = json.loads(work(Path(paths.root), "poll")["result"]["document"])
        assert plain["signed"]["beamfleet"]["nonce"] is None
        assert floor(paths) == clock.SignedTime()
        proven = json.loads(work(Path(paths.root), "poll", prove=True)["result"]["document"])
        assert proven["signed"]["beamfleet"]["nonce"]
        assert floor(paths) == clock.SignedTime(small.given.time, root=1)

    def test_a_poll_is_told_only_what_it_does_not_know(self, small: SmallCentre, paths: Paths) -> None:
        first = work(Path(paths.root), "poll")["result"]
        again = work(Path(paths.root), "poll", known=first["tag"])["result"]
        assert (bool(first["document"]), again) == (True, {"document": "", "tag": first["tag"]})
        small.given = replace(small.given, sequence=2000)
        newer = work(Path(paths.root), "poll", known=first["tag"])["result"]
        assert json.loads(newer["document"])["signed"]["version"] == 2000
        small.answer = lambda _: b""
        assert work(Path(paths.root), "poll", known=newer["tag"])["result"]["document"] == ""

    def test_a_broker_that_keeps_the_newest_back_is_noticed(self, small: SmallCentre, paths: Paths) -> None:
        """It pushes what it has; the weekly question goes to the server itself."""
        stale, small.given = small.sign(), replace(small.given, sequence=2000)
        assert looking(paths).pushed(stale, Order(0)).sequence == 1000
        found = looking(paths).pulled(Order(1000))
        assert found is not None
        assert found[1].sequence == 2000
        assert refusal(lambda: looking(paths).pushed(stale, Order(2000))) == "assignment.replayed"

    def test_workers_at_the_same_time_do_not_disturb_each_other(self, small: SmallCentre, paths: Paths) -> None:
        workers = [Worker(Path(paths.root), "poll", prove=True) for _ in range(4)]
        ended: list[dict[str, object]] = []
        threads = [threading.Thread(target=lambda each=each: ended.append(each.lines()[-1])) for each in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [set(last) for last in ended] == [{"result"}] * 4
        looking(paths).pushed(small.sign(), Order(0))


class TestExpiry:
    def test_a_pushed_assignment_that_has_expired_is_asked_for_anew(self, small: SmallCentre, paths: Paths) -> None:
        month_ago = int((small.repo.now - timedelta(days=31)).timestamp())
        expired = small.sign(time=month_ago)
        assert refusal(lambda: looking(paths).pushed(expired, Order(0))) == "assignment.expired"
        worker = Worker(Path(paths.root), "fetch", document=expired.decode())
        assert worker.process.stdout is not None
        checked = json.loads(worker.process.stdout.readline())["checked"]
        worker.process.communicate()
        assert checked["sequence"] == 1000
        assert small.asked[-1] == "/assignment"
        assert floor(paths).time == small.given.time

    def test_one_that_the_server_no_longer_means_stays_expired(self, small: SmallCentre, paths: Paths) -> None:
        expired = small.sign(time=int((small.repo.now - timedelta(days=31)).timestamp()))
        small.answer = lambda _: b""
        assert work(Path(paths.root), "fetch", document=expired.decode())["error"]["code"] == "assignment.expired"


class TestClock:
    def test_a_device_in_1970_learns_the_time_from_a_signed_answer(self, small: SmallCentre, paths: Paths) -> None:
        centre = looking(paths, LONG_AGO)
        assert not centre.knows_the_time
        found = centre.pulled()
        assert found is not None
        assert floor(paths) == clock.SignedTime(small.given.time, root=1)
        assert not looking(paths, LONG_AGO).knows_the_time
        assert looking(paths).knows_the_time

    def test_in_1970_nothing_older_passes(self, small: SmallCentre, paths: Paths) -> None:
        yesterday, old = dict(small.repo.served), small.sign(time=small.given.time - 40 * 86_400)
        small.later(hours=1)
        looking(paths, LONG_AGO).pulled()
        kept = {path: path.read_bytes() for path in Path(paths.trust).rglob("*") if path.is_file()}
        small.repo.served = yesterday
        assert refusal(lambda: looking(paths, LONG_AGO).pushed(small.sign(), Order(0))) == "trust.rollback"
        assert {path: path.read_bytes() for path in Path(paths.trust).rglob("*") if path.is_file()} == kept
        small.later(hours=2)
        assert refusal(lambda: looking(paths, LONG_AGO).pushed(old, Order(0))) == "assignment.expired"

    def test_in_1970_a_frozen_server_is_seen_through_the_time_that_was_signed(
        self, small: SmallCentre, paths: Paths
    ) -> None:
        """The thief of the network freezes metadata; the director's fresh answer gives him away."""
        small.given = replace(small.given, time=small.given.time + 8 * 86_400)
        assert refusal(lambda: looking(paths, LONG_AGO).pulled()) == "trust.expired"
        assert floor(paths) == clock.SignedTime()

    def test_a_clock_in_2040_refuses_all_moves_nothing_and_heals(self, small: SmallCentre, paths: Paths) -> None:
        looking(paths).pushed(small.sign(), Order(0))
        kept = {path: path.read_bytes() for path in Path(paths.trust).rglob("*") if path.is_file()}
        for _ in range(2):
            assert looking(paths, FAR_AHEAD).knows_the_time  # it cannot know better
            assert refusal(lambda: looking(paths, FAR_AHEAD).pulled()) == "trust.expired"
            assert refusal(lambda: looking(paths, FAR_AHEAD).pushed(small.sign(), Order(0))) == "trust.expired"
        assert {path: path.read_bytes() for path in Path(paths.trust).rglob("*") if path.is_file()} == kept
        small.later(hours=1)
        assert looking(paths).pushed(small.sign(sequence=1001), Order(1000)).sequence == 1001

    def test_a_time_that_outlives_the_metadata_is_not_believed(self, small: SmallCentre, paths: Paths) -> None:
        lie = small.sign(time=int(FAR_AHEAD.timestamp()))
        assert refusal(lambda: looking(paths).pushed(lie, Order(0))) == "trust.expired"
        assert floor(paths) == clock.SignedTime()

    def test_a_thief_of_all_online_keys_can_stop_the_clock_only_until_the_root_changes(
        self, small: SmallCentre, paths: Paths
    ) -> None:
        repo, ahead = small.repo, small.repo.now + timedelta(days=300)
        mine = dict(repo.current)
        documents = {role: mine[role] for role in ("targets", PRODUCT)}
        repo.put("snapshot", repository.new_snapshot(documents, repo.keys["snapshot"][0], ahead))
        stolen = repository.new_timestamp(repo.current["snapshot"], repo.keys["timestamp"][0], ahead)
        repo.served["timestamp.json"] = stolen
        robbed = looking(paths)
        robbed.pushed(small.sign(time=int(ahead.timestamp()), sequence=2**53 - 1), Order(0))
        last = Order(2**53 - 1, robbed.director)
        assert floor(paths).time == int(ahead.timestamp())
        repo.current |= mine
        small.later(hours=1)
        assert refusal(lambda: looking(paths).pulled()) == "trust.rollback"
        repo.keys["director"] = [CryptoSigner.generate_ed25519()]
        replaced = repository.new_targets(repo.role("director"), repo.keys["targets"], repo.now)
        replaced = repository.add_product(replaced, PRODUCT, repo.role(PRODUCT), repo.keys["targets"], repo.now)
        repo.put("targets", resign(replaced, repo.keys["targets"], version=3))
        repo.new_root(rotate=["snapshot", "timestamp"])
        small.later(hours=2)
        assert refusal(lambda: looking(paths).pushed(small.sign(sequence=1001), Order(2**53 - 1))) == (
            "assignment.replayed"
        ), "without a word about the keys it binds"
        assert looking(paths).pushed(small.sign(sequence=1001), last).sequence == 1001
        assert floor(paths) == clock.SignedTime(small.given.time, root=2)
        assert looking(paths).knows_the_time

    def test_the_floor_that_a_power_cut_tore_binds_nobody(self, small: SmallCentre, paths: Paths) -> None:
        looking(paths).pushed(small.sign(), Order(0))
        for torn in (b"", b"{", b"[]", b'{"time": -1, "root": 1}', b'{"time": 1e99, "root": 1}', b"\0" * 40):
            (Path(paths.trust) / "clock").write_bytes(torn)
            assert floor(paths) == clock.SignedTime()
            looking(paths).pushed(small.sign(), Order(0))
            assert floor(paths).time == small.given.time
