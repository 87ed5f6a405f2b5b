"""Owns the CSV report of `flash --batch`: a line is on the disk before the next device is begun, so that a run that was
cut off goes on where it was. Of several lines about one device the last one counts.

One run at a time has it. Half a line, left behind by a loss of power, is cut off.
"""

import csv
import fcntl
import io
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from beamfleet_bundles import durable

from beamfleet_server.flash.batch import Line
from beamfleet_server.flash.errors import FlashError

DONE, FAILED = "done", "failed"
MAX_SIZE = 64 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """What came of a line. `row` is the line's digest, `fingerprint` that of the device's key where it is known, `time`
    RFC 3339."""

    time: str
    line: int
    id: str
    serial: str
    target: str
    state: str
    code: str
    message: str
    fingerprint: str
    row: str


NAMES = tuple(field.name for field in fields(Record))


class Report:
    """An open report; `append` from any thread."""

    def __init__(self, path: Path, descriptor: int, known: Mapping[str, Record]) -> None:
        self.path = path
        self._descriptor = descriptor
        self._known = dict(known)
        self._lock = threading.Lock()

    def done(self, line: Line, device: str) -> Record | None:
        """What says that this line, as it is now, was done, and made this device of it."""
        record = self._known.get(line.digest)
        return record if record is not None and (record.state, record.id) == (DONE, device) else None

    def append(self, record: Record) -> None:
        """Keep it, for good; OSError, and nothing of it, if that cannot be."""
        content = _row(tuple(str(value) for value in asdict(record).values()))
        with self._lock:
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            try:
                _write(self._descriptor, content)
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise
            self._known[record.row] = record


@contextmanager
def opened(path: Path) -> Iterator[Report]:
    """The report in `path`, begun where there is none. Errors `flash.report`, `flash.report_busy`; OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for its end, or give another --report"
            raise FlashError("flash.report_busy", f"another run writes {path}", hint) from None
        with open(path, "rb") as file:
            content = file.read(MAX_SIZE + 1)
        known = _parse(path, content)
        whole = content.rpartition(b"\n")[0]
        kept = len(whole) + 1 if b"\n" in content else 0
        if kept < len(content):
            os.ftruncate(descriptor, kept)
        if not kept:
            _write(descriptor, _row(NAMES))
        os.fsync(descriptor)
        durable.sync_directory(path.parent)
        yield Report(path, descriptor, known)
    finally:
        os.close(descriptor)


def _parse(path: Path, content: bytes) -> dict[str, Record]:
    """The newest record by the digest of its line."""
    hint = "give another --report; without one the report is beside the manifest"
    if len(content) > MAX_SIZE:
        raise FlashError("flash.report", f"{path} is too large for a report", hint)
    whole = content.rpartition(b"\n")[0]
    try:
        rows = list(csv.reader(io.StringIO(whole.decode()), strict=True))
        if rows and tuple(rows[0]) != NAMES:
            raise ValueError
        records = [_record(row) for row in rows[1:]]
    except (ValueError, csv.Error):
        raise FlashError("flash.report", f"{path} is no report of a batch", hint) from None
    return {record.row: record for record in records}


def _record(row: list[str]) -> Record:
    named = dict(zip(NAMES, row, strict=True))
    return Record(**{**named, "line": int(named["line"])})  # type: ignore[arg-type]


def _row(cells: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([" ".join(cell.split()) for cell in cells])
    return text.getvalue().encode()


def _write(descriptor: int, content: bytes) -> None:
    os.lseek(descriptor, 0, os.SEEK_END)
    while content:
        content = content[os.write(descriptor, content) :]
