"""kill -9 of each process at five points of an update: it ends in committed or reverted, and the server tells it.

Four devices take the same update side by side, each with a murderer of its own (agent, worker, launcher, BEAM);
server and broker are killed by a fifth. DIR/run restarts launcher and agent, the test restarts the server, as an init
would; worker, BEAM and broker are their own parents' business.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, FleetError, fleet, wait_for

pytestmark = pytest.mark.suite(name="kill")

VICTIMS = ("agent", "worker", "launcher", "beam")
POINTS = ("offered", "staging", "staged", "trial", "started")
WORKER_DELAYS_S = (0.0, 0.05, 0.15, 0.3, 0.6)
EVERYONE = "-l", "suite=kill"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("kill"), "sensor-gateway") as opened:
        for name in VICTIMS:
            opened.flash(name, labels={"suite": "kill"})
        opened.wait_online(*VICTIMS)
        opened.cli("push", str(tarball("sensor_gateway", "1.0.0")), *EVERYONE, "--canary", "4", "--timeout", "90")
        yield opened


class Scene:
    """What a device looked like before the update, to tell how far the update has come."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._slots = self._listing("slots")
        self._starts = int(device.boot_state()["starts"])
        self._slot = device.boot_state()["slot"]
        self._journal = self._journal_bytes()

    def _listing(self, name: str) -> set[str]:
        try:
            return {entry.name for entry in self._device.path(name).iterdir()}
        except FileNotFoundError:
            return set()

    def _journal_bytes(self) -> bytes:
        try:
            return (self._device.root / "var/lib/beamfleet/journal").read_bytes()
        except FileNotFoundError:
            return b""

    def reached(self, point: str) -> bool:
        """Whether the update has come to this point; each holds from then on."""
        state = self._device.boot_state()
        swapped = state.get("phase") == "trial" or state.get("slot") != self._slot
        if point == "offered":
            return swapped or self._journal_bytes() != self._journal
        if point == "staging":
            return swapped or bool(self._listing("staging"))
        if point == "staged":
            return swapped or bool(self._listing("slots") - self._slots) or bool(self._listing("requests"))
        if point == "trial":
            return swapped
        newest = int(state.get("starts") or 0)
        run = self._device.root / "var/run/beamfleet/main/app"
        return newest > self._starts and (run / f"started.{newest}").exists()


def murder(device: Device, scene: Scene, victim: str, number: int, told: list[str]) -> None:
    """Kill the victim when the update has come to point `number`."""
    if victim == "worker":
        pid = wait_for("a worker", device.worker_pid, deadline_s=40, every_s=0.002)
        threading.Event().wait(WORKER_DELAYS_S[number])
        pid = device.worker_pid() or pid
    else:
        point = POINTS[number]
        wait_for(f"{device.name}: {point}", lambda: scene.reached(point), deadline_s=60, every_s=0.002)
        look: Callable[[], int | None] = {
            "agent": device.agent_pid, "launcher": device.launcher_pid, "beam": device.vm_pid,
        }[victim]  # fmt: skip
        pid = wait_for(f"the {victim}", look, deadline_s=20, every_s=0.002)
    try:
        os.kill(pid, signal.SIGKILL)
        told.append(f"{victim} {pid} killed at {number}")
    except ProcessLookupError:
        told.append(f"{victim} {pid} was already gone at {number}")


def push_over(here: Fleet) -> dict[str, Any]:
    """Roll the other version out to all four; the rollout as the server shows it in the end."""
    version = "1.0.0" if here.json("device", "show", VICTIMS[0])["version"] == "1.1.0" else "1.1.0"
    here.cli("push", str(tarball("sensor_gateway", version)), *EVERYONE, "--canary", "4", "--timeout", "150", ok=(0, 3))
    newest = here.json("rollout", "history")[0]
    rollout: dict[str, Any] = here.json("rollout", "status", str(newest["id"]))
    assert rollout["version"] == version
    return rollout


def check_the_truth(here: Fleet, rollout: dict[str, Any]) -> None:
    """Every device ended in committed or reverted, runs, and is shown as `boot/state` has it."""
    for entry in rollout["devices"]:
        assert entry["state"] in {"committed", "reverted"}, rollout
    for name, device in here.devices.items():

        def same(name: str = name, device: Device = device) -> bool:
            shown, disk = here.json("device", "show", name), device.boot_state()
            return bool(
                shown["slot"] == disk["slot"]
                and shown["phase"] == disk["phase"]
                and shown["attempt"] == int(disk["attempt"])
                and shown["starts"] == int(disk["starts"])
                and shown["cause"] == disk["cause"]
            )

        wait_for(f"the server to show {name} as boot/state has it", same, deadline_s=30, every_s=0.3)
        assert device.boot_state()["phase"] in {"committed", "reverted"}
        wait_for(f"{name} to answer", device.http, deadline_s=15)
        for room in ("staging", "requests"):
            assert not list(device.path(room).iterdir()), f"nothing is left in {room}"


@pytest.mark.parametrize("number", range(len(POINTS)), ids=POINTS)
def test_a_killed_process_of_the_device_costs_no_update(here: Fleet, number: int) -> None:
    told: list[str] = []
    errors: list[FleetError] = []

    def guarded(name: str, scene: Scene) -> None:
        try:
            murder(here.devices[name], scene, name, number, told)
        except FleetError as error:
            errors.append(error)

    murderers = [
        threading.Thread(target=guarded, args=(name, Scene(here.devices[name])), daemon=True) for name in VICTIMS
    ]
    for murderer in murderers:
        murderer.start()
    rollout = push_over(here)
    for murderer in murderers:
        murderer.join(60)
    assert not errors
    assert len([line for line in told if "killed" in line]) >= len(VICTIMS) - 1, told
    check_the_truth(here, rollout)


@pytest.mark.parametrize("victim", ["server", "broker"])
@pytest.mark.parametrize("number", range(len(POINTS)), ids=POINTS)
def test_a_killed_server_or_broker_costs_no_update(here: Fleet, number: int, victim: str) -> None:
    device = here.devices["beam"]
    scene, done, errors = Scene(device), threading.Event(), list[Exception]()

    def strike() -> None:
        try:
            wait_for(
                f"the update to be {POINTS[number]}",
                lambda: scene.reached(POINTS[number]),
                deadline_s=60,
                every_s=0.002,
            )
            if victim == "server":
                here.kill_server()
            else:
                broker = here.broker_pid()
                assert broker is not None
                os.kill(broker, signal.SIGKILL)
        except (FleetError, AssertionError, OSError) as error:
            errors.append(error)
        done.set()

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    rollout = push_over(here)
    assert done.wait(60)
    assert not errors
    check_the_truth(here, rollout)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    with fleet(tmp_path, "sensor-gateway") as opened:
        device = opened.flash("gone")
        opened.wait_online("gone")
        opened.cli("push", str(tarball("sensor_gateway", "1.0.0")), "--all", "--timeout", "60")
        pids = [device.agent_pid(), device.launcher_pid(), device.vm_pid(), opened.server_pid(), opened.broker_pid()]
        assert all(pids)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in read(path)]
    assert not left, [read(path) for path in left]


def read(path: Path) -> bytes:
    """A file's bytes; nothing when its process has gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
