"""Owns sending the release's log while somebody at the server reads it: the newest lines, then what comes.

Nobody reads for ever: a stream ends after the time it was asked for, unless it is asked for again under the same id. It
is bounded by lines and by bytes a second, and says how many lines it left out. Looks at the file once a second, and
only while it is read; nothing is kept. Lines are redacted here, `vm_log` has how.
"""

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from beamfleet_agent import plain_file
from beamfleet_agent.loop import Loop
from beamfleet_agent.reports import dump

LOOK_S = 1.0
LINES_PER_S, BYTES_PER_S = 20, 8_192
LINES_AT_ONCE, BYTES_AT_ONCE = 100, 32_768
LONGEST_LINE = 512
LONGEST_RAW, BYTES_OF_LINE, SLACK = 4_096, 256, 16_384
"""Bytes of a line as it was printed that are looked at; bytes of the log that are read for each line, and always."""
LINES_IN_MESSAGE, BYTES_IN_MESSAGE = 50, 8_192
"""As printed: cleaning can make three of one byte, and a message ends at 32,768."""
MOST_WAITING = 1_000
MOST_AT_ONCE, MOST_TAKEN_APART = 1 << 21, 1 << 18
"""Bytes that are read in one look, and the newest of them: short lines take twenty times the room when taken apart."""
MAX_LINES, MAX_FOLLOW_S = 1_000, 600
MAX_STREAMS = 4
EXPIRY_S = 60

Send = Callable[[str, bytes, int | None], bool]


class LogStreams:
    """The streams that are read. `send` is the way to the server, `path` the VM's log."""

    def __init__(self, loop: Loop, path: str, send: Send) -> None:
        self._loop, self._path, self._send = loop, path, send
        self._streams: dict[str, _Stream] = {}

    def ask(self, number: str, lines: int, follow_s: int) -> None:
        """Begin a stream, or go on with the one of this number."""
        until = self._loop.now() + min(follow_s, MAX_FOLLOW_S)
        if number in self._streams:
            self._streams[number].until = until
            return
        if len(self._streams) >= MAX_STREAMS:
            self._end(next(iter(self._streams)))
        self._streams[number] = _Stream(self._path, min(lines, MAX_LINES), until)
        self._loop.soon(self._look)

    def stop(self) -> None:
        """Nobody reads any more."""
        self._loop.cancel("logs")
        for number in [*self._streams]:
            self._streams.pop(number).close()

    def _look(self) -> None:
        now = self._loop.now()
        for number, stream in [*self._streams.items()]:
            if now < stream.until + LOOK_S:  # then only what waits: a release may print faster than is sent, for ever
                stream.read()
            stream.allow(now)
            while (said := stream.take()) or not stream.greeted:  # the reader wants to know that we are there
                stream.greeted = True
                if not self._tell(number, said, stream.left_out(), end=False):
                    self._streams.pop(number).close()
                    break
            else:
                if now >= stream.until and not stream.waiting:
                    self._end(number)
        if self._streams:
            self._loop.after("logs", LOOK_S, self._look)

    def _end(self, number: str) -> None:
        stream = self._streams.pop(number)
        self._tell(number, [], stream.left_out(), end=True)
        stream.close()

    def _tell(self, number: str, lines: list[str], missed: int, *, end: bool) -> bool:
        message: dict[str, Any] = {"id": number, "lines": lines, "missed": missed, "end": end}
        return self._send("logs", dump(message), EXPIRY_S)


class _Stream:
    """One reader: an open log, the raw lines of it that wait, and how much may be sent now."""

    def __init__(self, path: str, lines: int, until: float) -> None:
        from beamfleet_agent import vm_log

        self.until, self.greeted = until, False
        self._path, self._clean = path, vm_log.lines
        self._partial = b""
        self._missed = 0
        self._lines, self._bytes, self._allowed_at = float(LINES_AT_ONCE), float(BYTES_AT_ONCE), -1.0
        self._file = _open(path)
        end = lines * BYTES_OF_LINE + SLACK
        newest = _lines(vm_log.tail(path, end))
        if len(newest) < lines:
            newest = _lines(vm_log.tail(f"{path}.1", end)) + newest
        self.waiting = deque(newest[len(newest) - min(lines, len(newest)) :])
        self._at = os.fstat(self._file).st_size if self._file >= 0 else 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self) -> None:
        """What is new in the log, over its change to another file as well."""
        self._read_on()
        try:
            changed = self._file < 0 or os.stat(self._path).st_ino != os.fstat(self._file).st_ino
        except OSError:
            return
        if changed:
            self.close()
            self._file, self._at = _open(self._path), 0
            self._read_on()

    def _read_on(self) -> None:
        if self._file < 0:
            return
        try:
            data = os.pread(self._file, MOST_AT_ONCE, self._at)
        except OSError:
            return
        self._at += len(data)
        whole, mark, rest = (self._partial + data).rpartition(b"\n")
        if len(rest) > LONGEST_RAW:
            whole, rest = whole + mark + rest, b""
        self._partial = rest
        if (over := len(whole) - MOST_TAKEN_APART) > 0:
            begin = whole.find(b"\n", over) + 1
            self._missed += whole.count(b"\n", 0, begin)
            whole = whole[begin:]
        self.waiting.extend(_lines(whole))
        while len(self.waiting) > MOST_WAITING:
            self.waiting.popleft()
            self._missed += 1

    def allow(self, now: float) -> None:
        """Time has passed: more may be sent."""
        passed = now - self._allowed_at if self._allowed_at >= 0 else 0.0
        self._allowed_at = now
        self._lines = min(LINES_AT_ONCE, self._lines + passed * LINES_PER_S)
        self._bytes = min(BYTES_AT_ONCE, self._bytes + passed * BYTES_PER_S)

    def take(self) -> list[str]:
        """The lines of the next message, cleaned together; empty if there are none, or none may be sent now."""
        while self.waiting:
            taken: list[bytes] = []
            size = 0
            while self.waiting and len(taken) < LINES_IN_MESSAGE and self._lines >= 1:
                length = len(self.waiting[0]) + 1
                if length > self._bytes or size + length > BYTES_IN_MESSAGE:
                    break
                taken.append(self.waiting.popleft())
                self._lines, self._bytes, size = self._lines - 1, self._bytes - length, size + length
            if not taken:
                return []
            if said := self._clean(b"\n".join(taken), LONGEST_LINE):
                return said
        return []

    def left_out(self) -> int:
        """How many lines were left out since this was asked for the last time."""
        missed, self._missed = self._missed, 0
        return missed


def _lines(data: bytes) -> list[bytes]:
    return [line[:LONGEST_RAW] for line in data.split(b"\n") if line.strip()]


def _open(path: str) -> int:
    try:
        return plain_file.opened(path)[0]
    except OSError:
        return -1
