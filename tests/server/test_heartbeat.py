"""The sign of life to an external watcher: it comes while all is well, and not otherwise."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_server.alarms import Alarm
from beamfleet_server.condition import is_well
from beamfleet_server.heartbeat import Heartbeat
from beamfleet_server.store.expiries import DUE, EXPIRED, Expiry, State

from tests.support.receiver import Receiver, answers
from tests.support.server import running_server


@pytest.fixture
def watcher() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def expiry(state: State, *, vital: bool = True) -> Expiry:
    return Expiry("root", 0, 1, 1, state, "", vital)


def test_a_post_goes_out_while_all_is_well_and_none_otherwise(watcher: Receiver) -> None:
    well = [True, False, True]
    heartbeat = Heartbeat(watcher.url, lambda: well.pop(0), None)
    assert [heartbeat.beat() for _ in range(3)] == [True, False, True]
    assert [each.line.split()[0] for each in watcher.received] == ["POST", "POST"]


def test_a_watcher_that_takes_nothing_or_sends_elsewhere_ends_nothing(watcher: Receiver) -> None:
    heartbeat = Heartbeat(watcher.url, lambda: True, None)
    for behaviour in (answers(500), answers(307, "Location: http://127.0.0.1:1/"), lambda _: None):
        watcher.behave = behaviour
        assert not heartbeat.beat()
    watcher.behave = answers(204)
    assert heartbeat.beat()


def test_the_server_is_well_without_alarms_and_while_nothing_vital_has_run_out() -> None:
    alarm = Alarm("fleet.silent", "", 1)
    assert is_well(True, [], [expiry(DUE), expiry(EXPIRED, vital=False)])
    assert not is_well(False, [], [])
    assert not is_well(True, [alarm], [])
    assert not is_well(True, [], [expiry(EXPIRED)])


def test_a_server_with_an_address_for_it_sends_one_at_once(watcher: Receiver, tmp_path: Path) -> None:
    with running_server(tmp_path / "server", heartbeat_url=watcher.url):
        watcher.wait()
