"""Owns the disk that remembers: one file that a loop device stands on, and the one ordered log of what happened to it.

    python -m tests.crash.disk MOUNTPOINT IMAGE LOG

serves, until it is unmounted, `MOUNTPOINT/disk` with the content of IMAGE and `MOUNTPOINT/marks`. Each write and each
flush of the one, and each line written to the other, goes into LOG in the order in which they came. It must be a
process of its own: whoever waits for the disk cannot serve it. One thread, so that an answer given is an order kept.
"""

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("<cQI")
DISK, MARKS = "disk", "marks"


@dataclass(frozen=True, slots=True)
class Write:
    """`data` was written at `offset`."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """All that was written before is durable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody said who watched."""

    text: str


Entry = Write | Flush | Mark


def read(log: Path) -> Iterator[Entry]:
    """What happened, in order."""
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            kind, offset, size = _HEAD.unpack(head)
            data = file.read(size)
            match kind:
                case b"W":
                    yield Write(offset, data)
                case b"F":
                    yield Flush()
                case b"M":
                    yield Mark(data.decode())
                case _:
                    raise ValueError(f"the log has a {kind!r}")


def serve(mountpoint: str, image: str, log_path: str) -> None:
    """Until somebody unmounts it. Says `ready` on standard output once it can be opened."""
    import mfusepy  # type: ignore[import-untyped]  # only here: it loads libfuse

    medium = os.open(image, os.O_RDWR)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def note(kind: bytes, offset: int = 0, data: bytes = b"") -> None:
        os.writev(log, [_HEAD.pack(kind, offset, len(data)), data])

    class Files(mfusepy.Operations):  # type: ignore[misc]
        """Two files; a handle is 1 for the disk and 2 for the marks."""

        use_ns = True

        def init(self, _path: str) -> None:
            print("ready", flush=True)

        def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
            if path not in {f"/{DISK}", f"/{MARKS}"}:
                raise OSError(errno.ENOENT, path)
            size = os.fstat(medium).st_size if path == f"/{DISK}" else 0
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}

        def open(self, path: str, _flags: int) -> int:
            return 1 if path == f"/{DISK}" else 2

        def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
            return os.pread(medium, size, offset) if handle == 1 else b""

        def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
            if handle == 1:
                note(b"W", offset, data)
                return os.pwrite(medium, data, offset)
            note(b"M", 0, data)
            return len(data)

        def fsync(self, _path: str, _data_only: int, handle: int) -> int:
            if handle == 1:
                note(b"F")
            return 0

    big = {"big_writes": True} if mfusepy.fuse_version_major == 2 else {}  # else by 4 KiB; libfuse3 always writes so
    mfusepy.FUSE(Files(), mountpoint, foreground=True, nothreads=True, direct_io=True, **big)


if __name__ == "__main__":
    serve(*sys.argv[1:])
