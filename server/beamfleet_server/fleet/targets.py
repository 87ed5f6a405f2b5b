"""Owns the choice of a bundle for a device: one release has one bundle per target."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from beamfleet_bundles.names import Target


class HasTarget(Protocol):
    """Something made for a target, such as a bundle."""

    @property
    def target(self) -> str:
        """`ARCH-LIBC-otpN[-HARDWARE]`."""


B = TypeVar("B", bound=HasTarget)


def choose(bundles: Iterable[B], inventory: Mapping[str, Any]) -> B | None:
    """The bundle for a device with this inventory (`arch`, `libc`, `hardware`): its own hardware first, then the
    newest OTP."""
    fitting = []
    for bundle in bundles:
        target = Target.parse(bundle.target)
        same_machine = (target.arch, target.libc) == (inventory.get("arch"), inventory.get("libc"))
        if same_machine and target.hardware in (None, inventory.get("hardware") or None):
            fitting.append(((target.hardware is not None, target.otp), bundle))
    return max(fitting, key=lambda each: each[0])[1] if fitting else None
