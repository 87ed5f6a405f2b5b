"""Owns the writing of an image's bytes to a block device, the proof that they are there, and the going on after a pull.

Bytes go past the page cache where the device can do that, 4 MiB at a time, while the next are being read; each 64 MiB
are flushed behind the writer's back and then remembered with their digest in a state file, which is what a second
attempt goes on from. The first bytes, where the partition table is, are written last: half a card looks like an empty
one. Then all is read back from the device and compared with the digests. Never decides whether a device may be written.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beamfleet_bundles import durable

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.source import Source
from beamfleet_server.flash.target import Progress

CHUNK = 4 << 20
SEGMENT = 16 * CHUNK
_AHEAD = 3
_SECTOR = 4096
_FLUSH_CACHE, _SECTOR_SIZE = 0x1261, 0x1268
_STATE_LIMIT = 32 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """What a write came to: bytes of the image, the byte it went on at (0: it began anew), seconds of both parts."""

    size: int
    resumed_at: int
    writing_s: float
    verifying_s: float


@dataclass(slots=True)
class Memory:
    """What is known to be on a device: digests of the segments that were flushed, in a durable file."""

    file: Path
    image: str
    device: str
    size: int
    digests: list[str] = field(default_factory=list)

    def recall(self) -> None:
        """Read what an earlier attempt with the same image and device has left; nothing of any other."""
        try:
            with self.file.open("rb") as file:
                known = json.loads(file.read(_STATE_LIMIT))
            digests = known["digests"]
            if all(known[key] == value for key, value in self._key().items()) and _are_digests(digests):
                self.digests = digests
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self.digests = []

    def keep(self, digests: list[str]) -> None:
        """Make it known that these segments are on the device."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.replace(self.file, json.dumps({**self._key(), "digests": digests}).encode(), 0o600)

    def forget(self) -> None:
        """There is nothing to go on from."""
        self.digests = []
        with contextlib.suppress(FileNotFoundError):
            self.file.unlink()

    def _key(self) -> dict[str, Any]:
        return {"image": self.image, "device": self.device, "size": self.size, "segment": SEGMENT}


def write(source: Source, device: int, name: str, memory: Memory, progress: Progress) -> Written:
    """Make the block device that `device` is a descriptor of, opened for O_DIRECT or not, begin with the image.

    `flash.write_failed` when the device stops taking bytes: what is flushed by then is remembered.
    `flash.verify_failed` when it does not give back what it took.
    """
    began = time.monotonic()
    writer = _Writer(source, device, name, memory, progress)
    resumed = writer.resume()
    digests = writer.run(resumed)
    written = time.monotonic()
    writer.verify(digests)
    memory.forget()
    return Written(source.size, resumed * SEGMENT, written - began, time.monotonic() - written)


class _Writer:
    def __init__(self, source: Source, device: int, name: str, memory: Memory, progress: Progress) -> None:
        self._source, self._device, self._name = source, device, name
        self._memory, self._progress = memory, progress
        self._buffers = [mmap.mmap(-1, CHUNK) for _ in range(_AHEAD + 1)]
        self._digest = hashlib.sha256()
        self._digests: list[str] = []
        self._chunks = -(-source.size // CHUNK)
        self._sector = _sector_of(device)

    def resume(self) -> int:
        """The number of segments that are there already. The last of them is looked for: cards can be exchanged, and
        many readers give all cards one serial number."""
        self._memory.recall()
        segments = min(len(self._memory.digests), self._source.size // SEGMENT)
        if segments >= 2:
            with contextlib.suppress(OSError):
                if self._read_back(segments - 1) == self._memory.digests[segments - 1]:
                    self._digests = self._memory.digests[:segments]
                    return segments
        self._memory.forget()
        return 0

    def run(self, segments: int) -> list[str]:
        """Write from a segment on, and the first chunk last."""
        first = segments * SEGMENT // CHUNK
        head = self._buffers[-1]
        length = self._read(0, head)
        with self._named("written"):
            if first == 0:
                self._put(memoryview(bytes(length)), 0)
            with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as flushing:
                self._stream(first, reading, flushing)
            self._put(memoryview(head)[:length], 0)
            os.fsync(self._device)
        return self._digests

    def verify(self, digests: list[str]) -> None:
        """Read all of it back."""
        with self._named("read back"):
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._device, _FLUSH_CACHE)
            for segment, digest in enumerate(digests):
                if self._read_back(segment) != digest:
                    self._memory.forget()
                    raise FlashError(
                        "flash.verify_failed",
                        f"{self._name} does not give back what was written between bytes {segment * SEGMENT} and "
                        f"{min((segment + 1) * SEGMENT, self._source.size)}",
                        "do not use it; another card, reader or cable may do, and worn-out or forged cards end so",
                    )
                done = min((segment + 1) * SEGMENT, self._source.size)
                self._progress(f"verify {self._name}", done, self._source.size)

    def _stream(self, first: int, reading: ThreadPoolExecutor, flushing: ThreadPoolExecutor) -> None:
        ahead: deque[Future[int]] = deque()
        flushed: Future[None] | None = None
        ring = self._buffers[:_AHEAD]
        todo = iter(range(first, self._chunks))
        for chunk in (next(todo, None) for _ in range(_AHEAD)):
            if chunk is not None:
                ahead.append(reading.submit(self._fill, chunk, ring[chunk % _AHEAD]))
        for chunk in range(first, self._chunks):
            length = ahead.popleft().result()
            if chunk:
                self._put(memoryview(ring[chunk % _AHEAD])[:length], chunk * CHUNK)
            if (following := next(todo, None)) is not None:
                ahead.append(reading.submit(self._fill, following, ring[following % _AHEAD]))
            self._progress(f"write {self._name}", min((chunk + 1) * CHUNK, self._source.size), self._source.size)
            if (chunk + 1) % (SEGMENT // CHUNK) == 0 and (flushed is None or flushed.done()):
                if flushed is not None:
                    flushed.result()
                flushed = flushing.submit(self._flush, self._digests[: (chunk + 1) * CHUNK // SEGMENT])
        if flushed is not None:
            flushed.result()

    def _fill(self, chunk: int, buffer: mmap.mmap) -> int:
        """Read a chunk of the image, in order: it goes into the digest of its segment."""
        length = self._read(chunk * CHUNK, buffer)
        with memoryview(buffer) as view:
            self._digest.update(view[:length])
        if (chunk + 1) % (SEGMENT // CHUNK) == 0 or chunk + 1 == self._chunks:
            self._digests.append(self._digest.hexdigest())
            self._digest = hashlib.sha256()
        return length

    def _read(self, offset: int, buffer: mmap.mmap) -> int:
        """Bytes of the image, filled up with zeros to what a device takes at once."""
        wanted = min(CHUNK, self._source.size - offset)
        try:
            with memoryview(buffer) as view:
                done = 0
                while done < wanted:
                    if not (count := os.preadv(self._source.descriptor, [view[done:wanted]], offset + done)):
                        raise OSError(errno.EIO, "it became shorter")
                    done += count
                length = self._whole(wanted)
                view[wanted:length] = bytes(length - wanted)
        except OSError as error:
            raise FlashError(
                "flash.image", f"{self._source.name} cannot be read at byte {offset}: {error.strerror}", "flash again"
            ) from None
        return length

    def _put(self, view: memoryview, offset: int) -> None:
        if offset == 0 and not isinstance(view.obj, mmap.mmap):  # zeros, which lie anywhere
            aligned = mmap.mmap(-1, len(view))
            aligned[:] = view
            view = memoryview(aligned)
        done = 0
        with view:
            while done < len(view):
                if not (count := os.pwrite(self._device, view[done:], offset + done)):
                    raise OSError(errno.ENOSPC, f"it ends at byte {offset + done}")
                done += count

    def _whole(self, length: int) -> int:
        """That many bytes in whole sectors."""
        return -(-length // self._sector) * self._sector

    def _flush(self, digests: list[str]) -> None:
        os.fdatasync(self._device)
        self._memory.keep(digests)

    def _read_back(self, segment: int) -> str:
        """The digest of a segment as the device has it, with the next bytes on their way while some are counted."""
        start, end = segment * SEGMENT, min((segment + 1) * SEGMENT, self._source.size)
        digest = hashlib.sha256()
        with ThreadPoolExecutor(1) as reading:
            offsets = list(range(start, end, CHUNK))
            ahead = reading.submit(self._get, offsets[0], self._buffers[0])
            for index, offset in enumerate(offsets):
                buffer = self._buffers[index % 2]
                ahead.result()
                if offset + CHUNK < end:
                    ahead = reading.submit(self._get, offset + CHUNK, self._buffers[(index + 1) % 2])
                with memoryview(buffer) as view:
                    digest.update(view[: self._whole(min(CHUNK, end - offset))])
        return digest.hexdigest()

    def _get(self, offset: int, buffer: mmap.mmap) -> None:
        wanted = self._whole(min(CHUNK, self._source.size - offset))
        done = 0
        with memoryview(buffer) as view:
            while done < wanted:
                if not (count := os.preadv(self._device, [view[done:wanted]], offset + done)):
                    raise OSError(errno.ENXIO, f"it ends at byte {offset + done}")
                done += count

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Errors of the device, said so that one knows what to do."""
        try:
            yield
        except OSError as error:
            self._memory.recall()
            kept = len(self._memory.digests) * SEGMENT
            goes_on = f"goes on at byte {kept}" if kept > SEGMENT else "begins anew"
            raise FlashError(
                "flash.write_failed",
                f"{self._name} cannot be {what} any more: {error.strerror}",
                f"see that it is plugged in and sits well, then repeat the command: it {goes_on}",
            ) from None


def _sector_of(device: int) -> int:
    """What the device takes at least at once."""
    answer = bytearray(4)
    try:
        fcntl.ioctl(device, _SECTOR_SIZE, answer)
    except OSError:
        return _SECTOR
    return int.from_bytes(answer, sys.byteorder)


def _are_digests(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and len(one) == 64 for one in value)
