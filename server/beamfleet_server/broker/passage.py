"""Owns passing a device's WebSocket on to the broker, byte for byte; never knows what it passes on, and has no key.

    device ── TLS, WebSocket ── devices' listener ── near │ far ── mosquitto's TLS listener

Within the frames device and broker speak TLS with each other, as over any other connection: the broker itself sees the
device's certificate and its own revocation list. Who comes here was admitted by the devices' listener; all the same
frames are hostile, and nothing waits here but one read of either side. Only in the server's one event loop.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from beamfleet_bundles import websocket

from beamfleet_server.errors import ServerError

MOST = 20_000
MOST_OF_DEVICE = 4
"""At once: an old one may wait for the broker to find out that its line is dead."""
CONNECT_S = 5.0
SWITCH_S = 10.0
"""How long a passage waits for its device's side, which is there already."""


class Passages:
    """All passages to the broker at `host` and `port`."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._open: Counter[str] = Counter()

    def full(self, device: str) -> bool:
        """Whether there is no room for one more of this device."""
        return self._open[device] >= MOST_OF_DEVICE or self._open.total() >= MOST

    async def open(self, device: str) -> "Passage":
        """A passage that leads to the broker; error `broker.down`."""
        self._open[device] += 1
        passage = Passage(lambda: self._gone(device))
        try:
            connecting = asyncio.get_running_loop().create_connection(lambda: passage.far, self._host, self._port)
            await asyncio.wait_for(connecting, CONNECT_S)
        except (OSError, TimeoutError):
            passage.close()
            what, hint = "the broker cannot be reached", "it is started again by itself; try again soon"
            raise ServerError("broker.down", what, hint) from None
        except BaseException:
            passage.close()
            raise
        return passage

    def _gone(self, device: str) -> None:
        self._open[device] -= 1
        if not self._open[device]:
            del self._open[device]


class Passage:
    """Two connections that end together. `near`: the protocol for the device's, once it is a WebSocket."""

    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone
        self._closed = False
        self.near, self.far = _Near(self), _Far(self)
        self._waiting = asyncio.get_running_loop().call_later(SWITCH_S, self.close)

    def begun(self) -> None:
        """The device's side is there."""
        self._waiting.cancel()

    def close(self) -> None:
        """End both sides; what was taken is still delivered."""
        if not self._closed:
            self._closed = True
            self._waiting.cancel()
            self._gone()
            for side in (self.near, self.far):
                if side.transport is not None:
                    side.transport.close()


class _Side(asyncio.Protocol):
    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (streams, both of them)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self.passage.close()

    def other(self) -> "_Side":
        return self.passage.far if self is self.passage.near else self.passage.near

    def pause_writing(self) -> None:
        other = self.other().transport
        if other is not None and not other.is_closing():
            other.pause_reading()

    def resume_writing(self) -> None:
        other = self.other().transport
        if other is not None and not other.is_closing():
            other.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class _Near(_Side):
    """The device's side."""

    def __init__(self, passage: Passage) -> None:
        super().__init__(passage)
        self._frames = websocket.Frames(masked=True)
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.passage.begun()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except ValueError:
            self.passage.close()
            return
        for opcode, payload in frames:
            if opcode == websocket.BINARY:
                self.passage.far.write(payload)
            elif opcode == websocket.CLOSE:
                self.passage.close()
                return
        pings = [payload for opcode, payload in frames if opcode == websocket.PING]
        if pings and not self._full:  # one answer for many, which is for the newest; who does not read gets none
            self.write(websocket.frame(websocket.PONG, pings[-1]))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self._full = False


class _Far(_Side):
    """The broker's side. It has nothing to say before the device has: what it sends finds `near` there."""

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), websocket.MAX_FRAME):
            piece = data[start : start + websocket.MAX_FRAME]
            self.passage.near.write(websocket.frame(websocket.BINARY, piece))
