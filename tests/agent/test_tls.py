"""TLS of a device that does not know the time: a session all the same, with whoever may be believed."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beamfleet_agent import tls
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_bundles.build_time import BUILD_TIME

from tests.agent.authority import Authority
from tests.agent.broker import Broker
from tests.agent.device import identify
from tests.agent.test_uplink import Linked, enrolled

Spin = Callable[[str, Callable[[], object]], None]


@pytest.fixture
def in_1970(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's own clock was never set."""
    monkeypatch.setattr(time, "time", lambda: 86_400.0)


def test_a_clock_that_was_never_set_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(str(tmp_path))
    Path(paths.trust).mkdir(parents=True)
    for now, signed, behind in (
        (86_400, None, True), (BUILD_TIME - 1, None, True), (BUILD_TIME + 1, None, False),
        (BUILD_TIME + 1, BUILD_TIME + 2, True), (BUILD_TIME + 3, BUILD_TIME + 2, False), (BUILD_TIME + 1, "x", False),
    ):  # fmt: skip
        if signed is not None:
            Path(paths.trust, "clock").write_text(json.dumps({"time": signed, "root": 1}))
        monkeypatch.setattr(time, "time", lambda now=now: float(now))
        assert tls.is_behind(paths) == behind, (now, signed)


@pytest.fixture
def stale(authority: Authority) -> Iterator[Broker]:
    """A broker whose certificate ran out after this software was built: only who does not know the time takes it."""
    made = Broker(authority, ends=datetime.fromtimestamp(BUILD_TIME, UTC) + timedelta(days=1))
    yield made
    made.kill()


@pytest.mark.usefixtures("in_1970")
def test_in_1970_there_is_a_session_whatever_dates_the_server_has(
    loop: Loop, authority: Authority, stale: Broker, tmp_path: Path, spin: Spin
) -> None:
    linked = Linked(loop, enrolled(tmp_path / "device", authority, stale.port))
    linked.uplink.start()
    spin("a session", lambda: linked.uplink.up)
    linked.uplink.stop()


def test_who_knows_the_time_takes_none_that_has_run_out(
    loop: Loop, authority: Authority, stale: Broker, tmp_path: Path, spin: Spin, capfd: pytest.CaptureFixture[str]
) -> None:
    linked = Linked(loop, enrolled(tmp_path / "device", authority, stale.port))
    linked.uplink.start()
    spin("the refusal", lambda: loop.pending("session.retry"))
    linked.uplink.stop()
    assert "certificate has expired" in capfd.readouterr().err


@pytest.mark.usefixtures("in_1970")
def test_but_none_with_a_broker_of_another_fleet(
    loop: Loop, authority: Authority, broker: Broker, tmp_path: Path, spin: Spin, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = enrolled(tmp_path / "device", authority, broker.port)
    stranger = Authority(tmp_path / "stranger")
    Path(paths.ca).write_bytes(stranger.path.read_bytes())
    identify(paths, *stranger.issue("gw-1"))
    linked = Linked(loop, paths)
    linked.uplink.start()
    spin("the refusal", lambda: loop.pending("session.retry"))
    linked.uplink.stop()
    assert "certificate verify failed" in capfd.readouterr().err


@pytest.mark.usefixtures("in_1970")
def test_nor_with_one_whose_certificate_ran_out_before_this_software_was_built(
    loop: Loop, authority: Authority, tmp_path: Path, spin: Spin, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = datetime.fromtimestamp(BUILD_TIME, UTC) - timedelta(days=1)
    broker = Broker(authority, ends=ended)
    linked = Linked(loop, enrolled(tmp_path / "device", authority, broker.port))
    linked.uplink.start()
    spin("the refusal", lambda: loop.pending("session.retry"))
    linked.uplink.stop()
    broker.kill()
    assert "ran out at" in capfd.readouterr().err
