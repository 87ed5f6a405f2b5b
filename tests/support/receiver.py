"""A receiver of webhooks on loopback that behaves as a test wants: takes, fails, redirects, drips, says nothing."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.server import eventually

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
Behaviour = Callable[[socket.socket], None]
"""What is done after a request was read; the connection is closed then."""


def answers(status: int, *headers: str, body: bytes = b"") -> Behaviour:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    raw = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return lambda connection: connection.sendall(raw)


def silent(connection: socket.socket, until: threading.Event) -> None:
    """No answer, until the test is over."""
    until.wait(30)
    connection.close()


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came; header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        return str(self.json["type"])

    def signed_by(self, secret: str) -> bool:
        """Whether one of the signatures is made with this secret, checked as a receiver would."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return wanted in self.headers["webhook-signature"].split()


class Receiver:
    """Listens on loopback. `behave` is what it does with the next requests; `received` is what came, whole."""

    def __init__(self, pair: tuple[Path, Path] | None = None, port: int = 0) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.behave: Behaviour = lambda connection: connection.sendall(OK)
        self._context: ssl.SSLContext | None = None
        if pair is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*pair)
        self.released = threading.Event()
        """For behaviours that hold a connection until the test is over."""
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}/hook?of=test"

    def types(self) -> list[str]:
        return [each.type for each in list(self.received)]

    def wait(self, count: int = 1, deadline_s: float = 30) -> list[Received]:
        """The requests so far, when there are so many."""
        eventually(f"{count} requests", lambda: len(self.received) >= count, deadline_s)
        return list(self.received)

    def wait_for(self, what: str, of: Callable[[Received], bool], deadline_s: float = 30) -> Received:
        """The first request that is meant."""
        found = eventually(what, lambda: [each for each in list(self.received) if of(each)], deadline_s)
        return found[0]

    def close(self) -> None:
        self.released.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        try:
            plain.settimeout(30)
            if self._context is not None:
                connection = self._context.wrap_socket(plain, server_side=True)
            self.received.append(_read(connection))
            self.behave(connection)
        except (OSError, ValueError):
            pass
        finally:
            connection.close()


def _read(connection: socket.socket) -> Received:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ValueError("no request")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return Received(line, headers, body)
