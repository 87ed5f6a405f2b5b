"""The hardware watchdog of a PC that QEMU computes: who pets it, what it does, and when it is left alone.

One machine for the module; the tests are its life in order. That the watchdog fired is QEMU's word, not the guest's.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.conftest import Releases
from tests.support import qemu
from tests.support.guest_device import GuestDevice, guest_disk
from tests.support.packaged import APP, Workshop

pytestmark = [pytest.mark.suite(name="boot"), pytest.mark.timeout(1500)]

WATCHDOG = "/dev/watchdog0"
NO_VM_S = 20
ANSWER_S = INSTALL_S = FIRES_S = 600
"""Far more than it takes: the machine's seconds are its own, and long ones on a busy host."""
HELD = (
    "until [ \"$(find /proc/[0-9]*/fd -lname {watchdog} 2>/dev/null | cut -d/ -f3 | sort -u)\" = '{pids}' ];"
    " do sleep 0.2; done; cat /sys/class/watchdog/{name}/state"
)


class Watched:
    """A device in a machine with a watchdog that its launcher may arm."""

    def __init__(self, machine: qemu.Machine) -> None:
        self.machine, self.console = machine, machine.console
        self.device = GuestDevice(machine.console)

    def come_up(self) -> str:
        """From the start of the guest until the release answers; its version."""
        self.machine.ready()
        self.device.switch_on(agent=False)
        return str(self.device.answer(ANSWER_S)["version"])

    def fires(self) -> None:
        """Until the watchdog has reset the machine."""
        fired = self.machine.event("WATCHDOG", FIRES_S)
        assert fired["data"]["action"] == "reset"
        self.machine.event("RESET", FIRES_S)

    def held_by(self, pids: str) -> str:
        """Until these processes and no others have the watchdog open; whether it is `active`."""
        return self.console.run(HELD.format(watchdog=WATCHDOG, pids=pids, name=Path(WATCHDOG).name), 60)

    def resets(self) -> int:
        """How many resets the device counts."""
        return len(self.device.file(f"{APP}/boot/resets").split())


@pytest.fixture(scope="module")
def watched(workshop: Workshop, releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A device whose committed release answers, and whose launcher has a watchdog."""
    if why := qemu.missing():
        pytest.skip(f"no computed PC: {why}")
    disk: Path = guest_disk(workshop, tmp_path_factory.mktemp("qemu"), trial_s=2, trial_deadline_s=240)
    with qemu.Machine(disk) as machine:
        made = Watched(machine)
        machine.ready()
        made.device.flash()
        settings = f"watchdog={WATCHDOG}\\nwatchdog_no_vm_s={NO_VM_S}\\n"
        made.console.run(f"printf '{settings}' >>/etc/beamfleet/launcher.conf")
        made.device.switch_on(agent=False)
        made.device.install(releases.old, INSTALL_S)
        made.device.answer(ANSWER_S)
        yield made


def test_the_launcher_alone_holds_the_watchdog(watched: Watched) -> None:
    assert watched.held_by(str(watched.device.pid("launcher"))) == "active"
    assert watched.resets() == 0


def test_a_frozen_launcher_is_reset_and_the_device_comes_back_on_the_good_release(watched: Watched) -> None:
    before = watched.device.state()
    watched.console.run(f"kill -STOP {watched.device.pid('launcher')}")
    watched.fires()
    assert watched.come_up() == "1.0.0"
    state = watched.device.state()
    assert (state.slot, state.phase, state.cause) == (before.slot, "committed", "power")
    assert state.power_losses == before.power_losses + 1
    assert watched.resets() == 1
    assert watched.held_by(str(watched.device.pid("launcher"))) == "active"


def test_a_release_that_cannot_be_started_is_reset_after_a_while(watched: Watched) -> None:
    slot = watched.device.state().slot
    broken = f"{APP}/slots/{slot}/erts-*/bin/erlexec"
    watched.console.run(f"mount --bind /dev/null {broken}")  # until the next boot
    watched.console.run(f"kill -KILL {watched.device.pid('vm')}")
    watched.fires()
    assert watched.come_up() == "1.0.0"
    assert (watched.device.state().slot, watched.device.state().cause) == (slot, "power")
    assert watched.resets() == 2


def test_the_watchdog_stays_off_after_three_resets_within_a_day(watched: Watched) -> None:
    watched.console.run(f"date +%s >>{APP}/boot/resets; kill -TERM {watched.device.pid('launcher')}")
    watched.console.expect("three resets within a day: the hardware watchdog stays off")
    watched.device.answer(ANSWER_S)
    assert watched.held_by("") == "inactive"
