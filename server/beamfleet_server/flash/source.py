"""Owns the reading of image files: as they are, or unpacked into a file without a name that is gone with its process.

Kinds of compression are told by their first bytes, never by a name. What unpacks has no end that one could trust, so
its size is bounded by who asks. Writes to no image and to no device.
"""

import bz2
import fcntl
import gzip
import hashlib
import io
import lzma
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.target import Progress

SPACE = Path("/var/tmp")  # noqa: S108 (unpacked images have no name there)
_PIECE = 4 << 20
_HEAD = 1 << 20
_MAGIC = {
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
}
_DAMAGED = (OSError, EOFError, ValueError, lzma.LZMAError, zipfile.BadZipFile, zstd.ZstdError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Source:
    """An image that can be read: a descriptor of its bytes, their number, and what tells it from every other image."""

    name: str
    descriptor: int
    size: int
    identity: str

    @property
    def path(self) -> Path:
        """Where programs of this machine find the bytes while the source is open."""
        return Path(f"/proc/{os.getpid()}/fd/{self.descriptor}")


@contextmanager
def opened(path: Path, limit: int, progress: Progress) -> Iterator[Source]:
    """The image at `path`, unpacked if it is compressed; `flash.image` when it cannot be read, `flash.device_small`
    when it unpacks to more than `limit` bytes."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    with file, ExitStack() as held:
        if not path.is_file():
            raise _unreadable(path, "it is no file")
        held.enter_context(locked(path, fcntl.LOCK_SH))
        kind, identity = compression_of(file), _identity(file)
        if not kind:
            yield _source(path, file, identity)
            return
        with _scratch() as unpacked:
            _unpack(path, file, kind, unpacked, limit, progress)
            yield _source(path, unpacked, identity)


@contextmanager
def locked(path: Path, operation: int) -> Iterator[None]:
    """Keep other flashes away from an image. The lock has a descriptor of its own: one that a loop device was made of
    would stay locked as long as that, and nobody could clear what a killed flash has left."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
        except OSError:
            raise FlashError(
                "flash.image_busy", f"{path} is being flashed by somebody else", "wait until that has ended"
            ) from None
        yield


def compression_of(file: IO[bytes]) -> str:
    """xz, zstd, gzip, zip or bzip2; "" for bytes as they are."""
    head = os.pread(file.fileno(), 16, 0)
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def _source(path: Path, file: IO[bytes], identity: str) -> Source:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise _unreadable(path, "it is empty")
    return Source(path.name, file.fileno(), size, identity)


def _identity(file: IO[bytes]) -> str:
    """By the file and when it was changed, and by its beginning, where partition tables have their random ids."""
    known = os.fstat(file.fileno())
    told = hashlib.sha256(f"{known.st_size} {known.st_mtime_ns} ".encode())
    told.update(os.pread(file.fileno(), _HEAD, 0))
    return told.hexdigest()


def _scratch() -> IO[bytes]:
    room = Path(os.environ.get("TMPDIR") or SPACE)
    try:
        return tempfile.TemporaryFile(dir=room, buffering=0)
    except OSError as error:
        raise FlashError(
            "flash.space", f"nothing can be unpacked in {room}: {error.strerror}", "let TMPDIR name another directory"
        ) from None


def _unpack(path: Path, packed: io.FileIO, kind: str, into: IO[bytes], limit: int, progress: Progress) -> None:
    total, size = os.fstat(packed.fileno()).st_size, 0
    pieces = _pieces(packed, kind)
    while True:
        try:
            piece = next(pieces, b"")
        except _DAMAGED as error:
            raise _unreadable(path, f"what is compressed in it is damaged: {error}") from None
        if not piece:
            break
        size += len(piece)
        if size > limit:
            raise FlashError(
                "flash.device_small", f"{path} unpacks to more than {limit} bytes, and no more fit", "take a larger one"
            )
        _append(into, piece)
        progress(f"unpack {path.name}", packed.tell(), total)
    into.truncate(size)


def _append(into: IO[bytes], piece: bytes) -> None:
    try:
        if piece.count(0) == len(piece):
            into.seek(len(piece), os.SEEK_CUR)
            return
        rest = memoryview(piece)
        while rest:
            rest = rest[into.write(rest) :]
    except OSError as error:
        raise FlashError(
            "flash.space",
            f"the image cannot be unpacked: {error.strerror}",
            "let TMPDIR name a directory with room for all of it, or unpack it by hand",
        ) from None


def _pieces(packed: io.FileIO, kind: str) -> Iterator[bytes]:
    if kind == "zip":
        with zipfile.ZipFile(packed) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            images = [member for member in members if member.filename.endswith((".img", ".wic", ".raw"))] or members
            if len(images) != 1:
                raise ValueError(f"it holds {len(images)} images, not one")
            with archive.open(images[0]) as member_file:
                yield from iter(lambda: member_file.read(_PIECE), b"")
        return
    with _stream(packed, kind) as stream:
        yield from iter(lambda: stream.read(_PIECE), b"")


def _stream(packed: io.FileIO, kind: str) -> io.BufferedIOBase:
    match kind:
        case "xz":
            return lzma.LZMAFile(packed)
        case "zstd":
            return zstd.ZstdFile(packed)
        case "gzip":
            return gzip.GzipFile(fileobj=packed)
        case _:
            return bz2.BZ2File(packed)


def _unreadable(path: Path, why: str) -> FlashError:
    return FlashError("flash.image", f"{path} cannot be read as an image: {why}", "give the file of a raw disk image")
