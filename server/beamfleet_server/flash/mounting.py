"""Owns mounting where nobody else sees it: in a mount name space of this thread, which the kernel takes away, and with
it what is mounted in there, when the last process in it is gone. So nothing is left mounted by whoever is killed.
"""

import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beamfleet_server.flash.errors import FlashError

PLACE = Path("/run/beamfleet/flash")
"""Where it is mounted. The empty directory stays: removing it would unmount what another flash has there."""
_NEW_NAMESPACE = 0x20000
_NO_SETUID, _NO_DEVICES, _READ_ONLY, _RECURSIVE, _SLAVE, _DETACH = 2, 4, 1, 0x4000, 1 << 19, 2
_LAST_USE_S = 10.0
_AS_IT_LIES = {"ext4": "noload", "xfs": "norecovery,nouuid", "btrfs": "rescue=nologreplay", "f2fs": "norecovery"}
_FOR_GOOD = {"xfs": "nouuid"}

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_namespace() -> Iterator[None]:
    """Mounts of this thread and its children are their own from here on; the host's stay visible, and what is
    unmounted there is unmounted here."""
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            PLACE.mkdir(parents=True, exist_ok=True, mode=0o700)
            _checked(_libc.unshare(_NEW_NAMESPACE))
            _checked(_libc.mount(b"none", b"/", None, _RECURSIVE | _SLAVE, None))
        except OSError as error:
            raise FlashError(
                "flash.not_permitted",
                f"nothing can be mounted here: {error.strerror}",
                "run it as root, outside of containers or in one that may mount (CAP_SYS_ADMIN)",
            ) from None
        try:
            yield
        finally:
            _checked(_libc.setns(before, _NEW_NAMESPACE))
            os.fchdir(here)
    finally:
        os.close(before)
        os.close(here)


@contextmanager
def mounted(node: Path, kind: str, *, writable: bool) -> Iterator[Path]:
    """The file system of a block device. To be written: its journal is replayed. To be looked at: not a byte of it
    changes, and what its journal has to say is not heard."""
    flags = _NO_SETUID | _NO_DEVICES | (0 if writable else _READ_ONLY)
    options = (_FOR_GOOD if writable else _AS_IT_LIES).get(kind, "")
    try:
        _checked(_libc.mount(bytes(node), bytes(PLACE), kind.encode(), flags, options.encode() or None))
    except OSError as error:
        raise FlashError(
            "flash.mount",
            f"its {kind} cannot be mounted: {error.strerror}",
            f"look at it with fsck.{kind}; the kernel's log (dmesg) says more",
        ) from None
    try:
        yield PLACE
    finally:
        _unmount()


def _unmount() -> None:
    """What was started in there may end a moment later than it said; what stays is not waited for."""
    end = time.monotonic() + _LAST_USE_S
    while _libc.umount2(bytes(PLACE), 0) != 0:
        code = ctypes.get_errno()
        if code != errno.EBUSY or time.monotonic() > end:
            _libc.umount2(bytes(PLACE), _DETACH)
            raise FlashError(
                "flash.mount",
                f"what was mounted cannot be unmounted: {os.strerror(code)}",
                "something that the package started goes on running in there; end it, and flash again",
            )
        time.sleep(0.02)


def _checked(answer: int) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
