"""A fleet's centre as histories see it: what happens to it, and what became of it. Stores stand behind it in tests.

A history is a list of `Op`; `apply` does one to a `World`. What a world came to is its `Outcome`, in names that no
database chooses, so that two worlds can be compared.

Every op has its own `now`. The order inside one op, which matters where two rollouts meet:

1. reports are taken: of two of a device the one with the higher (boot, seq) counts
2. `observed` for every heard membership (of the devices of the report; of all for a look)
3. not for a report: devices join, the rollout of the highest rank first
4. what to run is resolved for pending members that have none and whose device has said what it is; these are observed
5. every rollout concerned, by number: `decide` and what it orders, until it orders nothing
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from beamfleet_server.fleet.plan import Plan

PRODUCT = "sensor-gateway"
PLAIN, BOARD, ARM = "x86_64-glibc-otp25", "x86_64-glibc-otp25-kiosk", "aarch64-glibc-otp25"


def manifest_of(version: str, target: str = PLAIN) -> str:
    """A manifest's hash as far as histories need one; `tests.support.fleet_store` has the same."""
    return f"{version}{target}".encode().hex().ljust(64, "0")[:64]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the inventory of a device says."""

    arch: str = "x86_64"
    libc: str = "glibc"
    hardware: str = ""
    timezone: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """A state of a device. failed: (manifest, attempt, cause); update: (phase, manifest, attempt, reason)."""

    boot: int
    seq: int
    machine: Machine
    product: str = ""
    version: str = ""
    manifest: str = ""
    phase: str = "none"
    attempt: int = 0
    failed: tuple[str, int, str] | None = None
    update: tuple[str, str, int, str] | None = None

    def changes(self) -> dict[str, Any]:
        """What makes a message for `up/state` of it: `mqtt_device.state(boot, seq, **changes)`."""
        failed = "" if self.failed is None else f"{self.failed[0][:32]}:{self.failed[1]}:{self.failed[2]}"
        work = None
        if self.update is not None:
            phase, manifest, attempt, reason = self.update
            work = {"phase": phase, "manifest": manifest, "attempt": attempt, "reason": reason, "detail": ""}
            work |= {"product": PRODUCT, "version": "9.9.9"}
        machine = self.machine
        inventory = {"arch": machine.arch, "libc": machine.libc, "hardware": machine.hardware}
        inventory |= {"timezone": machine.timezone, "network": machine.network}
        return {
            "slot": self.manifest[:32],
            "product": self.product,
            "version": self.version,
            "manifest": self.manifest,
            "phase": self.phase,
            "attempt": self.attempt,
            "failed": failed,
            "update": work,
            "inventory": inventory,
        }


@dataclass(frozen=True, slots=True)
class Publish:
    """A release with its bundles."""

    version: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Enrol:
    """A device is there; it has not said anything."""

    device: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """Labels change; a value of None takes one away. A look follows."""

    device: str
    labels: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """A device is to be left alone: a member that is pending or has not swapped is skipped (and held)."""

    device: str


@dataclass(frozen=True, slots=True)
class Unpin:
    """Not any more."""

    device: str


@dataclass(frozen=True, slots=True)
class Online:
    """A device comes or goes: presence, in the session of this number."""

    device: str
    online: bool
    session: int


@dataclass(frozen=True, slots=True)
class Reports:
    """States arrive in one batch, and what they concern is advanced at once."""

    said: tuple[tuple[str, Said], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """The slow look at everything."""


@dataclass(frozen=True, slots=True)
class Start:
    """An operator starts a rollout. Rollouts are numbered from 1 as they are accepted."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Act:
    """An operator's word about a rollout: `pause`, `resume`, `approve`, `abort`, `undo`, `retry` (all that failed)."""

    word: str
    rollout: int


@dataclass(frozen=True, slots=True)
class Lift:
    """A person lifts the quarantine of a version."""

    version: str


@dataclass(frozen=True, slots=True)
class Restart:
    """The server is killed and started again: nothing but rows is left."""


Event = Publish | Enrol | Label | Pin | Unpin | Online | Reports | Look | Start | Act | Lift | Restart


@dataclass(frozen=True, slots=True)
class Op:
    """Something that happens at `now` (Unix seconds)."""

    now: int
    event: Event


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of everything.

    rollouts: (progress, phase index, gate) by number. members: (state, reason, attempt, phase index or None, tries) by
    (rollout, device). told: by device, what its assignments said, in order: (version, attempt), ("", 0) for a hold. Of
    the assignments that one op signs for a device only the last one is told, and of equal holds in a row the first.
    quarantine: manifests. refused: the indices of the ops that were refused.
    """

    rollouts: Mapping[int, tuple[str, int, str]] = field(default_factory=dict)
    members: Mapping[tuple[int, str], tuple[str, str, int, int | None, int]] = field(default_factory=dict)
    told: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    quarantine: frozenset[str] = frozenset()
    refused: frozenset[int] = frozenset()


class World(Protocol):
    """Something that keeps a fleet."""

    def apply(self, op: Op) -> bool:
        """Let it happen; False if it was refused, and nothing changed."""

    def outcome(self) -> Outcome:
        """What became of everything; `refused` is kept by whoever applies."""


def replay(ops: list[Op], world: World) -> Outcome:
    """Everything that happened, once more, in another world."""
    refused = frozenset(index for index, op in enumerate(ops) if not world.apply(op))
    came_to = world.outcome()
    return Outcome(came_to.rollouts, came_to.members, came_to.told, came_to.quarantine, refused)
