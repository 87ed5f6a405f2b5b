"""Owns whether a release can run on this device: machine, C library, board, agent, shared libraries.

Asked before the download, not after the crash. Libraries are looked for the way the loader does it: by loading them.
"""

import ctypes
from collections.abc import Iterable

from beamfleet_bundles.assignment import DeviceFacts, check_fit
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.manifest import MIN_AGENT_PROBES

from beamfleet_agent import inventory


def check(facts: Facts, hardware: str) -> None:
    """Errors `assignment.wrong_target|wrong_hardware|old_libc|old_otp|old_agent|missing_library`."""
    system = inventory.c_library()
    device = DeviceFacts(inventory.architecture(), system[0], system[1] or None, hardware or None, MIN_AGENT_PROBES)
    check_fit(facts, device)  # before any library of another machine is looked for
    check_fit(facts, device, tuple(missing(facts.custom.libraries)))


def missing(libraries: Iterable[str]) -> Iterable[str]:
    """Those of `libraries` that the loader does not find."""
    for name in libraries:
        try:
            ctypes.CDLL(name)
        except OSError:
            yield name
