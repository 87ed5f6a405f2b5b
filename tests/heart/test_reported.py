"""The cause of every restart is known to the device, told by its agent, and shown by the server: one device, one after
the other, so that each comes as it comes in life.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.heart import misfortune
from tests.support import release_slots
from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for
from tests.support.launcher_device import ORDERS

pytestmark = [pytest.mark.suite(name="heart"), pytest.mark.timeout(900)]

PRODUCT = "sensor-gateway"


@pytest.fixture
def here(room: Path) -> Iterator[Fleet]:
    with fleet(room / "fleet", PRODUCT) as opened:
        yield opened


class Story:
    """One device of a fleet, and what has been told of it so far."""

    def __init__(self, here: Fleet, device: Device) -> None:
        self._here, self.device = here, device
        self._causes: dict[int, tuple[str, str]] = {}

    def starts(self) -> int:
        return int(self.device.boot_state()["starts"])

    def restarts(self, happen: Callable[[], object]) -> tuple[str, str]:
        """Cause and detail of the start that follows, as the state has them."""
        before = self.starts()
        happen()
        run = self.device.root / "var/run/beamfleet/main/app"
        wait_for(f"start {before + 1}", (run / f"started.{before + 1}").exists, deadline_s=120)
        state = self.device.boot_state()
        self._causes[before + 1] = (state["cause"], state["detail"])
        return self._causes[before + 1]

    def told(self) -> None:
        """Until the server has each of these starts once, with cause and detail."""

        def look() -> bool:
            events = self._here.json("events", "--device", self.device.name, "--limit", "200")
            starts = [event for event in events if event["kind"] == "restart"]
            found = {event["data"]["starts"]: (event["cause"], event["detail"]) for event in starts}
            assert len(found) == len(starts), f"told twice: {starts}"
            return self._causes.items() <= found.items()

        wait_for(f"the server to have {self._causes}", look, deadline_s=60, every_s=2)


def test_each_restart_is_told_with_its_cause(here: Fleet, room: Path) -> None:
    source = release_slots.with_arguments(tarball("sensor_gateway", "1.0.0"), room / "1.0.0.tar.gz", ORDERS)
    newer = release_slots.with_arguments(tarball("sensor_gateway", "1.1.0"), room / "1.1.0.tar.gz", ORDERS)
    device = here.flash("told", trial_s=2)
    here.wait_online("told")
    story = Story(here, device)
    assert story.restarts(lambda: here.cli("push", str(source), "--all", "--timeout", "120")) == ("update", "")
    cause, detail = story.restarts(lambda: misfortune.order(device, "exit(whereis(sensor_gateway_sup), kill)."))
    assert cause == "crash"
    assert detail.startswith("status 1, Kernel pid terminated (application_controller) ")
    assert story.restarts(lambda: misfortune.kill_launcher(device)) == ("killed", "the launcher was ended")
    cause, detail = story.restarts(lambda: misfortune.strike(device, signal.SIGSTOP))
    assert (cause, detail.split(",")[0]) == ("hang", "status 137")
    assert story.restarts(lambda: misfortune.cut_power(device)) == ("power", "")
    assert story.restarts(lambda: misfortune.order(device, "init:stop().")) == ("exit", "status 0")
    cause, detail = story.restarts(lambda: misfortune.order(device, "binary:copy(<<0>>, 1 bsl 45)."))
    assert cause == "oom"
    assert "Cannot allocate" in detail
    stopped = story.starts()
    misfortune.operate(device, "stop")
    wait_for("the release to be stopped", lambda: not device.vm_pid(), deadline_s=30)
    assert story.starts() == stopped
    assert story.restarts(lambda: misfortune.operate(device, "start")) == ("operator", "")
    cause, _ = story.restarts(lambda: here.cli("push", str(newer), "--all", "--timeout", "120"))
    assert cause == "update"
    assert device.boot_state()["phase"] == "committed"
    story.told()
