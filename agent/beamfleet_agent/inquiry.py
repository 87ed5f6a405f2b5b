"""Owns one bounded question to something on this machine: connect, send, read until enough is there, all in the loop.

For beamfleet_link's Unix socket and for probes on 127.0.0.1. Asks once; who wants to know again asks again.
"""

import errno
import os
import socket
from collections.abc import Callable

from beamfleet_agent.loop import READ, WRITE, Loop

MAX_ANSWER = 65_536


class Inquiry:
    """Asks `address` and calls `on_answer` once: with the bytes, or with what went wrong.

    question: None wants to know only whether somebody takes the connection.
    enough: whether the bytes so far are an answer; the end of the stream ends it as well.
    """

    def __init__(
        self,
        loop: Loop,
        family: socket.AddressFamily,
        address: str | tuple[str, int],
        question: bytes | None,
        enough: Callable[[bytes], bool],
        timeout_s: float,
        on_answer: Callable[[bytes, str], None],
    ) -> None:
        self._loop, self._question, self._enough, self._on_answer = loop, question, enough, on_answer
        self._answer = b""
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._timer = f"inquiry {id(self)}"
        loop.after(self._timer, timeout_s, lambda: self._end("no answer in time"))
        try:
            failure = self._socket.connect_ex(address)
        except OSError as error:
            failure = error.errno or errno.EINVAL
        if failure in (0, errno.EINPROGRESS):
            loop.watch(self._socket.fileno(), READ if question == b"" else WRITE, self._ready)
        else:
            loop.soon(lambda: self._end(os.strerror(failure)))

    def _ready(self, _events: int) -> None:
        try:
            if self._question is None:
                failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._end(os.strerror(failure) if failure else "")
                return
            if self._question:
                self._question = self._question[self._socket.send(self._question) :]
                if not self._question:
                    self._loop.watch(self._socket.fileno(), READ, self._ready)
                return
            data = self._socket.recv(MAX_ANSWER)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(os.strerror(error.errno or errno.EIO))
            return
        self._answer += data
        if not data or self._enough(self._answer):
            self._end("")
        elif len(self._answer) > MAX_ANSWER:
            self._end("the answer is too long")

    def close(self) -> None:
        """Want no answer any more."""
        if self._socket.fileno() >= 0:
            self._loop.cancel(self._timer)
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _end(self, why: str) -> None:
        if self._socket.fileno() >= 0:
            self.close()
            self._on_answer(self._answer if not why else b"", why)


def local_address(path: str) -> tuple[str, int]:
    """A path for a Unix socket that fits into 108 bytes however deep it lies, and the descriptor to close after use.

    The descriptor is -1 when the path fits as it is.
    """
    if len(os.fsencode(path)) < 108:
        return path, -1
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{descriptor}/{name}", descriptor
