"""What a look at the server costs a device when there is nothing new, counted on the wire: TLS and all."""

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from beamfleet_agent.paths import Paths
from beamfleet_agent.worker.centre import Centre, Order
from beamfleet_agent.worker.job import Job
from urllib3.util import SKIP_HEADER

from tests.agent.device import lay_down, words_for, work
from tests.support.author import Author
from tests.support.server import Server, eventually, running_server

MOST_REQUESTS, MOST_BYTES = 3, 4_096
"""Of a whole check, handshakes and headers included."""
PRODUCT = "sensor-gateway"


class Meter:
    """Passes connections on to `port`, and counts the bytes of both directions."""

    def __init__(self, port: int) -> None:
        self._port, self.bytes, self.connections = port, 0, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    @property
    def idle(self) -> bool:
        """Whether nothing passes any more."""
        return not any(thread.is_alive() for thread in self._threads[1:])

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._port))
            for source, sink in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._pass, args=(source, sink)))
                self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with source:
            try:
                while data := source.recv(65536):
                    self.bytes += len(data)
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Server, Paths, Meter]]:
    """A device with a release of a product that has many, whose HTTPS goes through a meter."""
    with running_server(tmp_path / "server") as server:
        author = Author(server, tmp_path / "author")
        assert author.initialise().status_code == 200
        assert author.create_product(PRODUCT).status_code == 201
        for number in range(3):
            author.publish(PRODUCT, f"1.{number}.0")
        given = words_for(server, "pump-1", token=server.new_token("pump-1"))
        meter = Meter(int(given["server"]["api"].rpartition(":")[2]))
        given["server"]["api"] = f"https://127.0.0.1:{meter.port}"
        paths = lay_down(tmp_path / "device", given)
        assert "result" in work(tmp_path / "device", "enrol")
        yield server, paths, meter
        meter.close()


class Counted:
    """How many requests were sent, and how many bytes HTTP itself took of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[str] = []
        self.bytes = 0
        send = requests.Session.request

        def counting(session: requests.Session, method: str, url: str, **more: Any) -> requests.Response:
            response = send(session, method, url, **more)
            asked = response.request
            self.requests.append(str(asked.path_url))
            first = f"{asked.method} {asked.path_url} HTTP/1.1\r\nHost: 127.0.0.1:00000\r\n\r\n"
            status = f"HTTP/1.1 {response.status_code} {response.reason}\r\n\r\n"
            fields = [*asked.headers.items(), *response.headers.items()]
            body = int(response.headers.get("Content-Length", "0"))
            self.bytes += (
                len(first)
                + len(status)
                + sum(len(f"{name}: {value}\r\n") for name, value in fields if value != SKIP_HEADER)
                + body
            )
            return response

        monkeypatch.setattr(requests.Session, "request", counting)


def check(paths: Paths, known: str = "") -> str:
    """Everything that a device asks when it has no idea: is there an assignment, a root, a timestamp? Gives the tag."""
    centre = Centre(Job({"job": "poll", "root": paths.root}), datetime.now(UTC))
    tag, document = centre.ask(known)
    if document:
        centre.pushed(document, Order(0))
    centre.refresh()
    centre.transport._session.close()
    return tag


def test_a_check_with_nothing_new_is_three_requests_and_four_kilobytes(
    device: tuple[Server, Paths, Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths, meter = device
    tag = check(paths)
    before, connections = meter.bytes, meter.connections
    counted = Counted(monkeypatch)
    assert check(paths, tag) == tag
    assert [path.partition("?")[0] for path in counted.requests] == [
        "/assignment", "/metadata/2.root.json", "/metadata/timestamp.json",
    ]  # fmt: skip
    assert len(counted.requests) <= MOST_REQUESTS
    assert meter.connections == connections + 1
    assert counted.bytes < meter.bytes - before <= MOST_BYTES


def test_an_agent_that_polls_for_nothing_sends_one_request(
    device: tuple[Server, Paths, Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths, meter = device
    before = meter.bytes
    assert work(Path(paths.root), "poll")["result"]["document"] == ""
    eventually("the end of the connection", lambda: meter.idle)
    assert meter.bytes - before <= MOST_BYTES
    counted = Counted(monkeypatch)
    centre = Centre(Job({"job": "poll", "root": paths.root}), datetime.now(UTC))
    centre.ask()
    centre.transport._session.close()
    assert counted.requests == ["/assignment?app=main"]
