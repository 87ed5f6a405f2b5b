"""Owns loop devices over a part of an image or disk, by system calls; mounts nothing.

A loop device here detaches itself when its last user is gone, however it went, and bears our name. What a killed flash
has left running, such as dpkg in the middle of its work, still holds one: `clear` finds that, and ends it.
"""

import contextlib
import errno
import fcntl
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.mounting import PLACE

OURS = "beamfleet flash"
PATIENCE_S = 20.0
"""How long what a killed flash has left running may take to end by itself."""
_GET_FREE, _CONFIGURE, _STATUS = 0x4C82, 0x4C0A, 0x4C05
_READ_ONLY, _AUTOCLEAR = 1, 4
_INFO = "5Q 4I 64s 64s 32s 2Q"
_LOOP_INFO, _LOOP_CONFIG = struct.Struct(f"<{_INFO}"), struct.Struct(f"<II {_INFO} 8Q")
_TRIES = 50


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop device that somebody has attached."""

    node: Path
    number: int
    ours: bool


@contextmanager
def attached(backing: int, start: int, size: int, *, writable: bool) -> Iterator[Path]:
    """The node of a loop device over `size` bytes of the open file or block device `backing`."""
    try:
        device, node = _attach(backing, start, size, _AUTOCLEAR | (0 if writable else _READ_ONLY))
    except OSError as error:
        raise FlashError(
            "flash.mount",
            f"no loop device can be had: {error.strerror}",
            "modprobe loop; in a container give it /dev/loop*",
        ) from None
    try:
        yield node
    finally:
        os.close(device)


def refuse_others(backing: int, name: str) -> None:
    """`flash.image_busy` when somebody else has attached the open file `backing`."""
    if others := [loop for loop in loops_of(backing) if not loop.ours]:
        raise FlashError(
            "flash.image_busy",
            f"{name} is attached to {others[0].node} already",
            f"unmount what is mounted of it, then: losetup --detach {others[0].node}",
        )


def clear(backing: int, name: str) -> None:
    """What a killed flash has left of itself is waited for, then ended. Only for who has locked `backing`: it would
    end a flash that lives, too. `flash.image_busy` when something stays."""
    held = _ours(backing)
    for number, patience in ((0, PATIENCE_S), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + patience
        while held:
            for pid in _users(held):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if time.monotonic() > end:
                break
            time.sleep(0.1)
            held = _ours(backing)
        else:
            return
    raise FlashError(
        "flash.image_busy",
        f"an earlier flash of {name} still has {held[0].node}",
        f"losetup --detach {held[0].node}; if that does not help, it is free after a reboot",
    )


def _ours(backing: int) -> list[Loop]:
    return [loop for loop in loops_of(backing) if loop.ours]


def loops_of(backing: int) -> list[Loop]:
    """The loop devices over an open file or block device."""
    known = os.fstat(backing)
    found = []
    for place in sorted(Path("/sys/block").glob("loop*/loop")):
        node = Path("/dev", place.parent.name)
        with contextlib.suppress(OSError):
            device = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                info = _LOOP_INFO.unpack(fcntl.ioctl(device, _STATUS, bytes(_LOOP_INFO.size)))
                number = os.fstat(device).st_rdev
            finally:
                os.close(device)
            if (info[0], info[1]) == (_kernel_device(known.st_dev), known.st_ino):
                found.append(Loop(node, number, info[9].rstrip(b"\0") == OURS.encode()))
    return found


def _attach(backing: int, start: int, size: int, flags: int) -> tuple[int, Path]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            node = Path(f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}")
            device = os.open(node, os.O_RDONLY if flags & _READ_ONLY else os.O_RDWR)
            words = [backing, 0, 0, 0, 0, start, size, 0, 0, 0, flags, OURS.encode(), b"", b"", 0, 0, *[0] * 8]
            try:
                fcntl.ioctl(device, _CONFIGURE, _LOOP_CONFIG.pack(*words))
                return device, node
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # else somebody was faster
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "all are taken")


def _kernel_device(number: int) -> int:
    """A device number as the kernel writes it into a loop device's status."""
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _users(loops: list[Loop]) -> list[int]:
    """Processes that have one of these mounted where a flash does: only descendants of that can see it. A person who
    has mounted one for all to see is in the same name space as we are, and nobody there is touched."""
    numbers = {f"{os.major(loop.number)}:{os.minor(loop.number)}" for loop in loops}
    ours, found = Path("/proc/thread-self/ns/mnt").stat().st_ino, []
    for place in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            mounts = [line.split()[2:5] for line in place.read_text(errors="replace").splitlines()]
            if (place.parent / "ns/mnt").stat().st_ino != ours and any(
                number in numbers and where == str(PLACE) for number, _, where in mounts
            ):
                found.append(int(place.parent.name))
    return found
