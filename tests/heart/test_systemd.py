"""Under systemd, as packaged: launcher, agent and heart all die at the same moment, and the service is back."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.heart.conftest import Told
from tests.support import nspawn, rootfs
from tests.support.packaged import AGENT, LAUNCHER, PackagedDevice, Workshop

pytestmark = [pytest.mark.suite(name="heart"), pytest.mark.timeout(600)]

SETTINGS = {"trial_deadline_s": 90}
PORT = "8080"
"""Where the device asks whatever release it runs."""


@pytest.fixture
def workshop(room: Path) -> Iterator[Workshop]:
    if reason := rootfs.missing() or nspawn.missing():
        pytest.skip(f"no device in systemd-nspawn: {reason}")
    place = room / "workshop"
    place.mkdir()
    yield Workshop(place)
    shutil.rmtree(place)


@pytest.fixture
def device(workshop: Workshop, room: Path) -> Iterator[PackagedDevice]:
    made = PackagedDevice(workshop, room / "device", SETTINGS, env={"EDGE_HUB_PORT": PORT})
    yield made
    made.close()


def killed_together(device: PackagedDevice) -> int:
    """SIGKILL to launcher, agent and heart by one command; the pid of the VM that answers in the end."""
    before = (device.main_pid(LAUNCHER), device.main_pid(AGENT), device.heart_pid())
    state, vm = device.boot_state(), device.vm_pid()
    assert all(before)
    device.machine.run("kill", "-s", "KILL", *map(str, before), ok=(0, 1))  # systemd may have been faster with the last
    after = device.until_state("another start", lambda now: int(now["starts"]) > int(state["starts"]))
    assert (after["cause"], after["slot"], after["phase"]) == ("killed", state["slot"], "committed")

    def other() -> int | None:
        answer = device.http()
        return int(answer["os_pid"]) if answer and answer["os_pid"] != vm else None

    pid = device.machine.until("the service", other)
    assert device.main_pid(LAUNCHER) not in (0, before[0])
    assert device.machine.until("the agent", lambda: device.main_pid(AGENT)) != before[1]
    assert device.machine.until("the heart", device.heart_pid) != before[2]
    return pid


def test_launcher_agent_and_heart_killed_at_once_come_back(
    workshop: Workshop, device: PackagedDevice, told: Told
) -> None:
    first, second = workshop.ship("sensor_gateway", "1.0.0"), workshop.ship("edge_hub", "1.1.0")
    device.flash()
    for shipped in (first, second):
        device.install(shipped)
        assert killed_together(device) == device.vm_pid()
        assert [line for line in device.intervals() if line[0] not in ("start", "stop")] == []
    device.machine.power_off()
