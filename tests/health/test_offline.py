"""A device that is cut off is offline within 1.5 of its keep-alives, with the true reason, also when the broker dies.

Judged by the server's own record: when it last heard of the device, and when it said so.
"""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.health import conftest
from tests.health.chart import seconds
from tests.rollout.simulated import Api
from tests.support.fleet import Fleet, fleet, wait_for
from tests.support.interception import redirect
from tests.support.relay import Relay

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(300)]

LAB = "lab_relx"
INTERVAL_S = 4
KEEPALIVE_S = 6
SWEEP_S = 2
"""The server looks around that often, and its record has whole seconds."""
DEADLINE_S = 60


class Ground:
    """Three devices: `cut` is connected through a relay, `frozen` has an agent that can be stopped, `steady` is left
    alone."""

    def __init__(self, here: Fleet) -> None:
        self.fleet, self.api = here, Api(here)
        self.charts = {name: conftest.device(here, name, LAB, INTERVAL_S) for name in ("cut", "frozen", "steady")}
        here.wait_online(*self.charts)
        self.relay = Relay(int(here.address("mqtt").rpartition(":")[2]))
        redirect(self.charts["cut"].device, mqtt=f"localhost:{self.relay.port}")
        here.wait_online(*self.charts)
        conftest.push(here, LAB, devices=len(self.charts))

    def agent(self, name: str) -> int:
        """The pid of an agent."""
        return wait_for("the agent", self.charts[name].device.agent_pid, deadline_s=30)

    def online(self, *names: str) -> None:
        """Until these are online, and well."""
        for name in names:
            self.charts[name].until("a healthy device", lambda report: report.verdict == "healthy", DEADLINE_S)

    def offline(self, name: str, after: int) -> dict[str, Any]:
        """The event that says so, newer than event `after`."""

        def told() -> dict[str, Any] | None:
            found = self.api.get("/events", device=name, kind="presence", cause="offline", after=after)["items"]
            return found[0] if found else None

        event = wait_for(f"{name} to be offline", told, deadline_s=DEADLINE_S)
        row = self.charts[name].row()
        assert (row["online"], row["health"]["verdict"]) == (False, "offline")
        silent_s = seconds(event["time"]) - seconds(row["last_seen"])
        assert KEEPALIVE_S <= silent_s <= 1.5 * KEEPALIVE_S + SWEEP_S, f"{name} was silent for {silent_s} s: {event}"
        return event

    def last_event(self) -> int:
        """The number of the newest event."""
        return int(self.api.get("/events", newest="true", limit=1)["items"][-1]["id"])


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    work = tmp_path_factory.mktemp("offline") / "fleet"
    conftest.configure(work, {})
    with fleet(work, conftest.product(LAB)) as here:
        made = Ground(here)
        try:
            yield made
        finally:
            made.relay.close()


@pytest.fixture(autouse=True)
def healed(ground: Ground) -> Iterator[None]:
    """Everybody is online before a test, and everything that it does is taken back."""
    ground.online(*ground.charts)
    agent = ground.agent("frozen")
    yield
    ground.relay.silent = False
    os.kill(agent, signal.SIGCONT)


def test_a_silent_line_and_a_frozen_agent_are_offline_in_time(ground: Ground) -> None:
    before = ground.last_event()
    vms = {name: chart.device.vm_pid() for name, chart in ground.charts.items()}
    ground.relay.silent = True
    os.kill(ground.agent("frozen"), signal.SIGSTOP)
    for name in ("cut", "frozen"):
        ground.offline(name, before)
    assert ground.charts["steady"].row()["online"]
    ground.relay.silent = False
    os.kill(ground.agent("frozen"), signal.SIGCONT)
    ground.online("cut", "frozen")
    assert {name: chart.device.vm_pid() for name, chart in ground.charts.items()} == vms, "no release was disturbed"


def test_they_are_offline_in_time_also_when_the_broker_dies_with_their_wills(ground: Ground) -> None:
    before = ground.last_event()
    broker = wait_for("the broker", ground.fleet.broker_pid, deadline_s=30)
    ground.relay.silent = True
    os.kill(ground.agent("frozen"), signal.SIGSTOP)
    os.kill(broker, signal.SIGKILL)
    wait_for("another broker", lambda: ground.fleet.broker_pid() not in (None, broker), deadline_s=30)
    for name in ("cut", "frozen"):
        assert ground.offline(name, before)["detail"].startswith("not heard from")
    ground.online("steady")
