"""An HTTP proxy that only opens ways (CONNECT), with or without a user: it notes what it was asked and what went by."""

import base64
import contextlib
import select
import socket

from tests.support.acceptor import LOOK_S, Acceptor


class HttpProxy(Acceptor):
    """Listens on a free port of `host`. secret: USER:PASSWORD that it wants. answer: what it says instead of a way.

    names: where names lead that nobody else knows.
    """

    def __init__(
        self, host: str = "127.0.0.1", *, secret: str = "", answer: bytes = b"", names: dict[str, str] | None = None
    ) -> None:
        self._secret, self._answer, self._names = secret, answer, names or {}
        self.asked: list[bytes] = []
        self.refused = 0
        super().__init__(host)
        self.address = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            head = self._head(near)
            place = head.split(b" ", 2)[1].decode()
            self.asked.append(head)
            if self._answer:
                near.sendall(self._answer)
                self._until_it_goes(near)
                return
            word = base64.b64encode(self._secret.encode())
            if self._secret and b"\r\nProxy-Authorization: Basic " + word + b"\r\n" not in head:
                self.refused += 1
                near.sendall(b'HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n')
                return
            host, _, port = place.rpartition(":")
            host = host.strip("[]")
            with socket.create_connection((self._names.get(host, host), int(port)), 5) as far:
                near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
                self._pass(near, far)

    def _head(self, near: socket.socket) -> bytes:
        head = b""
        near.settimeout(10)
        while b"\r\n\r\n" not in head:
            if not (piece := near.recv(4096)):
                raise OSError
            head += piece
        return head

    def _until_it_goes(self, near: socket.socket) -> None:
        near.settimeout(LOOK_S)
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                if not near.recv(4096):
                    return

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        for each in other:
            each.settimeout(10)
        while not self.ended.is_set():
            for source in select.select(list(other), [], [], LOOK_S)[0]:
                if not (data := source.recv(65_536)):
                    return
                other[source].sendall(data)
