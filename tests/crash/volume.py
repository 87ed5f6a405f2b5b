"""Owns real file systems on loop devices: makes, attaches, mounts and unmounts them by system calls, without programs.

A loop device here detaches itself when its last user has gone, so that nothing is left behind by whoever is killed.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_GET_FREE, _CONFIGURE, _FLUSH = 0x4C82, 0x4C0A, 0x1261
_AUTOCLEAR, _DIRECT_IO = 4, 16
_LOOP_CONFIG = struct.Struct("<II 5Q 4I 64s 64s 32s 2Q 8Q")
_TRIES = 50
LAST_USE_S = 10.0
NAME_SPACES = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
"""Before a command: whatever it starts, mounts or attaches is gone when it or its parent ends, however they end."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file system: the size of its image in bytes, how it is made, how it is mounted."""

    name: str
    size: int
    mkfs: tuple[str, ...]
    options: str = "nodiscard"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ext4", 24 << 20, ("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-O", "^resize_inode")),
        Kind("xfs", 300 << 20, ("mkfs.xfs", "-q", "-f", "-K")),
        Kind("btrfs", 112 << 20, ("mkfs.btrfs", "-q", "-f", "-K")),
    )
}


def make(kind: Kind, image: Path) -> None:
    """An empty file system in the new sparse file `image`."""
    with image.open("wb") as file:
        file.truncate(kind.size)
    subprocess.run([*kind.mkfs, str(image)], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def loop(backing: Path, *, direct: bool) -> Iterator[int]:
    """A descriptor of a loop device on `backing`; `direct`: nothing lies between the device and the file."""
    file = os.open(backing, os.O_RDWR | os.O_CLOEXEC)
    try:
        device = _attach(file, _AUTOCLEAR | (_DIRECT_IO if direct else 0))
    finally:
        os.close(file)
    try:
        yield device
    finally:
        os.close(device)


def path_of(device: int) -> str:
    """The device node that a descriptor is of."""
    return str(Path(f"/proc/self/fd/{device}").readlink())


def forget(device: int) -> None:
    """Have the kernel write back and drop what it remembers of a device whose file changes underneath."""
    fcntl.ioctl(device, _FLUSH)


@contextmanager
def mounted(device: int, at: Path, kind: Kind) -> Iterator[None]:
    """The file system of `device`, its journal replayed. Error: OSError when it cannot be mounted."""
    _checked(_libc.mount(path_of(device).encode(), bytes(at), kind.name.encode(), 0, kind.options.encode()), at)
    try:
        yield
    finally:
        unmount(at)


def unmount(at: Path) -> None:
    """Error: OSError, EBUSY when somebody goes on using it: what a launcher started may end a moment after it."""
    end = time.monotonic() + LAST_USE_S
    while _libc.umount2(bytes(at), 0) != 0:
        if ctypes.get_errno() != errno.EBUSY or time.monotonic() > end:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(at))
        time.sleep(0.01)


def bind(source: Path, at: Path) -> None:
    """Show one file in the place of another."""
    _checked(_libc.mount(bytes(source), bytes(at), None, 0x1000, None), at)


def why_not(kind: Kind, room: Path) -> str:
    """Why this kind cannot be recorded and replayed here; empty when it can."""
    if os.geteuid() != 0:
        return "only root may mount"
    for node in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(node, os.R_OK | os.W_OK):
            return f"{node} cannot be opened"
    try:
        import mfusepy  # type: ignore[import-untyped]  # noqa: F401
    except (ImportError, OSError) as error:
        return f"no FUSE: {error}"
    for program in (kind.mkfs[0], "setpriv", "unshare"):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"there is no {program}"
    probe = subprocess.run([*NAME_SPACES, "true"], capture_output=True, text=True)
    if probe.returncode:
        return f"no name spaces: {probe.stderr.strip()}"
    image, at = room / f"probe-{kind.name}", room / f"probe-{kind.name}.mount"
    try:
        at.mkdir(exist_ok=True)
        make(kind, image)
        with loop(image, direct=False) as device, mounted(device, at, kind):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{kind.name} cannot be made or mounted: {error}"
    finally:
        image.unlink(missing_ok=True)


def _attach(file: int, flags: int) -> int:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            words = [file, 0, *[0] * 5, *[0] * 3, flags, b"", b"", b"", 0, 0, *[0] * 8]
            try:
                fcntl.ioctl(device, _CONFIGURE, _LOOP_CONFIG.pack(*words))
                return device
            except OSError as error:  # somebody else was faster
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")


def _checked(answer: int, path: Path) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
