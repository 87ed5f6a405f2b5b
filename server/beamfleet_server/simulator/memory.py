"""Owns what a simulated device keeps over its power cuts and over runs of the simulator, and its file. No behaviour.

One JSON file for the fleet, replaced as a whole now and then and at the end. After a kill -9 of the simulator the
devices are as they were at the last writing: like devices whose disks were restored from a copy.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from beamfleet_bundles import durable

FILE = "devices.json"
SPENT = 16


class Release(msgspec.Struct, frozen=True):
    """What a slot holds."""

    manifest: str
    product: str
    version: str
    floor: int = 0

    @property
    def slot(self) -> str:
        """The slot's name."""
        return self.manifest[:32]


def unheard_of(product: str, version: str, target: str) -> Release:
    """A release that nobody has signed: what runs on a device that was flashed by hand."""
    return Release(hashlib.sha256(f"{product} {version} {target}".encode()).hexdigest(), product, version)


class Update(msgspec.Struct):
    """The update that is under way or was the last, as state messages have it."""

    phase: str = "idle"
    product: str = ""
    version: str = ""
    manifest: str = ""
    attempt: int = 0
    reason: str = ""
    detail: str = ""


class Memory(msgspec.Struct):
    """`boot/state` and the journal of one device. installs: how often it swapped to `MANIFEST:ATTEMPT`."""

    boot: int = 0
    machine: str = ""
    slot: str = ""
    previous: str = ""
    phase: str = "none"
    attempt: int = 0
    cause: str = ""
    failed: str = ""
    starts: int = 0
    power_losses: int = 0
    sequence: int = 0
    update: Update = msgspec.field(default_factory=Update)
    releases: dict[str, Release] = msgspec.field(default_factory=dict)
    floors: dict[str, int] = msgspec.field(default_factory=dict)
    spent: list[tuple[str, int]] = msgspec.field(default_factory=list)
    outbox: list[dict[str, Any]] = msgspec.field(default_factory=list)
    carried: str = ""
    """`MANIFEST:ATTEMPT` of the last order that ended in a commit."""
    installs: dict[str, int] = msgspec.field(default_factory=dict)

    def running(self) -> Release | None:
        """What runs."""
        return self.releases.get(self.slot)

    def spend(self, slot: str, attempt: int) -> None:
        """Quarantine this pair; the oldest is forgotten."""
        if (slot, attempt) not in self.spent:
            self.spent = [*self.spent, (slot, attempt)][-SPENT:]

    def remember(self, release: Release) -> None:
        """Keep what a slot holds, and of the others those that run or ran before."""
        kept = {slot: self.releases[slot] for slot in (self.slot, self.previous) if slot in self.releases}
        self.releases = {**kept, release.slot: release}


def load(directory: Path) -> dict[str, Memory]:
    """What the devices of a state directory keep, by name; {} where nothing was kept, or nothing that is understood."""
    try:
        return msgspec.json.decode((directory / FILE).read_bytes(), type=dict[str, Memory])
    except (OSError, msgspec.DecodeError):
        return {}


def store(directory: Path, memories: dict[str, Memory]) -> None:
    """Write them all down."""
    durable.replace(directory / FILE, msgspec.json.encode(memories), 0o600)
