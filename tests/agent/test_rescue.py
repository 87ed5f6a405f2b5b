"""What is learnt from signed metadata, how a device finds a fleet again that it does not believe, what it offers."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import bearings
from beamfleet_agent.paths import Paths
from beamfleet_agent.worker import rescue
from beamfleet_agent.worker.job import Job
from beamfleet_agent.worker.metadata import Metadata, kept, offered
from beamfleet_bundles import repository, whereabouts
from beamfleet_bundles.errors import BundleError

from tests.agent.authority import Authority
from tests.agent.device import work
from tests.agent.enrolment import DEVICE, SmallEnrolment
from tests.support.repository import PRODUCT, Repository, version_of

NEW = {"api": "https://new.example:1", "enrol": "https://new.example:2", "mqtt": "new.example:3"}


@pytest.fixture
def repo() -> Repository:
    return Repository(now=datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
def front(authority: Authority, tmp_path: Path) -> Iterator[SmallEnrolment]:
    """The fleet's server, under a new authority; the device was laid down under the old one."""
    made = SmallEnrolment(Authority(tmp_path / "new"))
    made.trusts(authority)
    yield made
    made.close()


@pytest.fixture
def paths(front: SmallEnrolment, authority: Authority, repo: Repository, tmp_path: Path) -> Paths:
    ended = repo.now - timedelta(hours=1)
    laid = front.device(
        tmp_path / "device", authority.issue(DEVICE, ends=ended), root_json_base64=base64.b64encode(repo.root).decode()
    )
    Path(laid.ca).write_bytes(authority.path.read_bytes())
    return laid


def tell(repo: Repository, *authorities: Authority, servers: tuple[dict[str, str], ...] = ()) -> None:
    """The owners sign the whereabouts, and the server publishes them."""
    known = whereabouts.make([each.path.read_text() for each in authorities], servers)
    repo.put("targets", repository.set_whereabouts(repo.current["targets"], known, repo.keys["targets"], repo.now))
    repo.later(seconds=1)
    repo.publish()


def served(repo: Repository) -> Callable[[str], bytes]:
    return lambda name: b"".join(repo(name))


def looking(paths: Paths, repo: Repository, offer: Callable[[bytes], object] | None = None) -> Metadata:
    return Metadata(Job({"job": "poll", "root": paths.root}), repo.now, repo, offer)


class TestLearning:
    def test_whereabouts_are_kept_replaced_and_taken_back(
        self, paths: Paths, repo: Repository, authority: Authority
    ) -> None:
        looking(paths, repo).current()
        assert bearings.authorities(paths) == paths.ca
        tell(repo, authority, servers=(NEW,))
        looking(paths, repo).current()
        assert Path(paths.authorities).read_bytes() == authority.path.read_bytes()
        assert bearings.load(paths).servers[0].mqtt_host == "new.example"
        tell(repo)
        looking(paths, repo).current()
        assert (bearings.authorities(paths), bearings.load(paths).servers) == (paths.ca, ())

    def test_whereabouts_of_a_later_format_leave_the_known_ones_in_force(
        self, paths: Paths, repo: Repository, authority: Authority
    ) -> None:
        tell(repo, authority, servers=(NEW,))
        looking(paths, repo).current()
        from tests.support.repository import resign

        top, fields = repo.current["targets"], {whereabouts.KEY: {"v": 2}}
        later = resign(top, repo.keys["targets"], version=version_of(top) + 1, unrecognized_fields=fields)
        repo.put("targets", later)
        repo.later(seconds=1)
        repo.publish()
        looking(paths, repo).current()
        versions = bearings.load(paths).versions
        assert versions is not None
        assert versions["targets"] == version_of(later)
        assert bearings.load(paths).servers[0].mqtt_host == "new.example"
        assert Path(paths.authorities).read_bytes() == authority.path.read_bytes()

    def test_the_versions_are_those_below_which_nothing_is_taken(self, paths: Paths, repo: Repository) -> None:
        looking(paths, repo).current()
        numbers = {role: version_of(repo.current[role]) for role in ("root", "timestamp", "snapshot", "targets")}
        products = {PRODUCT: version_of(repo.current[PRODUCT])}
        assert bearings.load(paths).versions == {**numbers, "products": products}
        Path(paths.trust, "targets.json").write_bytes(b"")  # a torn cache does not lower what it takes
        assert kept(Path(paths.trust)) == {**numbers, "products": products}


class TestRescue:
    def test_a_device_that_trusts_nobody_goes_by_what_the_owners_signed(
        self, front: SmallEnrolment, paths: Paths, repo: Repository, authority: Authority
    ) -> None:
        tell(repo, front.authority)
        front.public = served(repo)
        said = work(Path(paths.root), "renew")
        assert said["result"]["switched"], said
        assert Path(bearings.authorities(paths)).read_bytes() == front.authority.path.read_bytes()
        assert Path(paths.ca).read_bytes() == authority.path.read_bytes()

    def test_somebody_else_s_metadata_changes_nothing(
        self, front: SmallEnrolment, paths: Paths, repo: Repository
    ) -> None:
        stranger = Repository(now=repo.now)
        tell(stranger, front.authority)
        front.public = served(stranger)
        error = work(Path(paths.root), "renew")["error"]
        assert (error["code"], front.issued) == ("worker.network", [])
        assert bearings.authorities(paths) == paths.ca

    def test_nor_does_an_older_version_of_the_owners(
        self, front: SmallEnrolment, paths: Paths, repo: Repository, tmp_path: Path
    ) -> None:
        """The thief of an authority that was retired serves what was signed when it was good."""
        tell(repo, front.authority)
        old = dict(repo.served)
        tell(repo, Authority(tmp_path / "third"))
        looking(paths, repo).current()
        kept_before = Path(paths.authorities).read_bytes()
        front.public = lambda name: b"".join(_pieces(old, name))
        assert work(Path(paths.root), "poll")["error"]["code"] == "worker.network"
        assert Path(paths.authorities).read_bytes() == kept_before

    def test_it_is_looked_for_once_and_a_job_that_has_begun_is_not_begun_again(self, paths: Paths) -> None:
        from beamfleet_agent.worker.transport import UntrustedError

        begun: list[int] = []

        def work_on(job: Job) -> dict[str, Any]:
            begun.append(1)
            job.told = True
            raise UntrustedError("worker.network", "nobody vouches for him", "")

        with pytest.raises(UntrustedError):
            rescue.rescued(work_on)(Job({"job": "poll", "root": paths.root}))
        assert begun == [1]


class TestTheOffer:
    def behind(self, paths: Paths, repo: Repository) -> dict[str, Any]:
        """A server that was restored: it has forgotten a root, targets and a release; what it served before."""
        before = (dict(repo.served), dict(repo.current))
        repo.new_root(rotate=["targets"])
        repo.put("targets", repository.set_whereabouts(
            repo.current["targets"], whereabouts.Whereabouts(), repo.keys["targets"], repo.now))  # fmt: skip
        repo.later(seconds=1)
        repo.publish()
        looking(paths, repo).current()
        after = dict(repo.served)
        repo.served, repo.current = before
        return after

    def test_a_server_that_lags_behind_is_offered_everything_and_looked_at_again(
        self, paths: Paths, repo: Repository
    ) -> None:
        after = self.behind(paths, repo)
        offers: list[dict[str, str]] = []

        def take(body: bytes) -> None:
            offers.append(json.loads(body)["documents"])
            repo.served = after

        looking(paths, repo, take).current()
        (documents,) = offers
        assert set(documents) == {"targets", PRODUCT, "2.root", "1.root"} - ({PRODUCT} - set(documents))
        assert base64.b64decode(documents["2.root"]) == after["2.root.json"]
        assert version_of(base64.b64decode(documents["targets"])) == kept(Path(paths.trust))["targets"]

    @pytest.mark.parametrize("how", ["refuses", "takes it and forgets it"])
    def test_a_server_that_does_not_take_it_stays_refused(self, paths: Paths, repo: Repository, how: str) -> None:
        self.behind(paths, repo)
        offers: list[bytes] = []

        def take(body: bytes) -> None:
            offers.append(body)
            if how == "refuses":
                raise BundleError("trust.signature", "nothing that holds")

        with pytest.raises(BundleError) as refused:
            looking(paths, repo, take).current()
        assert (refused.value.code, len(offers)) == ("trust.rollback", 1)

    def test_an_offer_has_an_end(self, paths: Paths, repo: Repository) -> None:
        looking(paths, repo).current()
        for number in range(2, 40):
            root = {"signed": {"version": number}, "filling": "x" * 60_000}
            Path(paths.trust, f"root_history/{number}.root.json").write_text(json.dumps(root))
        body = offered(Path(paths.trust))
        documents = json.loads(body)["documents"]
        assert len(body) <= 2 << 20
        assert {"targets", "39.root", "38.root"} <= set(documents)
        assert "2.root" not in documents


def _pieces(repository_served: dict[str, Any], name: str) -> list[bytes]:
    if name not in repository_served:
        raise FileNotFoundError(name)
    return [repository_served[name]]
