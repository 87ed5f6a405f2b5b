"""The log of the release on its way to a reader: bounded, redacted, over the change of the file."""

import json
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import log_stream
from beamfleet_agent.log_stream import LogStreams
from beamfleet_bundles import messages


class Clock:
    """A loop whose time the test makes."""

    def __init__(self) -> None:
        self.time = 100.0
        self.waiting: list[Any] = []

    def now(self) -> float:
        return self.time

    def soon(self, callback: Any) -> None:
        self.waiting = [callback]

    def after(self, name: str, delay_s: float, callback: Any) -> None:
        assert (name, delay_s) == ("logs", 1.0)
        self.waiting = [callback]

    def cancel(self, name: str) -> None:
        assert name == "logs"
        self.waiting = []

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            callbacks, self.waiting = self.waiting, []
            for callback in callbacks:
                callback()
            self.time += 1


class Reader:
    """What arrives at the server: every message fits its schema."""

    def __init__(self, path: Path) -> None:
        self.clock, self.path, self.up = Clock(), path, True
        self.messages: list[messages.Logs] = []
        self.streams = LogStreams(self.clock, str(path), self._send)  # type: ignore[arg-type]

    def _send(self, kind: str, payload: bytes, expiry_s: int | None) -> bool:
        if not self.up:
            return False
        assert (kind, expiry_s) == ("logs", 60)
        said = messages.decode("logs", payload)
        assert isinstance(said, messages.Logs)
        self.messages.append(said)
        return True

    @property
    def lines(self) -> list[str]:
        return [line for message in self.messages for line in message.lines]

    def prints(self, *lines: str) -> None:
        with self.path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(f"{line}\n" for line in lines))


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "vm.log")


def test_the_newest_lines_come_first_and_the_stream_ends_when_nobody_follows(reader: Reader) -> None:
    Path(f"{reader.path}.1").write_text("before 1\nbefore 2\n")
    reader.prints(*(f"line {number}" for number in range(3)))
    reader.streams.ask("a1", 4, 0)
    reader.clock.pass_s(1)
    assert reader.lines == ["before 2", "line 0", "line 1", "line 2"]
    assert [message.end for message in reader.messages] == [False, True]
    assert not reader.clock.waiting, "nobody wakes up any more"


def test_what_comes_is_sent_over_the_change_of_the_file_until_the_time_is_over(reader: Reader) -> None:
    reader.prints("old")
    reader.streams.ask("a1", 0, 5)
    reader.clock.pass_s(1)
    reader.prints("first")
    reader.path.rename(f"{reader.path}.1")
    reader.prints("second", "")
    reader.clock.pass_s(1)
    assert reader.lines == ["first", "second"]
    reader.streams.ask("a1", 9, 5)
    reader.clock.pass_s(4)
    reader.prints("third")
    reader.clock.pass_s(1)
    assert reader.lines == ["first", "second", "third"], "asked for again it went on, and repeated nothing"
    reader.clock.pass_s(3)
    assert reader.messages[-1].end
    assert not reader.clock.waiting


def test_a_release_that_prints_without_end_is_heard_at_a_bounded_pace(reader: Reader) -> None:
    reader.streams.ask("a1", 0, 20)
    reader.clock.pass_s(1)
    for second in range(10):
        reader.prints(*(f"{second}.{number} {'x' * 100}" for number in range(2_000)))
        reader.clock.pass_s(1)
    assert len(reader.lines) <= log_stream.LINES_AT_ONCE + 10 * log_stream.LINES_PER_S
    assert sum(map(len, reader.lines)) <= log_stream.BYTES_AT_ONCE + 10 * log_stream.BYTES_PER_S
    assert sum(message.missed for message in reader.messages) > 15_000


def test_of_a_flood_every_line_is_sent_or_counted(reader: Reader) -> None:
    reader.streams.ask("a1", 0, 2)
    reader.clock.pass_s(1)
    reader.prints(*["x"] * log_stream.MOST_TAKEN_APART)
    reader.clock.pass_s(60)
    assert reader.messages[-1].end
    assert len(reader.lines) == log_stream.MOST_WAITING
    assert len(reader.lines) + sum(message.missed for message in reader.messages) == log_stream.MOST_TAKEN_APART


def test_a_stream_ends_also_when_the_release_prints_faster_than_is_sent(reader: Reader) -> None:
    reader.streams.ask("a1", 0, 5)
    for second in range(7 + log_stream.MOST_WAITING // log_stream.LINES_PER_S):
        reader.prints(*(f"{second}.{number}" for number in range(500)))
        reader.clock.pass_s(1)
    assert reader.messages[-1].end
    assert not reader.clock.waiting
    assert max(int(line.partition(".")[0]) for line in reader.lines) <= 5


def test_lines_are_redacted_cut_and_without_colours(reader: Reader) -> None:
    reader.prints("\x1b[31mred\x1b[0m \x07bell", "x" * 4_000, "password=hunter2", "\udcff\udcfe bytes", "\u202eturned")
    reader.streams.ask("a1", 9, 0)
    reader.clock.pass_s(1)
    red, long, secret, raw, turned = reader.lines
    assert (red, secret, turned) == ("red  bell", "password=[redacted]", "?turned")
    assert len(long) == 512
    assert raw.endswith(" bytes")


def test_any_bytes_make_messages_that_fit(reader: Reader) -> None:
    reader.path.write_bytes(b"".join(bytes([byte]) * 900 + b"\n" for byte in range(256)) + b"key=a " * 20_000 + b"\n")
    reader.streams.ask("a1", 1_000, 0)
    reader.clock.pass_s(60)
    assert reader.messages[-1].end


def test_at_most_four_read_at_once_and_a_session_that_is_lost_ends_them(reader: Reader) -> None:
    for number in range(5):
        reader.streams.ask(f"a{number}", 0, 600)
    assert [(message.id, message.end) for message in reader.messages] == [("a0", True)]
    reader.prints("more")
    reader.up = False
    reader.clock.pass_s(2)
    assert not reader.clock.waiting


def test_a_link_in_its_place_is_not_followed(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("not for you\n")
    reader.path.symlink_to(tmp_path / "secrets")
    reader.streams.ask("a1", 9, 0)
    reader.clock.pass_s(1)
    assert reader.lines == []
    assert json.loads(messages.encode(reader.messages[-1]))["end"] is True
