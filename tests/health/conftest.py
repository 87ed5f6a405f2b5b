"""What the suite stands on: a fleet with a real server, and real devices that run a release which gets ill on demand.

`lab_relx` and `lab_mix` have knobs (`tests/support/releases/lab`); nothing of what the device says of them is made up.
"""

import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.health.chart import Chart
from tests.rollout.simulated import Api
from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet

LABS = ("lab_relx", "lab_mix")
VERSION = "1.0.0"
TURN_S = 60
OF_THIS_MACHINE = ("host_memory", "disk", "inodes", "temperature", "memory")
"""Checks that judge the machine that the tests run on: off, whatever it has left."""


def product(lab: str) -> str:
    """The product that a lab is pushed as."""
    return lab.replace("_", "-")


def device(fleet: Fleet, name: str, lab: str, interval_s: int, **more: Any) -> Chart:
    """A new device for a lab, which it does not have yet; it carries the label `lab`."""
    made = fleet.flash(name, port_name="LAB_PORT", health_interval_s=interval_s, labels={"lab": lab}, **more)
    return Chart(Api(fleet), made)


def push(fleet: Fleet, lab: str, *words: str, devices: int = 1) -> None:
    """Have every device of a lab run it; `words` are further ones of the command line."""
    source = str(tarball(lab, VERSION))
    fleet.cli("push", source, "-l", f"lab={lab}", "--canary", str(devices), "--timeout", "120", *words)


def turn(device: Device, *knobs: str) -> None:
    """Turn knobs of the release that runs there, one after the other."""
    for knob in knobs:
        with urllib.request.urlopen(f"http://127.0.0.1:{device.http_port}/{knob}", timeout=TURN_S) as answer:
            assert answer.status == 200, knob


def configure(work: Path, thresholds: Mapping[str, int]) -> None:
    """Write the server's file of settings, before it is started for the first time."""
    data = work / "server"
    data.mkdir(parents=True, mode=0o700)
    off = {f"{check}_{level}": 0 for check in OF_THIS_MACHINE for level in ("degraded", "failing")}
    lines = [f"{name} = {value}" for name, value in {**off, **thresholds}.items()]
    (data / "beamfleet-server.toml").write_text("\n".join(["[health]", *lines, ""]))
