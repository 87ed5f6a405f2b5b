"""A golden image: flashed once, and each copy is a device of its own; also a copy of one that has already run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flash.conftest import run
from tests.support import rootfs
from tests.support.fleet import Fleet, free_port, key_values
from tests.support.nspawn import Machine

pytestmark = [pytest.mark.suite(name="flash")]
VAR, DISK = "/var/lib/beamfleet", "/srv/disk"
COPIES = 3
Copy = Callable[..., Machine]


@pytest.fixture(scope="module")
def golden(fleet: Fleet, packages: Path, bundle: Path, room: Path) -> Path:
    """A root that is flashed for many devices and never written to again."""
    root = rootfs.unpack(room / "golden")
    (root / "etc/machine-id").write_text(f"{'0123456789abcdef' * 2}\n")  # it was booted once, to be looked at
    words = (
        "--id-from", "machine-id", "--id-prefix", "golden-", "--count", str(COPIES + 1), "--expires", "7d",
        "--bundle", str(bundle), "--env", f"SENSOR_GATEWAY_PORT={free_port()}", "--trial-s", "2", "-l", "made=golden",
        "--allow-unsafe-filesystem",
    )  # fmt: skip
    fleet.cli("flash", "--root", str(root), "--packages", str(packages), "--yes", *words)
    return root


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Iterator[Copy]:
    """`copy(name, like)`: a machine that begins as the golden image, or as the one in the room `like` ended."""
    made: list[Machine] = []

    def make(name: str, like: Path | None = None, network: bool = True) -> Machine:
        made.append(Machine(golden, tmp_path / name, name, DISK, like, network=network))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


def ids(fleet: Fleet) -> set[str]:
    return {device["id"] for device in fleet.json("device", "list") if device["id"].startswith("golden-")}


def becomes(machine: Machine, fleet: Fleet) -> str:
    """Power on; the id of the device that the machine is, once it is online and runs a committed release."""
    machine.boot()
    try:
        status = machine.until("a session", lambda: told if (told := ask(machine))["session"] else None)
        state = machine.until("the seed to be committed", lambda: settled(machine))
    finally:
        machine.run("systemctl", "--no-pager", "--failed", ok=range(256))
    assert state["phase"] == "committed"
    assert machine.run("systemctl", "is-failed", "beamfleet-setup.service", ok=(1,)).stdout.strip() == "active"
    return str(status["device"])


def ask(machine: Machine) -> dict[str, Any]:
    done = machine.run("beamfleet-agent", "status", "-o", "json", ok=(0, 1))
    told: dict[str, Any] = json.loads(done.stdout)
    return {"session": False, **told}


def settled(machine: Machine) -> dict[str, str] | None:
    """boot/state once the seed has ended and is gone."""
    if machine.path(f"{VAR}/seed.bundle").exists():
        return None
    return key_values(machine.path(f"{VAR}/apps/main/boot/state"))


def test_three_copies_are_three_devices_and_each_has_a_key_of_its_own(fleet: Fleet, copy: Copy, tmp_path: Path) -> None:
    found, keys = [], set()
    for number in range(COPIES):
        machine = copy(f"copy-{number}")
        found.append(becomes(machine, fleet))
        keys.add(ask(machine)["fingerprint"])
        machine.power_off()
    assert len(set(found)) == len(keys) == COPIES
    assert ids(fleet) == set(found)
    first = copy("again", tmp_path / "copy-0")
    assert becomes(first, fleet) == found[0], "the next boot makes no other device"
    first.power_off()

    run("truncate", "-s", "0", tmp_path / "again/upper/etc/machine-id")
    moved = copy("moved", tmp_path / "again")
    other = becomes(moved, fleet)
    assert ids(fleet) == {*found, other}
    assert ask(moved)["fingerprint"] not in keys
    assert moved.path(f"{VAR}/identity.{found[0]}/pair.pem").exists()

    told = json.loads(moved.run("beamfleet-agent", "decommission", "--yes", "-o", "json").stdout)
    assert told["device"] == other
    assert moved.run("ls", "-A", VAR, "/etc/beamfleet").stdout.split() == ["/etc/beamfleet:", f"{VAR}:"]
    moved.run("systemctl", "is-active", "beamfleet-agent.service", "beamfleet-launcher.service", ok=(3,))
    moved.reboot()
    moved.run("systemctl", "is-active", "beamfleet-agent.service", "beamfleet-launcher.service", ok=(3,))


def test_a_copy_that_never_sees_a_network_runs_its_seed(copy: Copy) -> None:
    machine = copy("offline", network=False)
    machine.boot()
    state = machine.until("the seed to be committed", lambda: settled(machine))
    assert state["phase"] == "committed"
    told = ask(machine)
    assert (told["session"], told["version"], told["device"][:7]) == (False, "1.0.0", "golden-")
