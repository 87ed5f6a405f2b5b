"""Owns the questions that the agent asks on this machine: beamfleet_link, an HTTP path, a port. All in the loop.

Says what is wrong in the words of a report; what follows from it is for others to decide.
"""

import os
import socket
from collections.abc import Callable

from beamfleet_agent.inquiry import Inquiry, local_address
from beamfleet_agent.loop import Loop

LINK_TIMEOUT_S = 5.0

OnEnd = Callable[[str], None]
"""Hears what is wrong; "" when nothing is."""


class Questions:
    """Each is asked once and answered once, unless `close` comes first."""

    def __init__(self, loop: Loop, link_sock: str) -> None:
        self._loop, self._link_sock = loop, link_sock
        self._open: set[Inquiry] = set()

    def link(self, on_line: Callable[[bytes], None]) -> None:
        """What beamfleet_link says now; nothing, if it does not answer."""
        try:
            address, descriptor = local_address(self._link_sock)
        except OSError:
            self._loop.soon(lambda: on_line(b""))
            return

        def answered(line: bytes, _why: str) -> None:
            if descriptor >= 0:
                os.close(descriptor)
            on_line(line)

        self._ask(socket.AF_UNIX, address, b"", b"\n", LINK_TIMEOUT_S, answered)

    def http(self, target: str, timeout_s: float, good: range, on_end: OnEnd) -> None:
        """Whether GET of `PORT/PATH` on 127.0.0.1 answers with a good status."""
        port, _, path = target.partition("/")
        question = f"GET /{path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: beamfleet-agent\r\n\r\n".encode()

        def answered(answer: bytes, why: str) -> None:
            words = answer.split(b"\r\n", 1)[0].split()
            status = words[1].decode("ascii", "replace")[:3] if len(words) > 1 and words[0].startswith(b"HTTP/") else ""
            well = len(status) == 3 and status.isascii() and status.isdecimal() and int(status) in good
            on_end("" if well else f"GET :{port}/{path}: {status or why or 'no HTTP'}")

        self._ask(socket.AF_INET, ("127.0.0.1", int(port)), question, b"\r\n", timeout_s, answered)

    def tcp(self, port: str, timeout_s: float, on_end: OnEnd) -> None:
        """Whether somebody takes connections at this port of 127.0.0.1."""

        def answered(_answer: bytes, why: str) -> None:
            on_end(f"port {port}: {why}" if why else "")

        self._ask(socket.AF_INET, ("127.0.0.1", int(port)), None, b"", timeout_s, answered)

    def close(self) -> None:
        """Want no answers any more."""
        for inquiry in self._open:
            inquiry.close()
        self._open.clear()

    def _ask(
        self,
        family: socket.AddressFamily,
        address: str | tuple[str, int],
        question: bytes | None,
        end: bytes,
        timeout_s: float,
        on_answer: Callable[[bytes, str], None],
    ) -> None:
        def answered(answer: bytes, why: str) -> None:
            self._open.discard(inquiry)
            on_answer(answer, why)

        inquiry = Inquiry(self._loop, family, address, question, lambda data: end in data, timeout_s, answered)
        self._open.add(inquiry)
