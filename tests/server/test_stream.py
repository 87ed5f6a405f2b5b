"""The stream of events: resumed without loss, filtered, bounded, and ended with whoever reads it."""

import asyncio
import json
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from beamfleet_server.api.operators import stream as module
from beamfleet_server.api.operators.stream import Reading, Streams
from beamfleet_server.feed import Feed
from beamfleet_server.store.events import ALL, NewEvent, Wanted

from tests.support.fleet_store import FleetStore
from tests.support.refusal import refusal
from tests.support.server import Server, eventually, running_server

Item = dict[str, Any]


class Stream:
    """An open stream, read as lines."""

    def __init__(self, answer: requests.Response) -> None:
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        self._lines = answer.iter_lines(chunk_size=1)
        self.last = ""
        """The last id."""

    def blocks(self) -> Iterator[dict[str, str]]:
        """The fields of each block; a comment has the name ""."""
        block: dict[str, str] = {}
        for line in self._lines:
            if not line:
                self.last = block.get("id", self.last)
                yield block
                block = {}
            else:
                name, _, value = line.decode().partition(":")
                block[name] = value.removeprefix(" ")

    def events(self, count: int) -> list[Item]:
        """So many events."""
        found: list[Item] = []
        for block in self.blocks():
            if "data" in block:
                event = json.loads(block["data"])
                assert block["id"] == str(event["id"])
                found.append(event)
            if len(found) == count:
                break
        return found

    def rest(self) -> list[dict[str, str]]:
        """What comes until its end."""
        return list(self.blocks())


class House:
    """A server whose events are enrolments."""

    def __init__(self, server: Server, work: Path) -> None:
        self.server, self.work = server, work
        self._devices = 0

    def happen(self, count: int = 1) -> list[str]:
        names = []
        for _ in range(count):
            self._devices += 1
            names.append(f"stream-{self._devices}")
            self.server.enrol(names[-1], self.work)
        return names

    @property
    def newest(self) -> int:
        found = self.server.get("/events?newest=true&limit=1")["items"]
        return int(found[0]["id"]) if found else 0

    @contextmanager
    def stream(self, query: str = "", **more: Any) -> Iterator[Stream]:
        with self.server.api("GET", f"/events/stream{query}", stream=True, **more) as answer:
            yield Stream(answer)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    work = tmp_path_factory.mktemp("stream")
    with running_server(work / "server") as server:
        yield House(server, work / "devices")


def test_events_come_as_they_happen_in_the_shape_of_the_list(house: House) -> None:
    before = house.newest
    with house.stream() as stream:
        names = house.happen(2)
        events = stream.events(2)
    assert [event["device"] for event in events] == names
    assert events == house.server.get(f"/events?after={before}")["items"]


def test_the_past_is_told_first_and_then_what_happens(house: House) -> None:
    before = house.newest
    names = house.happen(2)
    with house.stream(f"?after={before}") as stream:
        assert [event["device"] for event in stream.events(2)] == names
        later = house.happen()
        assert [event["device"] for event in stream.events(1)] == later


def test_a_reader_that_was_cut_goes_on_after_the_last_id_that_it_saw(house: House) -> None:
    with house.stream() as stream:
        house.happen(1)
        stream.events(1)
        last = stream.last
    missed = house.happen(3)
    with house.stream("?after=0", headers={"Last-Event-ID": last}) as stream:
        assert [event["device"] for event in stream.events(3)] == missed
    with house.stream(headers={"Last-Event-ID": "9" * 18}) as stream:
        (device,) = house.happen()
        assert stream.events(1)[0]["device"] == device, "an id of another past is not waited for"


def test_only_what_is_asked_for_comes(house: House) -> None:
    before = house.newest
    first, second, third = house.happen(3)
    with house.stream(f"?after={before}&device={second}") as stream:
        assert stream.events(1)[0]["device"] == second
    with house.stream(f"?after={before}&kind=enrolled&kind=rollout&cause=token") as stream:
        assert [event["device"] for event in stream.events(3)] == [first, second, third]
    with house.stream(f"?after={before}&kind=rollout&rollout=7") as stream:
        house.server.post("/operators", {"name": "passing", "role": "viewer"})
        house.server.api("DELETE", "/operators/passing")
        assert next(stream.blocks()) == {"retry": "2000", "id": str(before)}


def test_it_begins_with_how_to_come_back(house: House) -> None:
    newest = house.newest
    with house.stream() as stream:
        assert next(stream.blocks()) == {"retry": "2000", "id": str(newest)}


def test_a_quiet_stream_says_that_it_lives_and_how_far_it_is(house: House) -> None:
    with house.stream("?kind=rollout") as stream:
        blocks = stream.blocks()
        next(blocks)
        house.happen()
        newest = house.newest
        assert next(blocks) == {"id": str(newest)}, "what was not wanted need not be looked at again"
        assert next(blocks) == {"": "alive"}


def test_a_stream_ends_within_a_minute_when_its_token_does(house: House) -> None:
    token = house.server.post("/operators", {"name": "watcher", "role": "viewer"})["token"]
    with house.stream(token=token) as stream:
        next(stream.blocks())
        assert house.server.api("DELETE", "/operators/watcher").status_code == 200
        began = time.monotonic()
        stream.rest()
        assert time.monotonic() - began < 60


def test_a_stream_of_a_web_session_ends_when_the_session_does(house: House) -> None:
    url = house.server.facts["operators"]
    begun = house.server.api("POST", "/session")
    assert begun.status_code == 201
    cookie = begun.headers["set-cookie"].partition(";")[0]
    answer = requests.get(
        f"{url}/api/v1/events/stream",
        headers={"Cookie": cookie}, stream=True, verify=str(house.server.ca), timeout=60,
    )  # fmt: skip
    with answer:
        stream = Stream(answer)
        next(stream.blocks())
        (device,) = house.happen()
        assert stream.events(1)[0]["device"] == device
        assert house.server.api("DELETE", f"/sessions/{begun.json()['id']}").status_code == 200
        began = time.monotonic()
        stream.rest()
        assert time.monotonic() - began < 60


def test_only_so_many_streams_of_one_operator_are_open_and_a_place_becomes_free_again(house: House) -> None:
    token = house.server.post("/operators", {"name": "hungry", "role": "viewer"})["token"]
    answers = []
    try:
        for _ in range(module.MOST_OF_OPERATOR):
            answers.append(house.server.api("GET", "/events/stream", token=token, stream=True))
            assert answers[-1].status_code == 200
        refused = house.server.api("GET", "/events/stream", token=token)
        assert (refused.status_code, refused.json()["code"]) == (429, "stream.full")
        with house.stream() as other:
            next(other.blocks())
        answers.pop().close()

        def again() -> bool:
            with house.server.api("GET", "/events/stream", token=token, stream=True) as answer:
                return answer.status_code == 200

        eventually("a free place", again)
    finally:
        for answer in answers:
            answer.close()


def test_streams_are_bounded_in_all() -> None:
    streams = Streams()
    for number in range(module.MOST):
        streams.enter(f"operator-{number}")
    assert refusal(streams.enter, "one-more") == "stream.full"
    streams.leave("operator-7")
    streams.enter("one-more")


def test_a_server_that_stops_ends_its_streams_promptly(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        house = House(server, tmp_path)
        with house.stream() as stream:
            next(stream.blocks())
            began = time.monotonic()
            assert server.stop() == 0
            took = time.monotonic() - began
            assert stream.rest() == []
        assert took < 5
        assert "Traceback" not in server.log.read_text()


def test_a_reader_that_takes_nothing_is_cut_and_others_go_on(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", ingest_rate=10_000) as server:
        house = House(server, tmp_path)
        house.happen(3)
        host, port = "127.0.0.1", server.facts["ports"]["operators"]
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect((host, port))
        context = ssl.create_default_context(cafile=str(server.ca))
        lazy = context.wrap_socket(plain, server_hostname="localhost")
        request = (
            f"GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n"
        )
        lazy.sendall(request.encode())
        assert lazy.recv(100).startswith(b"HTTP/1.1 200")
        write_events(server, 4000)
        with house.stream() as stream:
            deadline = time.monotonic() + module.SEND_S + 30
            house.happen()
            stream.events(1)
            eventually("the cut", lambda: connections_of(server, port) <= 1, deadline - time.monotonic())
        with suppress(OSError):
            lazy.close()
        assert "Traceback" not in server.log.read_text()


def write_events(server: Server, count: int) -> None:
    """Events with much to say, behind the server's back, and one that it hears of."""
    database = sqlite3.connect(server.data / "beamfleet.db", timeout=30)
    rows = [(1, "bulk", "", "x" * 1000, "{}")] * count
    with database:
        database.executemany("insert into events (time, kind, cause, detail, data) values (?, ?, ?, ?, ?)", rows)
    database.close()
    server.post("/tokens", {"device": "bulk"})
    server.enrol("bulk", server.data.parent)


def connections_of(server: Server, port: int) -> int:
    """Established connections to a port of the server."""
    rows = Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]
    ours = (row.split() for row in rows)
    return sum(1 for row in ours if row[1].endswith(f":{port:04X}") and row[3] == "01")


class Tail:
    """A feed on a store, without a server."""

    def __init__(self, fleet: FleetStore) -> None:
        self.fleet, self.store = fleet, fleet.store
        self.feed = Feed(fleet.store.events)

    def happen(self, *kinds: str) -> None:
        self.store.events.append(*(NewEvent(1, kind) for kind in kinds))

    def take(self) -> None:
        """What `run` does once."""
        self.feed._take(self.store.events.after(self.feed.newest, 1000))


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Tail]:
    fleet = FleetStore(tmp_path)
    yield Tail(fleet)
    fleet.close()


async def read(reading: Reading) -> list[str]:
    kinds: list[str] = []
    while found := await reading.next():
        kinds += [event.kind for event in found]
    return kinds


def test_what_is_no_longer_in_memory_is_read_from_the_database_and_nothing_is_missed_or_twice(
    tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamfleet_server.feed.KEPT", 4)
    monkeypatch.setattr(module, "TOGETHER", 3)
    told = []
    everything = Reading(tail.feed, tail.store, ALL, 0)
    evens = Reading(tail.feed, tail.store, Wanted(kinds=frozenset(f"e{n}" for n in range(0, 40, 2))), 0)
    for number in range(30):
        tail.happen(f"e{number}")
        if number % 7 == 3:
            tail.take()
        if number % 11 == 5:
            told += asyncio.run(read(everything))
    assert tail.feed.after(0) is None
    tail.take()
    told += asyncio.run(read(everything))
    assert told == [f"e{number}" for number in range(30)]
    assert asyncio.run(read(evens)) == [f"e{number}" for number in range(0, 30, 2)]
    assert len(tail.feed._recent) <= 8 + 7


def test_a_reader_that_looks_only_at_a_few_kinds_moves_on_over_the_others(tail: Tail) -> None:
    tail.happen(*["noise"] * 50)
    tail.take()
    reading = Reading(tail.feed, tail.store, Wanted(kinds=frozenset({"rollout"})), tail.feed.newest - 50)
    assert asyncio.run(reading.next()) == []
    assert reading.last == tail.feed.newest
