"""A release from a stick against the order that the broker keeps: what a person installs at the device stays.

One device, one server, real BEAMs. The device hears the order again at each session and, signed anew, at each proof.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for

pytestmark = pytest.mark.timeout(600)

PRODUCT = "sensor-gateway"


def agent(device: Device, *words: str) -> dict[str, Any]:
    program = Path(sys.executable).parent / "beamfleet-agent"
    command = [str(program), *words, "--root", str(device.root), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def journal(device: Device) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((device.root / "var/lib/beamfleet/journal").read_text())["content"]
    return content


def order(device: Device) -> dict[str, Any]:
    """What the newest assignment that was checked says of itself."""
    said: dict[str, Any] = json.loads(journal(device)["accepted"])["signed"]["beamfleet"]
    return said


def on_a_stick(here: Fleet, version: str) -> str:
    folder = here.work / "stick"
    folder.mkdir()
    words = ("bundle", "build", str(tarball("sensor_gateway", version)), "--out", str(folder))
    path = str(here.json(*words)["path"])
    here.cli("bundle", "sign", path)
    return path


def look_for_updates(here: Fleet, device: Device) -> bool:
    """Have the device ask, with a nonce, for its newest assignment; whether it could be told."""
    token = (here.data / "admin.token").read_text().strip()
    address = f"{here.address('operators')}/api/v1/devices/{device.name}/command"
    told = requests.post(
        address, json={"name": "refresh"}, headers={"Authorization": f"Bearer {token}"},
        verify=str(here.data / "ca.pem"), timeout=30,
    )  # fmt: skip
    return told.status_code == 202


def test_what_somebody_installs_from_a_stick_stays_until_there_is_a_new_order(tmp_path: Path) -> None:
    with fleet(tmp_path / "fleet", PRODUCT) as here:
        device = here.flash("gw-1")
        here.wait_online("gw-1")
        push = ("push", str(tarball("sensor_gateway", "1.0.0")), "--all", "--timeout", "120s")
        here.cli(*push)
        ordered = order(device)
        assert agent(device, "install", on_a_stick(here, "1.1.0"))["version"] == "1.1.0"
        starts = device.boot_state()["starts"]

        pid, boot = device.agent_pid(), journal(device)["boot"]
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_for("the next agent", lambda: journal(device)["boot"] > boot, deadline_s=60)
        wait_for("its session", lambda: agent(device, "status").get("session"), deadline_s=60, every_s=0.5)
        wait_for("the question", lambda: look_for_updates(here, device), deadline_s=60, every_s=0.5)
        wait_for("the same order, signed anew", lambda: order(device)["nonce"], deadline_s=60)
        assert order(device)["attempt"] == ordered["attempt"]
        status = agent(device, "status")
        assert (status["version"], status["update"]["phase"], status["update"]["reason"]) == ("1.1.0", "committed", "")
        assert device.boot_state()["starts"] == starts
        assert (journal(device)["update"]["origin"], journal(device)["update"]["version"]) == ("file", "1.1.0")

        here.cli(*push)
        status = agent(device, "status")
        assert (status["version"], status["update"]["phase"]) == ("1.0.0", "committed")
        assert order(device)["attempt"] > ordered["attempt"]
