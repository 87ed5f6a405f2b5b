"""Owns what this device is: machine, C library, kernel, system, room. Reads /proc and friends; never changes anything.

Part of the resident agent; what only the worker needs to know (shared libraries) is in worker/fitness.py.
"""

import os
import sys
from typing import NamedTuple

from beamfleet_bundles.filesystem import mount_of

from beamfleet_agent import __version__, place

ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}


class Inventory(NamedTuple):
    """The facts that every state report carries; sizes in bytes."""

    agent: str
    arch: str
    libc: str
    libc_version: str
    machine: str
    hardware: str
    kernel: str
    os: str
    python: str
    filesystem: str
    unsafe_filesystem: bool
    free_bytes: int
    cpus: int
    memory_bytes: int
    timezone: str = ""
    network: str = "unknown"


def take(slots: str, hardware: str = "", network: str = "") -> Inventory:
    """The inventory of this device; `slots` is the directory whose filesystem counts, `network` the owner's word."""
    system = os.uname()
    libc, libc_version = c_library()
    mount = mount_of(slots)
    disk = os.statvfs(slots)
    here = place.look(network)
    return Inventory(
        agent=__version__,
        arch=architecture(),
        libc=libc,
        libc_version=libc_version,
        machine=board(),
        hardware=hardware,
        kernel=system.release,
        os=os_name(),
        python=".".join(map(str, sys.version_info[:3])),
        filesystem=mount.kind,
        unsafe_filesystem=not mount.safe,
        free_bytes=disk.f_bavail * disk.f_frsize,
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        timezone=here.timezone,
        network=here.network,
    )


def architecture() -> str:
    """The machine as targets name it, such as `x86_64` or `aarch64`."""
    machine = os.uname().machine
    return ARCHES.get(machine, machine)


def c_library() -> tuple[str, str]:
    """("glibc", "2.36") or ("musl", "")."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return "musl", ""
    return ("glibc", version) if name == "glibc" else ("musl", "")


def board() -> str:
    """What the firmware calls this machine; empty when it does not say."""
    for path in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        try:
            with open(path, "rb") as file:
                return file.read(128).rstrip(b"\0\n ").decode("utf-8", "replace")
        except OSError:
            continue
    return ""


def os_name() -> str:
    """PRETTY_NAME of /etc/os-release."""
    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition("=")
                if key == "PRETTY_NAME":
                    return value.strip().strip('"')[:128]
    except OSError:
        pass
    return os.uname().sysname
