"""A device in the hands of who sits between it and its server, and what must not have changed on it afterwards."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, wait_for
from tests.support.interception import FalseBroker, Interceptor, Pair, identity_of, redirect, server_pair

PRODUCT = "sensor-gateway"


def logged(device: Device, event: str) -> list[dict[str, Any]]:
    """What agent and worker have logged under a phrase."""
    lines = [json.loads(line) for line in device.console(100_000).splitlines() if line.startswith('{"')]
    return [line for line in lines if line["event"] == event]


def failures(device: Device) -> list[str]:
    """Codes of all that was refused, in order."""
    return [line["code"] for line in logged(device, "job failed")]


def built(here: Fleet, version: str, *words: str) -> str:
    """The file of an unsigned bundle of this version."""
    source = tarball("sensor_gateway", version if version in ("1.1.0", "1.2.0") else "1.0.0")
    words = ("--version", version, "--out", str(here.work / f"bundles-{version}"), *words)
    return str(here.json("bundle", "build", str(source), *words)["path"])


def running_device(here: Fleet, name: str, version: str = "1.0.0", *more: str) -> Device:
    """A device that has enrolled and runs a published release."""
    device = here.flash(name, labels={"name": name}, more=more)
    here.wait_online(name)
    start_rollout(here, name, version)
    committed(device, version)
    return device


def start_rollout(here: Fleet, name: str, version: str) -> None:
    """Give a device a published release."""
    here.cli("rollout", "start", PRODUCT, version, "-l", f"name={name}")


def committed(device: Device, version: str) -> None:
    """Until the device runs this version, committed, and answers, and no request is left: that goes a moment later."""

    def runs() -> bool:
        answers = device.boot_state().get("phase") == "committed" and (device.http() or {}).get("version") == version
        return answers and not any(device.path("requests").iterdir())

    wait_for(f"{device.name} to run {version}", runs, deadline_s=60)


def seen(device: Device) -> tuple[Any, ...]:
    """What runs on a device and what it keeps; nothing may lie in staging/ or requests/."""
    assert list(device.path("staging").iterdir()) == []
    assert list(device.path("requests").iterdir()) == []
    return device.boot_state(), device.vm_pid(), sorted(path.name for path in device.path("slots").iterdir())


@dataclass(frozen=True, slots=True)
class Captive:
    """What the device hears comes from `front` and `broker`."""

    device: Device
    front: Interceptor
    broker: FalseBroker

    def push(self, document: bytes) -> None:
        """An assignment comes by MQTT."""
        self.broker.tell(self.device.name, "desired", document, retain=True)

    def refuses(self, codes: str, act: Callable[[], object]) -> str:
        """What `act` does is refused with one of these codes, and nothing on the device has changed by it."""
        before, told = seen(self.device), len(failures(self.device))
        act()

        def refused() -> str | None:
            new = failures(self.device)[told:]
            return next((code for code in new if code in codes.split()), None)

        found = wait_for(f"{self.device.name} to refuse: {codes}", refused, deadline_s=30)
        wait_for("the worker to end", lambda: self.device.worker_pid() is None, deadline_s=30)
        assert seen(self.device) == before
        return found


@contextlib.contextmanager
def captured(here: Fleet, device: Device, folder: Path, *, pair: Pair | None = None) -> Iterator[Captive]:
    """The device in other hands; given back at the end."""
    pair, ca = pair or server_pair(here.data, folder), here.data / "ca.pem"
    front = Interceptor(pair, ca, here.address("devices"), identity_of(device))
    broker = FalseBroker(folder / "broker", pair, ca)
    captive = Captive(device, front, broker)
    addresses = {"api": front.address, "mqtt": broker.address}
    settings = (device.root / "etc/beamfleet/agent.toml").read_text()
    try:
        redirect(device, **addresses)
        broker.wait("the device", lambda: broker.of("presence"))
        yield captive
    finally:
        (device.root / "etc/beamfleet/agent.toml").write_text(settings)
        broker.close()
        front.close()
