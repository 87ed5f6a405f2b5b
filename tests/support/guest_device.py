"""A packaged device in a virtual machine, as one works with it over the console. The machine is the caller's."""

import hashlib
import json
from pathlib import Path
from typing import Any

from beamfleet_agent import journal
from beamfleet_agent.boot import BootState, parse
from beamfleet_agent.update_state import State

from tests.support import device_disk
from tests.support.console import Console
from tests.support.packaged import APP, BUNDLES, RUN, VAR, Shipped, Workshop

STARTED_S = 60
SETUP = "/srv/setup.json"
"""What `setup` is given, on the device's disk."""
_AGENT = "setpriv --reuid beamfleet --regid beamfleet --init-groups beamfleet-agent"
_VERIFY = (
    "from beamfleet_agent.slots import *; "
    f"s = Slots('{APP}/slots', '{APP}/staging'); print(sorted(s.verify(n).id for n in present('{APP}/slots')))"
)


def guest_disk(workshop: Workshop, work: Path, **words: Any) -> Path:
    """A disk with the package and all bundles that were shipped, for devices that are laid down with these words."""
    setup = work / "setup.json"
    setup.write_text(json.dumps(workshop.words(**words)))
    disk = device_disk.make(workshop.base, work / "disk")
    device_disk.write(disk, setup, SETUP)
    return disk


class GuestDevice:
    """The device whose console this is."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def flash(self) -> None:
        """Lay the device down, once."""
        self.console.run(f"beamfleet-agent setup <{SETUP} >/dev/null && sync", 60)

    def switch_on(self, *, agent: bool = True) -> int:
        """Start what an init would start; the position on the console where it began."""
        before = self.console.position
        self.console.run("device_on" + " beamfleet" * agent)
        if agent:
            self.console.run(f"until [ -S {RUN}/agent.sock ]; do sleep 0.1; done", STARTED_S)
        return before

    def begin_install(self, shipped: Shipped) -> None:
        """`beamfleet-agent install`, not waited for."""
        self.console.run(f"{_AGENT} install {BUNDLES}/{shipped.name} >/run/install 2>&1 &")

    def install(self, shipped: Shipped, deadline_s: float) -> None:
        """The same, until it is committed."""
        self.console.run(f"{_AGENT} install {BUNDLES}/{shipped.name} >/run/install 2>&1", deadline_s)

    def file(self, path: str) -> str:
        """The contents of a text file, which is short when the device is on; "" when it is not there."""
        return self.console.run(f"cat {path} 2>/dev/null", ok=(0, 1))

    def state(self) -> BootState:
        """boot/state; AssertionError when it is not whole."""
        text = self.file(f"{APP}/boot/state")
        body, _, checksum = text.rpartition("checksum=")
        assert hashlib.sha256(body.encode()).hexdigest() == checksum, f"boot/state is damaged:\n{text}"
        return parse(text.encode())

    def journal(self) -> State:
        """The journal of a device that is off; AssertionError when it is not whole."""
        text = self.file(f"{VAR}/journal")
        decoded = journal.decode(text.encode())
        assert decoded is not None, f"the journal is damaged:\n{text}"
        return decoded[0]

    def answer(self, deadline_s: float) -> dict[str, Any]:
        """What the release says, as soon as it does."""
        said: dict[str, Any] = json.loads(self.console.run("answer", deadline_s))
        return said

    def sound_slots(self) -> str:
        """The slots that are there, each hashed anew; GuestError when one is not as it was signed."""
        return self.console.run(f'/usr/lib/beamfleet/python/bin/python3 -I -c "{_VERIFY}"', 60)

    def pid(self, name: str) -> int:
        """The process that wrote its pid as `name`.pid."""
        return int(self.file(f"{RUN}/main/{name}.pid"))
