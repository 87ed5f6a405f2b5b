"""Owns a way through WebSocket: what the session writes into `near` goes out in frames, and back. Knows no MQTT.

    session ── TLS ── near ═ socket pair ═ far ── frames ── TLS ── the server's HTTPS listener ── the broker

The session speaks TLS with the broker itself, over `near`, as over any other connection; the server passes on what it
cannot read. Loaded only where `transport = "websocket"`. Never more than one read waits in either direction.
"""

import os
import socket
import ssl

from beamfleet_bundles import websocket

from beamfleet_agent.loop import READ, WRITE, Loop
from beamfleet_agent.proxy import Head, joined

_PIECE = 16_384
_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def new_key() -> str:
    """The key of a request."""
    import binascii

    return binascii.b2a_base64(os.urandom(16), newline=False).decode()


def request(host: str, port: int, key: str) -> bytes:
    """What asks the server for the way."""
    lines = (
        f"GET {websocket.PATH} HTTP/1.1",
        f"Host: {joined(host, port)}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Version: {websocket.VERSION}",
        f"Sec-WebSocket-Protocol: {websocket.PROTOCOL}",
        f"Sec-WebSocket-Key: {key}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def refusal(head: Head, key: str) -> str:
    """Why the way is not open after all; empty if it is."""
    if head.status != 101:
        return f"the server gives no WebSocket: status {head.status}"
    if head.fields.get(b"sec-websocket-accept") != websocket.accept(key).encode():
        return "the server's answer is not to our WebSocket"
    if head.fields.get(b"sec-websocket-protocol") != websocket.PROTOCOL.encode():
        return "the server speaks something else over WebSocket"
    return ""


class Tunnel:
    """Frames over `outer`, bytes over `near`. `rest`: what came behind the server's answer."""

    def __init__(self, loop: Loop, outer: ssl.SSLSocket, rest: bytes) -> None:
        self._loop, self._outer = loop, outer
        self.near, self._far = socket.socketpair()
        self.near.setblocking(False)
        self._far.setblocking(False)
        self._frames = websocket.Frames(masked=False)
        self._up = self._down = b""
        self._open = True
        try:
            self._take(rest)
        except (OSError, ValueError):
            self.close()
        else:
            self._turn()

    def flush(self, within_s: float) -> None:
        """Send what the session has written, and wait for that, but not longer."""
        if not self._open:
            return
        try:
            self._outer.settimeout(within_s)
            self._upward()
        except OSError:
            return

    def close(self) -> None:
        """End it; the session sees the end of `near`."""
        if self._open:
            self._open = False
            for each in (self._far, self._outer):
                self._loop.unwatch(each.fileno())
                each.close()

    def _turn(self, _events: int = 0) -> None:
        """Move whatever moves, then wait for the rest."""
        try:
            self._upward()
            self._downward()
        except (OSError, ValueError):
            self.close()
            return
        self._wait(self._outer, (0 if self._down else READ) | (WRITE if self._up else 0))
        self._wait(self._far, (0 if self._up else READ) | (WRITE if self._down else 0))

    def _upward(self) -> None:
        try:
            while self._open:
                while self._up:
                    self._up = self._up[self._outer.send(self._up) :]
                if not (data := self._far.recv(_PIECE)):
                    raise ConnectionResetError
                self._up = websocket.frame(websocket.BINARY, data, os.urandom(4))
        except _WAIT:
            return

    def _downward(self) -> None:
        try:
            while self._open:
                while self._down:
                    self._down = self._down[self._far.send(self._down) :]
                if not (data := self._outer.recv(_PIECE)):
                    raise ConnectionResetError
                self._take(data)
        except _WAIT:
            return

    def _take(self, data: bytes) -> None:
        for opcode, payload in self._frames.feed(data):
            if opcode == websocket.BINARY:
                self._down += payload
            elif opcode == websocket.CLOSE:
                raise ConnectionResetError
            elif opcode == websocket.PING and not self._up:
                self._up = websocket.frame(websocket.PONG, payload, os.urandom(4))

    def _wait(self, connection: socket.socket, events: int) -> None:
        if events:
            self._loop.watch(connection.fileno(), events, self._turn)
        else:
            self._loop.unwatch(connection.fileno())
