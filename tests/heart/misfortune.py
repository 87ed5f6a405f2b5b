"""What happens to a device in life: its release does something silly, a process is killed, the power goes.

Each function has it happen and returns at once; whoever calls looks at what comes of it. The release has to have been
started with the arguments `ORDERS`, which have it do what `order` asks.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.heart.device import descendants, working_in
from tests.support.fleet import Device


def order(device: Device, expressions: str) -> None:
    """Have the running VM evaluate Erlang expressions, each with its full stop."""
    made = device.path("data/order.new")
    made.write_text(expressions)
    made.rename(device.path("data/order"))


def strike(device: Device, number: signal.Signals) -> None:
    """Send the VM a signal."""
    pid = device.vm_pid()
    assert pid
    os.kill(pid, number)


def kill_launcher(device: Device) -> None:
    """SIGKILL to the launcher."""
    pid = device.launcher_pid()
    assert pid
    os.kill(pid, signal.SIGKILL)


def operate(device: Device, verb: str) -> None:
    """What somebody at the device types: `beamfleet-agent VERB`."""
    words = [str(Path(sys.executable).parent / "beamfleet-agent"), verb, "--root", str(device.root)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def cut_power(device: Device) -> None:
    """End everything of the device at once, and have it find another boot of the machine."""
    assert device._init
    victims = [device._init.pid, *descendants(device._init.pid), *working_in(device.root)]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    device._init.wait()
    path = device.path("boot/state")
    lines = [line for line in path.read_text().splitlines() if not line.startswith("checksum=")]
    lines = [f"boot_id={'0' * 36}" if line.startswith("boot_id=") else line for line in lines]
    body = "".join(f"{line}\n" for line in lines)
    path.write_text(f"{body}checksum={hashlib.sha256(body.encode()).hexdigest()}\n")
    for name in ("app", "."):
        for stale in (device.root / "var/run/beamfleet/main" / name).glob("*.*"):
            stale.unlink()
    device.start()
