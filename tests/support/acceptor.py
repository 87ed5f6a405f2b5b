"""Listens on a free port and serves each connection in a thread of its own, until it is closed: what tests put between
a device and its server."""

import select
import socket
import threading
from typing import Self

LOOK_S = 0.1
"""How often a thread looks whether it is over."""


class Acceptor:
    """`serve` is what a kind of it does with a connection, which it closes; `ended` is set when all is over."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = int(self._listening.getsockname()[1])
        self.ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and every connection."""
        self.ended.set()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def serve(self, near: socket.socket) -> None:
        raise NotImplementedError

    def _accept(self) -> None:
        while not self.ended.is_set():
            if select.select([self._listening], [], [], LOOK_S)[0]:
                near, _ = self._listening.accept()
                self._threads.append(thread := threading.Thread(target=self.serve, args=(near,)))
                thread.start()
