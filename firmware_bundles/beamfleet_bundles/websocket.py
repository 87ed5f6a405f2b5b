"""Owns the frames of WebSocket (RFC 6455) as device and server use them: one stream of bytes, both ways.

What is carried is the TLS connection between device and broker; whoever passes it on sees nothing of it. No text, no
extensions. Everything that arrives is hostile: what breaks a rule, or is larger than `MAX_FRAME`, ends the connection.
Pure; loads nothing that weighs, since the resident agent has it.
"""

import binascii
import hashlib

PATH = "/mqtt"
PROTOCOL = "mqtt-tls"
VERSION = "13"
MAX_FRAME = 65_536
MAX_CONTROL = 125
CONTINUATION, BINARY, CLOSE, PING, PONG = 0, 2, 8, 9, 10
_KNOWN = frozenset((CONTINUATION, BINARY, CLOSE, PING, PONG))
_FINAL, _MASKED = 0x80, 0x80
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept(key: str) -> str:
    """What a server answers to the key of a request, to show that it has read it."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def is_key(key: str) -> bool:
    """Whether this may be the key of a request: base64 of 16 bytes."""
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except ValueError:
        return False


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """One whole frame; a client's has a mask of 4 random bytes, a server's none."""
    size, bit = len(payload), _MASKED if mask else 0
    if size <= MAX_CONTROL:
        head = bytes((_FINAL | opcode, bit | size))
    elif size < 1 << 16:
        head = bytes((_FINAL | opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, bit | 127)) + size.to_bytes(8, "big")
    return head + mask + (_masked(payload, mask) if mask else payload)


class Frames:
    """Finds the frames in a stream. `masked`: whether they come from a client."""

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._rest = bytearray()
        self._within = False
        """A message has begun and not ended."""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(opcode, payload) of each frame that is whole now; pieces of a message are each told as `BINARY`.

        Error: ValueError, in words, for what is no such frame.
        """
        self._rest += data
        found = []
        while (one := self._first()) is not None:
            found.append(one)
        return found

    def _first(self) -> tuple[int, bytes] | None:
        rest = self._rest
        if len(rest) < 2:
            return None
        opcode = self._checked(rest[0], rest[1])
        short = rest[1] & 0x7F
        wide = {126: 2, 127: 8}.get(short, 0)
        start = 2 + wide + (4 if self._masked else 0)
        if len(rest) < 2 + wide:
            return None
        size = int.from_bytes(rest[2 : 2 + wide], "big") if wide else short
        if size > MAX_FRAME:
            raise ValueError("a frame is too large")
        if len(rest) < start + size:
            return None
        payload = bytes(rest[start : start + size])
        if self._masked:
            payload = _masked(payload, bytes(rest[start - 4 : start]))
        if opcode < CLOSE:
            self._within, opcode = not rest[0] & _FINAL, BINARY
        del rest[: start + size]
        return opcode, payload

    def _checked(self, first: int, second: int) -> int:
        opcode = first & 0x0F
        if first & 0x70 or opcode not in _KNOWN:
            raise ValueError("a frame is of no kind that was agreed")
        if bool(second & _MASKED) is not self._masked:
            raise ValueError("a frame is masked as it must not be")
        if opcode >= CLOSE and (not first & _FINAL or second & 0x7F > MAX_CONTROL):
            raise ValueError("a control frame is too large or in pieces")
        if opcode < CLOSE and (opcode == CONTINUATION) is not self._within:
            raise ValueError("a message begins or goes on out of turn")
        return opcode


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
