"""A TCP relay on loopback between a device and one listener of the server: it counts, and can fall silent.

Silent, it takes what comes and passes nothing on, and closes nothing: so a cut line looks from both ends.
What it counts is the kernel's own count of each connection (`TCP_INFO`), as the packets on a wire would be.
"""

import contextlib
import select
import socket
import struct
import threading
from dataclasses import dataclass

from tests.support.acceptor import LOOK_S, Acceptor

IP_HEADER, TCP_HEADER = 20, 32
"""IPv4 without options; TCP with timestamps, as Linux sends it."""
_INFO = struct.Struct("120x QQ II")


@dataclass(frozen=True, slots=True)
class Wire:
    """What went over the device's side: bytes of content up (from the device) and down, and packets of both ways."""

    connections: int
    up: int
    down: int
    packets: int

    @property
    def content(self) -> int:
        """What TCP carried: TLS with everything inside it."""
        return self.up + self.down

    @property
    def total(self) -> int:
        """The same with the headers of TCP and IP."""
        return self.content + self.packets * (IP_HEADER + TCP_HEADER)

    def __sub__(self, before: "Wire") -> "Wire":
        return Wire(
            self.connections - before.connections, self.up - before.up, self.down - before.down,
            self.packets - before.packets,
        )  # fmt: skip

    def __add__(self, other: "Wire") -> "Wire":
        return Wire(
            self.connections + other.connections, self.up + other.up, self.down + other.down,
            self.packets + other.packets,
        )  # fmt: skip


NOTHING = Wire(0, 0, 0, 0)


def counted(connection: socket.socket) -> Wire:
    """What the kernel has counted of a connection that the device opened."""
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    acked, received, sent_packets, received_packets = _INFO.unpack(raw)
    return Wire(1, received, acked, sent_packets + received_packets)


class Relay(Acceptor):
    """Listens on a free port of loopback for `port`. `silent` may be set at any time, and taken back."""

    def __init__(self, port: int) -> None:
        self._target, self.silent = port, False
        self._lock = threading.Lock()
        self._near: set[socket.socket] = set()
        self._past = NOTHING
        super().__init__()

    @property
    def wire(self) -> Wire:
        """What went over the devices' side since the beginning."""
        with self._lock:
            total = self._past
            for near in self._near:
                total += counted(near)
            return total

    def serve(self, near: socket.socket) -> None:
        """One connection, until either side ends it; while silent, until the end of the silence."""
        with self._lock:
            self._near.add(near)
        with near, contextlib.suppress(OSError):
            try:
                with socket.create_connection(("127.0.0.1", self._target)) as far:
                    self._pass(near, far)
            finally:
                with self._lock:
                    self._near.discard(near)
                    self._past += counted(near)

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        while not self.ended.is_set():
            for source in select.select(list(other), [], [], LOOK_S)[0]:
                data = source.recv(65_536)
                if self.silent:
                    if not data:
                        self.ended.wait(LOOK_S)
                    continue
                if not data:
                    return
                other[source].sendall(data)
