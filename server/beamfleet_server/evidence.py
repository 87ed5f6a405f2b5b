"""Owns the evidence that devices hand in: sealed files, which this server keeps for their operators and cannot read.

    DATA/evidence/DEVICE/TIME-ID.part      asked for, and as much of it as has come
    DATA/evidence/DEVICE/TIME-ID.sealed    whole

Only what an operator has asked for is taken, in order, at most 16 MiB of it and within an hour. Of a device the newest
five are kept, of the fleet at most 4 GiB and what is under way: the oldest go first, what never came before what is
whole, and all of a device's with the device. The file is the record: nothing of this is in the database, and a restart
of the server loses nothing.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from beamfleet_bundles import durable, sealing
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device

from beamfleet_server.errors import ServerError

MAX_BYTES: Final = 16 << 20
MOST_OF_DEVICE: Final = 5
MOST_BYTES: Final = 4 << 30
PATIENCE_S: Final = 3_600
"""How long after it was asked for evidence may come."""
_NAME = re.compile(r"([0-9]{10,12})-([0-9a-f]{16})\.(part|sealed)")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of evidence. time: when it was asked for, Unix seconds. bytes: what has come."""

    device: str
    id: str
    time: int
    state: Literal["asked", "complete"]
    bytes: int
    path: Path


class EvidenceFiles:
    """The evidence below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = Lock()

    def of(self, device: str) -> list[Evidence]:
        """What there is of a device, newest first."""
        found = [*self._in(self._directory / check_device(device))]
        return sorted(found, key=lambda each: (each.time, each.id), reverse=True)

    def find(self, device: str, word: str) -> Evidence:
        """One of them; error `evidence.unknown`."""
        for each in self.of(device):
            if each.id == word:
                return each
        raise ServerError("evidence.unknown", f"there is no evidence {word[:64]} of {device}", _LIST)

    def ask(self, device: str, word: str, now: int) -> Evidence:
        """Be ready for the evidence `word` of a device; makes room for it. Error `server.disk_full`."""
        with self._lock, _room():
            folder = self._directory / check_device(device)
            folder.mkdir(mode=0o700, exist_ok=True)
            for each in self.of(device):
                if each.state == "asked" and each.time <= now - PATIENCE_S:
                    each.path.unlink(missing_ok=True)
            worth = sorted(self.of(device), key=lambda each: each.state != "complete")  # and the newest first in each
            for each in worth[MOST_OF_DEVICE - 1 :]:
                each.path.unlink(missing_ok=True)
            self._make_room()
            path = folder / f"{now:010d}-{word}.part"
            durable.create(path, b"")
            return Evidence(device, word, now, "asked", 0, path)

    def take(self, device: str, word: str, offset: int, total: int, piece: bytes, now: int) -> Evidence:
        """Add a piece to what was asked for.

        The same piece may come twice. Errors `evidence.unknown` (not asked for, or too late), `evidence.too_large`,
        `evidence.offset` (something is missing before it), `evidence.malformed` (whole, and not of this device),
        `server.disk_full`.
        """
        with self._lock, _room():
            held = self.find(device, word)
            if held.state == "complete":
                return held
            if held.time <= now - PATIENCE_S:
                raise ServerError("evidence.unknown", f"the evidence {word} of {device} comes too late", _LIST)
            if total > MAX_BYTES or offset + len(piece) > total:
                held.path.unlink(missing_ok=True)
                raise ServerError("evidence.too_large", f"evidence has at most {MAX_BYTES} bytes", "")
            if offset > held.bytes:
                raise ServerError("evidence.offset", f"{held.bytes} bytes have come, this is for {offset}", "")
            if offset + len(piece) > held.bytes:
                with held.path.open("r+b") as file:
                    file.seek(offset)
                    file.write(piece)
            held = self.find(device, word)
            return self._finish(held) if held.bytes == total else held

    def forget(self, device: str) -> None:
        """Delete all evidence of a device."""
        with self._lock:
            shutil.rmtree(self._directory / check_device(device), ignore_errors=True)

    def delete(self, device: str, word: str) -> None:
        """Delete one; error `evidence.unknown`."""
        with self._lock:
            self.find(device, word).path.unlink(missing_ok=True)

    def _finish(self, held: Evidence) -> Evidence:
        """Whole: it must be what it should be, as far as anybody can see from outside."""
        with held.path.open("rb") as file:
            beginning = file.read(len(sealing.MAGIC) + sealing.MAX_HEADER)
            os.fsync(file.fileno())
        try:
            header = sealing.read_header(beginning)
        except BundleError:
            header = None
        if header is None or (header.device, header.id) != (held.device, held.id):
            held.path.unlink(missing_ok=True)
            raise ServerError("evidence.malformed", f"what {held.device} sent is not the evidence {held.id}", "")
        whole = held.path.with_suffix(".sealed")
        held.path.rename(whole)
        durable.sync_directory(whole.parent)
        self._make_room()  # many may have been asked at once, while they weighed nothing
        return Evidence(held.device, held.id, held.time, "complete", held.bytes, whole)

    def _make_room(self) -> None:
        everything = sorted(
            (each for folder in self._directory.iterdir() for each in self._in(folder)), key=lambda each: each.time
        )
        left = sum(each.bytes for each in everything) - (MOST_BYTES - MAX_BYTES)
        for each in everything:
            if left <= 0:
                break
            left -= each.bytes
            each.path.unlink(missing_ok=True)

    def _in(self, folder: Path) -> Iterator[Evidence]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in folder.iterdir():
                named = _NAME.fullmatch(path.name)
                if named is None:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    state: Literal["asked", "complete"] = "asked" if named[3] == "part" else "complete"
                    yield Evidence(folder.name, named[2], int(named[1]), state, path.stat().st_size, path)


_LIST = "ask for new evidence: beamfleet device diagnose DEVICE"


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServerError("server.disk_full", f"evidence cannot be kept: {error.strerror}", "make room") from None
