"""Renewal of the device's certificate: when it is due, what is kept, and that a working pair is always there."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import bearings
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import machine
from beamfleet_agent.worker.identity import Identity
from beamfleet_bundles import pki

from tests.agent.authority import Authority
from tests.agent.broker import free_port
from tests.agent.device import work
from tests.agent.enrolment import DEVICE, SmallEnrolment, both

RENEW, TEST = "/.well-known/est/simplereenroll", "/metadata/timestamp.json"
VERSIONS = {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1, "products": {}}
Laid = Callable[[float], Paths]


@pytest.fixture
def front(authority: Authority) -> Iterator[SmallEnrolment]:
    made = SmallEnrolment(authority)
    yield made
    made.close()


@pytest.fixture
def laid(front: SmallEnrolment, tmp_path: Path) -> Laid:
    """A device whose certificate, of a day, ends in so many hours."""

    def device(hours: float) -> Paths:
        ends = datetime.now(UTC) + timedelta(hours=hours)
        return front.device(tmp_path / "device", front.authority.issue(DEVICE, ends=ends))

    return device


def renewed(paths: Paths, **more: Any) -> dict[str, Any]:
    """What the job says."""
    said = work(Path(paths.root), "renew", **more)
    assert "result" in said, said
    result: dict[str, Any] = said["result"]
    return result


def refused(paths: Paths, **more: Any) -> dict[str, Any]:
    """The error of the job."""
    error: dict[str, Any] = work(Path(paths.root), "renew", **more)["error"]
    return error


def serial(path: str | Path) -> str:
    return pki.read_certificate(pki.load_pair(Path(path))[0]).serial


def names(paths: Paths) -> list[str]:
    return sorted(os.listdir(paths.identity))  # noqa: PTH208


class TestWhen:
    def test_a_certificate_in_the_first_two_thirds_of_its_life_is_left_alone(
        self, front: SmallEnrolment, laid: Laid
    ) -> None:
        paths = laid(10)
        before = Path(paths.pair).read_bytes()
        said = renewed(paths)
        assert (said["switched"], front.asked) == (False, [])
        assert 0 < said["again_s"] < 4 * 3_600
        assert (Path(paths.pair).read_bytes(), names(paths)) == (before, ["pair.pem"])

    @pytest.mark.parametrize("hours", [6, 0.1, -1, -24 * 400])
    def test_after_that_or_when_it_has_run_out_it_is_renewed_with_a_new_key_and_tested(
        self, front: SmallEnrolment, laid: Laid, hours: float
    ) -> None:
        paths = laid(hours)
        _, key = pki.load_pair(Path(paths.pair))
        said = renewed(paths)
        assert front.asked == [RENEW, TEST]
        certificate, new_key = pki.load_pair(Path(paths.pair))
        assert (said["switched"], said["serial"]) == (True, serial(paths.pair))
        assert certificate == front.issued[0]
        assert pki.fingerprint(new_key.public_key()) != pki.fingerprint(key.public_key())
        assert names(paths) == [f"old-{machine()}.pem", "pair.pem"]
        for name in names(paths):
            assert stat.S_IMODE(Path(paths.identity, name).stat().st_mode) == 0o600
        assert renewed(paths)["switched"] is False

    def test_a_fleet_that_was_made_in_one_hour_does_not_come_in_one_hour(self, authority: Authority) -> None:
        from beamfleet_agent.worker import renew
        from beamfleet_agent.worker.identity import Pair

        ends = datetime.now(UTC)
        pairs = [
            Pair(*pki.read_pair(b"".join(p.read_bytes() for p in authority.issue(f"d{n}", ends)), ""))
            for n in range(50)
        ]
        due = [renew._due(pair) for pair in pairs]
        life = pairs[0].facts.not_after - pairs[0].facts.not_before
        assert max(due) - min(due) > life / 40
        assert all(
            2 / 3 <= renew._age(pair, when) <= 2 / 3 + 1 / 20 + 1e-3 for pair, when in zip(pairs, due, strict=True)
        )

    def test_one_of_an_authority_that_is_no_longer_trusted_is_renewed_at_once(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        new = Authority(tmp_path / "new")
        front = SmallEnrolment(new, new, authority)
        paths = front.device(tmp_path / "device", authority.issue(DEVICE))
        bearings.store(paths, both(new), [], VERSIONS)
        assert renewed(paths)["switched"]
        assert pki.is_issued_by(pki.load_pair(Path(paths.pair))[0], new.certificate)
        assert not renewed(paths)["switched"]
        front.close()

    def test_where_another_authority_comes_first_it_is_tried_once_for_each_list(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        new = Authority(tmp_path / "new")
        front = SmallEnrolment(authority, authority, new)  # the server has not begun to use the new one
        paths = front.device(tmp_path / "device", authority.issue(DEVICE))
        bearings.store(paths, both(new, authority), [], VERSIONS)
        assert renewed(paths)["switched"]
        assert not renewed(paths)["switched"]
        bearings.store(paths, both(authority, new), [], VERSIONS)
        assert not renewed(paths)["switched"]
        bearings.store(paths, both(new, authority) + b"\n", [], VERSIONS)
        front.authority = new
        assert renewed(paths)["switched"]
        assert pki.is_issued_by(pki.load_pair(Path(paths.pair))[0], new.certificate)
        front.close()

    def test_a_device_that_is_not_enrolled_has_nothing_to_renew(self, front: SmallEnrolment, tmp_path: Path) -> None:
        assert refused(front.device(tmp_path / "device"))["code"] == "enrol.not_enrolled"


class TestTheWay:
    def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_key(
        self, front: SmallEnrolment, laid: Laid
    ) -> None:
        paths = laid(1)
        before = serial(paths.pair)
        front.away = {RENEW}
        assert refused(paths)["code"] == "worker.network"
        assert (serial(paths.pair), names(paths)) == (before, ["next.key", "pair.pem"])
        front.away = set()
        assert renewed(paths)["switched"]
        *lost, kept = front.issued
        assert [made.public_key() == kept.public_key() for made in lost] == [True, True]  # asked on both listeners
        assert pki.load_pair(Path(paths.pair))[0] == kept

    def test_where_only_the_devices_listener_is_reached_it_renews_as_well(
        self, front: SmallEnrolment, laid: Laid
    ) -> None:
        paths = laid(1)
        before, settings = serial(paths.pair), Path(paths.settings)
        text = settings.read_text()
        settings.write_text(text.replace(f'enrol = "{front.address}"', f'enrol = "https://127.0.0.1:{free_port()}"'))
        assert settings.read_text() != text
        front.away = {RENEW}
        error = refused(paths)
        assert (error["code"], "refused" in error["message"]) == ("worker.network", True)  # of the first listener
        front.away = set()
        assert renewed(paths)["switched"]
        assert serial(paths.pair) != before

    def test_what_could_not_be_tested_is_tested_later_and_not_asked_for_again(
        self, front: SmallEnrolment, laid: Laid
    ) -> None:
        paths = laid(1)
        before = serial(paths.pair)
        front.away = {TEST}
        assert refused(paths)["code"] == "worker.network"
        assert (serial(paths.pair), names(paths)) == (before, ["next.pem", "pair.pem"])
        front.away = set()
        assert renewed(paths)["switched"]
        assert (front.asked.count(RENEW), len(front.issued)) == (1, 1)
        assert serial(paths.pair) == f"{front.issued[0].serial_number:x}"

    def test_a_new_one_that_the_server_does_not_take_is_thrown_away_and_the_old_one_stays(
        self, front: SmallEnrolment, laid: Laid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = laid(6)
        before = Path(paths.pair).read_bytes()
        sign = front.authority.sign

        def unknown(*asked: Any) -> Any:
            made = sign(*asked)
            front.refused.add(f"{made.serial_number:x}")
            return made

        monkeypatch.setattr(front.authority, "sign", unknown)
        error = refused(paths)
        assert (error["code"], "after_s" in error) == ("renew.refused", False)
        assert (Path(paths.pair).read_bytes(), names(paths)) == (before, ["pair.pem"])

    def test_while_there_is_time_a_failure_is_tried_again_in_an_hour(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        front = SmallEnrolment(authority)
        paths = front.device(tmp_path / "device", authority.issue(DEVICE, ends=datetime.now(UTC) + timedelta(days=3)))
        bearings.store(paths, both(Authority(tmp_path / "other"), authority), [], VERSIONS)
        front.close()
        error = refused(paths)
        assert (error["code"], error["after_s"]) == ("worker.network", 3_600)

    def test_a_certificate_that_is_not_ours_is_not_kept(
        self, front: SmallEnrolment, laid: Laid, tmp_path: Path
    ) -> None:
        paths = laid(1)
        before = Path(paths.pair).read_bytes()
        mine, front.authority = front.authority, Authority(tmp_path / "stranger")
        assert refused(paths)["code"] == "pki.not_ours"
        assert (Path(paths.pair).read_bytes(), names(paths)) == (before, ["next.key", "pair.pem"])
        front.authority = mine
        assert renewed(paths)["switched"]


class TestThePairBefore:
    @pytest.fixture
    def switched(self, laid: Laid) -> Paths:
        """A device that has renewed."""
        paths = laid(6)
        assert renewed(paths)["switched"]
        return paths

    def old(self, paths: Paths) -> Path:
        (found,) = Path(paths.identity).glob("old-*.pem")
        return found

    def test_it_stays_until_the_new_one_was_used_from_another_boot(self, switched: Paths) -> None:
        renewed(switched, used=True)
        old = self.old(switched)
        earlier = old.rename(old.with_name(f"old-{'ab' * 16}.pem"))
        renewed(switched)  # in this boot it was not used yet
        assert earlier.exists()
        renewed(switched, used=True)
        assert names(switched) == ["pair.pem"]

    def test_or_for_a_week(self, switched: Paths) -> None:
        for days, kept in ((6.9, True), (7.1, False)):
            then = time.time() - days * 86_400
            os.utime(self.old(switched), (then, then))
            renewed(switched, used=True)
            assert bool(list(Path(switched.identity).glob("old-*.pem"))) == kept

    def test_it_is_used_again_when_the_server_takes_it_but_not_the_new_one(
        self, front: SmallEnrolment, switched: Paths
    ) -> None:
        before, after = serial(self.old(switched)), serial(switched.pair)
        assert not renewed(switched, refused=True)["switched"], "it is taken after all"
        front.refused = {after}
        said = renewed(switched, refused=True)
        assert (said["switched"], said["serial"], serial(switched.pair)) == (True, before, before)
        assert names(switched) == ["pair.pem"]
        assert renewed(switched)["switched"], "and is due again"

    def test_when_the_server_takes_neither_a_new_one_is_asked_for(self, front: SmallEnrolment, switched: Paths) -> None:
        front.refused = {serial(self.old(switched)), serial(switched.pair)}
        assert renewed(switched, refused=True)["switched"]
        assert serial(switched.pair) not in front.refused

    def test_it_is_used_when_the_disk_has_damaged_the_new_one(self, switched: Paths) -> None:
        before = serial(self.old(switched))
        data = Path(switched.pair).read_bytes()
        for damaged in (b"", data[: len(data) // 2], data[:-60]):
            kept = self.old(switched).read_bytes()
            Path(switched.pair).write_bytes(damaged)
            pair = Identity(switched, DEVICE).current()
            assert pair is not None
            assert pair.facts.serial == before
            Path(switched.identity, f"old-{machine()}.pem").write_bytes(kept)

    def test_a_second_renewal_leaves_one_pair_before(self, front: SmallEnrolment, switched: Paths) -> None:
        first = serial(switched.pair)
        front.refused = {first, serial(self.old(switched))}
        earlier = self.old(switched)
        earlier.rename(earlier.with_name(f"old-{'ab' * 16}.pem"))
        assert renewed(switched, refused=True)["switched"]
        assert serial(self.old(switched)) == first


class TestTheFirstPair:
    def test_a_pair_that_somebody_laid_there_is_taken_over(self, front: SmallEnrolment, tmp_path: Path) -> None:
        paths = front.device(tmp_path / "device")
        certificate, key = front.authority.issue(DEVICE)
        Path(paths.key).write_bytes(key.read_bytes())
        Path(paths.cert).write_bytes(certificate.read_bytes())
        assert work(tmp_path / "device", "enrol")["result"]["serial"] == serial(paths.pair)
        assert (names(paths), front.asked) == (["pair.pem"], [])

    def test_one_of_another_device_is_not(self, front: SmallEnrolment, tmp_path: Path) -> None:
        paths = front.device(tmp_path / "device")
        certificate, key = front.authority.issue("gw-2")
        Path(paths.key).write_bytes(key.read_bytes())
        Path(paths.cert).write_bytes(certificate.read_bytes())
        assert work(tmp_path / "device", "enrol")["error"]["code"] == "pki.not_ours"

    def test_without_a_token_it_waits_until_somebody_accepts_its_key(
        self, front: SmallEnrolment, tmp_path: Path
    ) -> None:
        paths, root = front.device(tmp_path / "device"), tmp_path / "device"
        asked: list[tuple[str, str]] = []
        front.accepts = lambda *given: asked.append(given) or 202  # type: ignore[func-returns-value]
        error = work(root, "enrol")["error"]
        fingerprint = pki.fingerprint(pki.load_key(Path(paths.key)).public_key())
        assert (error["code"], error["after_s"], error["patience"] > 1_000) == ("enrol.pending", 7, True)
        assert fingerprint in error["message"]
        assert f"beamfleet device accept {DEVICE}" in error["hint"]
        front.accepts = lambda *_: 200
        work(root, "enrol")
        assert asked == [(DEVICE, "")]
        assert pki.fingerprint(pki.load_pair(Path(paths.pair))[1].public_key()) == fingerprint

    def test_where_nobody_is_accepted_like_that_it_says_what_is_missing(
        self, front: SmallEnrolment, tmp_path: Path
    ) -> None:
        front.accepts = lambda *_: 401
        front.device(tmp_path / "device")
        error = work(tmp_path / "device", "enrol")["error"]
        assert (error["code"], error["patience"]) == ("enrol.no_token", 0)
        front.accepts = lambda *_: 403
        assert work(tmp_path / "device", "enrol")["error"]["code"] == "certificate.unknown"

    def test_the_status_shows_the_key_that_is_to_be_accepted(self, front: SmallEnrolment, tmp_path: Path) -> None:
        import subprocess
        import sys

        paths = front.device(tmp_path / "device")
        front.accepts = lambda *_: 202
        command = [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, "status"]
        assert json.loads(subprocess.run([*command, "-o", "json"], capture_output=True, check=True).stdout)[
            "fingerprint"
        ] == ""  # fmt: skip
        work(tmp_path / "device", "enrol")
        fingerprint = pki.fingerprint(pki.load_key(Path(paths.key)).public_key())
        shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        assert fingerprint in shown
