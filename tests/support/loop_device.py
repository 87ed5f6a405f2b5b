"""A loop device as a card in a reader: attached, pulled out in the middle of a write, put in again, perhaps elsewhere.

What a pull leaves is what a card has: the bytes that it took before stay in its file, and the node ends at once.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

_SET_STATUS, _GET_STATUS = 0x4C04, 0x4C05
_INFO = struct.Struct("<5Q 4I 64s 64s 32s 2Q")
_SIZE_LIMIT = 4
_TOOLS = {"losetup": "mount", "sfdisk": "fdisk", "mkfs.ext4": "e2fsprogs", "mkswap": "util-linux"}


def missing() -> str:
    """Why there can be no loop devices here; "" when there can."""
    if os.geteuid() != 0:
        return "only root can attach loop devices"
    if lacking := sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None}):
        return f"missing Debian packages: {' '.join(lacking)}"
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices"


class Card:
    """A device over the file `backing`, of `size` bytes that are all there."""

    def __init__(self, backing: Path, size: int) -> None:
        self.backing = backing
        if not backing.exists():
            with backing.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        self.node = Path()
        self.attach()

    def attach(self, *options: str) -> None:
        """Put it in: at the first free node."""
        command = ["losetup", "--find", "--show", *options, str(self.backing)]
        self.node = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())

    def detach(self) -> None:
        """Out, when nobody uses it; else when its last user has gone."""
        subprocess.run(["losetup", "--detach", str(self.node)], check=False, capture_output=True)

    def pull(self) -> None:
        """From now on no byte is taken or given, whoever has it open."""
        self._end_at(4096)

    def _end_at(self, size: int) -> None:
        device = os.open(self.node, os.O_RDWR)
        try:
            info = list(_INFO.unpack(fcntl.ioctl(device, _GET_STATUS, bytes(_INFO.size))))
            info[_SIZE_LIMIT] = size
            fcntl.ioctl(device, _SET_STATUS, _INFO.pack(*info))
        finally:
            os.close(device)
