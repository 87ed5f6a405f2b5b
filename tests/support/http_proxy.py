"""An HTTP proxy that only opens ways (CONNECT), with or without a user: it notes what it was asked and what went by."""

import base64
import contextlib
import select
import socket
import threading
from typing import Self

_LOOK_S = 0.1


class HttpProxy:
    """Listens on a free port of `host`. secret: USER:PASSWORD that it wants. answer: what it says instead of a way.

    names: where names lead that nobody else knows.
    """

    def __init__(
        self, host: str = "127.0.0.1", *, secret: str = "", answer: bytes = b"", names: dict[str, str] | None = None
    ) -> None:
        self._secret, self._answer, self._names = secret, answer, names or {}
        self._listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = int(self._listening.getsockname()[1])
        self.address = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self.asked: list[bytes] = []
        self.refused = 0
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and every connection."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listening], [], [], _LOOK_S)[0]:
                near, _ = self._listening.accept()
                self._threads.append(thread := threading.Thread(target=self._serve, args=(near,)))
                thread.start()

    def _serve(self, near: socket.socket) -> None:
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
        near.settimeout(_LOOK_S)
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                if not near.recv(4096):
                    return

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        for each in other:
            each.settimeout(10)
        while not self._ended.is_set():
            for source in select.select(list(other), [], [], _LOOK_S)[0]:
                if not (data := source.recv(65_536)):
                    return
                other[source].sendall(data)
