"""What ended a VM is told apart, in the events and where a device is shown, with what the VM said before it died.

One device, one misfortune after the other, as they come in life.
"""

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.health import conftest
from tests.health.chart import Chart
from tests.heart import misfortune
from tests.rollout.simulated import Api
from tests.support import release_slots
from tests.support.examples import tarball
from tests.support.fleet import Fleet, fleet, wait_for
from tests.support.launcher_device import ORDERS

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(300)]

PRODUCT = "sensor-gateway"
INTERVAL_S = 4
SAID = "the pump does not answer"
SECRET = "hunter2hunter2"
BEFORE = f'logger:error("{SAID}, password={SECRET}"), timer:sleep(100), '
"""What the release logs before it goes wrong: the line is evidence, the secret in it is not."""


class Story:
    """One device, and what is told of each start of its VM."""

    def __init__(self, here: Fleet, chart: Chart) -> None:
        self.fleet, self.chart, self.device = here, chart, chart.device

    def restart(self, happen: Callable[[], object]) -> dict[str, Any]:
        """Have something happen; the event of the start that follows, once it runs and the server knows of it."""
        number = int(self.device.boot_state()["starts"]) + 1
        happen()
        run = self.device.root / "var/run/beamfleet/main/app"
        wait_for(f"start {number}", (run / f"started.{number}").exists, deadline_s=90)

        def told() -> dict[str, Any] | None:
            history = [event for event in self.chart.row()["history"] if event["kind"] == "restart"]
            return next((event for event in history if event["data"]["starts"] == number), None)

        event = wait_for(f"start {number} to be told", told, deadline_s=60, every_s=0.2)
        state = self.device.boot_state()
        assert (int(state["starts"]), state["cause"]) == (number, event["cause"])
        return event

    def push(self, version: str) -> None:
        """Have the device run this version of the gateway, which takes orders."""
        made = self.fleet.work / f"gateway-{version}.tar.gz"
        release_slots.with_arguments(tarball("sensor_gateway", version), made, ORDERS)
        self.fleet.cli("push", str(made), "--all", "--timeout", "120")

    def order(self, expressions: str) -> dict[str, Any]:
        """The event after Erlang expressions that end the VM."""
        return self.restart(lambda: misfortune.order(self.device, expressions))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    work = tmp_path_factory.mktemp("restarts") / "fleet"
    conftest.configure(work, {})
    with fleet(work, PRODUCT) as here:
        told = Story(here, Chart(Api(here), here.flash("unlucky", health_interval_s=INTERVAL_S)))
        here.wait_online("unlucky")
        told.push("1.0.0")
        told.chart.until("a healthy release", lambda report: report.verdict == "healthy")
        yield told


def evidence(event: dict[str, Any]) -> dict[str, Any]:
    """What the VM left behind, with nothing secret in it."""
    found: dict[str, Any] = event["data"]["evidence"]
    assert SECRET not in json.dumps(event)
    return found


def shown(story: Story) -> str:
    """What `device show` prints for people."""
    return story.fleet.cli("device", "show", story.device.name).stdout


def test_a_crash_is_told_with_slogan_status_and_last_lines(story: Story) -> None:
    event = story.order(f"{BEFORE} exit(whereis(sensor_gateway_sup), kill).")
    assert event["cause"] == "crash"
    found = evidence(event)
    assert "Kernel pid terminated (application_controller)" in found["slogan"]
    assert found["status"] == "status 1"
    assert any(SAID in line for line in found["log"])
    page = shown(story)
    assert "crash" in page
    assert "Kernel pid terminated" in page
    assert SECRET not in page


def test_memory_that_is_not_there_is_told_as_such(story: Story) -> None:
    event = story.order(f"{BEFORE} binary:copy(<<0>>, 1 bsl 45).")
    assert event["cause"] == "oom"
    found = evidence(event)
    assert "Cannot allocate" in found["slogan"]
    assert any(SAID in line for line in found["log"])


def test_a_kill_from_outside_leaves_no_slogan_but_its_lines(story: Story) -> None:
    def happen() -> None:
        misfortune.order(story.device, f"{BEFORE} ok.")
        log = story.device.root / "var/run/beamfleet/main/vm.log"
        wait_for("the line", lambda: SAID in log.read_text(errors="replace"), deadline_s=20)
        misfortune.strike(story.device, signal.SIGKILL)

    event = story.restart(happen)
    assert event["cause"] == "crash"
    found = evidence(event)
    assert (found["slogan"], found["status"]) == ("", "status 137")
    assert any(SAID in line for line in found["log"])


def test_a_hang_that_heart_ended_is_no_crash(story: Story) -> None:
    event = story.restart(lambda: misfortune.strike(story.device, signal.SIGSTOP))
    assert event["cause"] == "hang"
    assert evidence(event)["status"] == "status 137"


def test_an_exit_that_nobody_asked_for_is_called_so(story: Story) -> None:
    event = story.order(f"{BEFORE} init:stop().")
    assert event["cause"] == "exit"
    assert any(SAID in line for line in evidence(event)["log"])


def test_a_power_loss_is_no_fault_of_the_release(story: Story) -> None:
    losses = story.chart.row()["power_losses"]
    event = story.restart(lambda: misfortune.cut_power(story.device))
    assert event["cause"] == "power"
    assert story.chart.row()["power_losses"] == losses + 1


def test_what_an_operator_asked_for_needs_no_evidence(story: Story) -> None:
    misfortune.operate(story.device, "stop")
    story.chart.until("the stop", lambda report: report.sections and story.chart.row()["stopped"])
    event = story.restart(lambda: misfortune.operate(story.device, "start"))
    assert event["cause"] == "operator"
    assert "evidence" not in event["data"]
    event = story.restart(lambda: story.push("1.1.0"))
    assert event["cause"] == "update"
    assert "evidence" not in event["data"]


def test_every_cause_is_in_the_history_that_people_see(story: Story) -> None:
    page = shown(story)
    missing = {cause for cause in ("crash", "oom", "hang", "exit", "power", "operator", "update") if cause not in page}
    assert not missing, page
