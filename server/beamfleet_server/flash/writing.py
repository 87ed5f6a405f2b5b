"""Owns the writing of an image's bytes to a block device, the proof that they are there, and the going on after a pull.

Bytes go past the page cache where the device can do that, 4 MiB at a time, while the next are being read; each 32 MiB
are flushed behind the writer's back and then remembered in a state file, which is what a second attempt goes on from.
The first bytes, where the partition table is, are written last: half a card looks like an empty one. Then all is read
back from the device and compared with the image. Never decides whether a device may be written.
"""

import contextlib
import errno
import fcntl
import json
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamfleet_bundles import durable

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.source import Source
from beamfleet_server.flash.target import Progress

CHUNK = 4 << 20
SEGMENT = 8 * CHUNK
_AHEAD = 3
_SECTOR = 4096
_FLUSH_CACHE, _SECTOR_SIZE = 0x1261, 0x1268
_STATE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """What a write came to: bytes of the image, the byte it went on at (0: it began anew), seconds of both parts."""

    size: int
    resumed_at: int
    writing_s: float
    verifying_s: float


@dataclass(slots=True)
class Memory:
    """What is known to be on a device: how many segments were flushed, in a durable file."""

    file: Path
    image: str
    device: str
    size: int
    segments: int = 0

    def recall(self) -> None:
        """Read what an earlier attempt with the same image and device has left; nothing of any other."""
        self.segments = 0
        try:
            with self.file.open("rb") as file:
                known = json.loads(file.read(_STATE_LIMIT))
            segments = known["segments"]
            same = all(known[key] == value for key, value in self._key().items())
            if same and type(segments) is int and 0 <= segments <= self.size // SEGMENT:
                self.segments = segments
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return

    def keep(self, segments: int) -> None:
        """Make it known that these segments are on the device."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.replace(self.file, json.dumps({**self._key(), "segments": segments}).encode(), 0o600)

    def forget(self) -> None:
        """There is nothing to go on from."""
        self.segments = 0
        with contextlib.suppress(FileNotFoundError):
            self.file.unlink()

    def _key(self) -> dict[str, Any]:
        return {"image": self.image, "device": self.device, "size": self.size, "segment": SEGMENT}


def write(source: Source, device: int, name: str, memory: Memory, progress: Progress) -> Written:
    """Make the block device that `device` is a descriptor of begin with the image.

    `flash.write_failed` when the device stops taking bytes: what is flushed by then is remembered.
    `flash.verify_failed` when it does not give back what it took.
    """
    began = time.monotonic()
    writer = _Writer(source, device, name, memory, progress)
    with _past_the_cache(device):
        resumed = writer.resume()
        writer.run(resumed)
        written = time.monotonic()
        writer.verify()
    memory.forget()
    return Written(source.size, resumed * SEGMENT, written - began, time.monotonic() - written)


class _Writer:
    def __init__(self, source: Source, device: int, name: str, memory: Memory, progress: Progress) -> None:
        self._source, self._device, self._name = source, device, name
        self._memory, self._progress = memory, progress
        self._buffers = [mmap.mmap(-1, CHUNK) for _ in range(_AHEAD + 1)]
        self._chunks = -(-source.size // CHUNK)
        self._sector = _sector_of(device)

    def resume(self) -> int:
        """The number of segments that are there already. The last of them is looked for: cards can be exchanged, and
        many readers give all cards one serial number."""
        self._memory.recall()
        segments = self._memory.segments
        if segments >= 2:
            with contextlib.suppress(OSError):
                if all(same for _, same in self._compared((segments - 1) * SEGMENT, segments * SEGMENT)):
                    return segments
        self._memory.forget()
        return 0

    def run(self, segments: int) -> None:
        """Write from a segment on, and the first chunk last."""
        first = segments * SEGMENT // CHUNK
        head = self._buffers[-1]
        length = self._read(0, head)
        with self._named("written"):
            if first == 0:
                self._put(memoryview(mmap.mmap(-1, CHUNK))[:length], 0)
            with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as flushing:
                self._stream(first, reading, flushing)
            self._put(memoryview(head)[:length], 0)
            os.fsync(self._device)
        self._memory.keep(self._source.size // SEGMENT)

    def verify(self) -> None:
        """Read all of it back."""
        with self._named("read back"):
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._device, _FLUSH_CACHE)
            for start, same in self._compared(0, self._source.size):
                done = min(start + CHUNK, self._source.size)
                if not same:
                    self._memory.forget()
                    raise FlashError(
                        "flash.verify_failed",
                        f"{self._name} does not give back what was written between bytes {start} and {done}",
                        "do not use it; another card, reader or cable may do, and worn-out or forged cards end so",
                    )
                self._progress(f"verify {self._name}", done, self._source.size)

    def _stream(self, first: int, reading: ThreadPoolExecutor, flushing: ThreadPoolExecutor) -> None:
        ahead: deque[Future[int]] = deque()
        flushed: Future[None] | None = None
        ring = self._buffers[:_AHEAD]
        todo = iter(range(first, self._chunks))
        for chunk in (next(todo, None) for _ in range(_AHEAD)):
            if chunk is not None:
                ahead.append(reading.submit(self._read, chunk * CHUNK, ring[chunk % _AHEAD]))
        for chunk in range(first, self._chunks):
            length = ahead.popleft().result()
            if chunk:
                self._put(memoryview(ring[chunk % _AHEAD])[:length], chunk * CHUNK)
            if (following := next(todo, None)) is not None:
                ahead.append(reading.submit(self._read, following * CHUNK, ring[following % _AHEAD]))
            self._progress(f"write {self._name}", min((chunk + 1) * CHUNK, self._source.size), self._source.size)
            if (chunk + 1) % (SEGMENT // CHUNK) == 0 and (flushed is None or flushed.done()):
                if flushed is not None:
                    flushed.result()
                flushed = flushing.submit(self._flush, (chunk + 1) * CHUNK // SEGMENT)
        if flushed is not None:
            flushed.result()

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
        done = 0
        with view:
            while done < len(view):
                if not (count := os.pwrite(self._device, view[done:], offset + done)):
                    raise OSError(errno.ENOSPC, f"it ends at byte {offset + done}")
                done += count

    def _whole(self, length: int) -> int:
        """That many bytes in whole sectors."""
        return -(-length // self._sector) * self._sector

    def _flush(self, segments: int) -> None:
        os.fdatasync(self._device)
        self._memory.keep(segments)

    def _compared(self, start: int, end: int) -> Iterator[tuple[int, bool]]:
        """Each chunk from a byte to another, and whether the device has it as the image has; the device reads ahead."""
        offsets = range(start, end, CHUNK)
        ours = self._buffers[-1]
        with ThreadPoolExecutor(1) as reading:
            ahead = reading.submit(self._get, start, self._buffers[0])
            for index, offset in enumerate(offsets):
                theirs = self._buffers[index % 2]
                length = self._read(offset, ours)
                ahead.result()
                if offset + CHUNK < end:
                    ahead = reading.submit(self._get, offset + CHUNK, self._buffers[(index + 1) % 2])
                yield offset, ours[:length] == theirs[:length]

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
            kept = self._memory.segments * SEGMENT
            goes_on = f"goes on at byte {kept}" if kept > SEGMENT else "begins anew"
            raise FlashError(
                "flash.write_failed",
                f"{self._name} cannot be {what} any more: {error.strerror}",
                f"see that it is plugged in and sits well, then repeat the command: it {goes_on}",
            ) from None


@contextlib.contextmanager
def _past_the_cache(device: int) -> Iterator[None]:
    """What is written goes to the device, and what is read comes from it, where it can do that."""
    before = fcntl.fcntl(device, fcntl.F_GETFL)
    with contextlib.suppress(OSError):
        fcntl.fcntl(device, fcntl.F_SETFL, before | os.O_DIRECT)
    try:
        yield
    finally:
        fcntl.fcntl(device, fcntl.F_SETFL, before)


def _sector_of(device: int) -> int:
    """What the device takes at least at once."""
    answer = bytearray(4)
    try:
        fcntl.ioctl(device, _SECTOR_SIZE, answer)
    except OSError:
        return _SECTOR
    return int.from_bytes(answer, sys.byteorder)
