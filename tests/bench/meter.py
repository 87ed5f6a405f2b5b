"""Sits between one device and the broker and takes its MQTT apart: payload, MQTT's own bytes, those of TLS.

It holds the server's certificate and the device's, so both sides speak to it as to each other; each MQTT packet that
comes in is passed on in a TLS record of its own, as agent and broker write them. Changes nothing, decides nothing.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.relay import NOTHING, Wire, counted

Pair = tuple[Path, Path]
PUBLISH = 3
TYPES = (
    "", "connect", "connack", "publish", "puback", "pubrec", "pubrel", "pubcomp", "subscribe", "suback", "unsubscribe",
    "unsuback", "pingreq", "pingresp", "disconnect", "auth",
)  # fmt: skip
_LOOK_S = 0.1
_RECORD_HEADER = 5


@dataclass(frozen=True, slots=True)
class Packet:
    """An MQTT packet. `name`: its type, and for a PUBLISH the last part of the topic. Sizes in bytes: `payload` is part
    of `mqtt`, `mqtt` is part of `tls`. `at`: monotonic seconds."""

    up: bool
    name: str
    content: bytes
    mqtt: int
    tls: int
    at: float

    @property
    def payload(self) -> int:
        """Bytes of the message itself."""
        return len(self.content)


class Meter:
    """Listens on a free port of loopback for the broker at `port`; `packets` is what has passed."""

    def __init__(self, port: int, server: Pair, device: Pair, ca: Path) -> None:
        self._target, self._device, self._ca = port, device, ca
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*server)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(ca)
        self.packets: list[Packet] = []
        self.failures: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._near: socket.socket | None = None
        self._past = NOTHING
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        """End it, and the session."""
        self._ended.set()
        self._thread.join()
        self._listening.close()

    @property
    def wire(self) -> Wire:
        """What the kernel counted on the device's side, handshakes included."""
        near = self._near
        return self._past + counted(near) if near is not None else self._past

    def published(self, name: str, *, up: bool = True) -> list[Packet]:
        """The messages of a kind, such as `health`."""
        return [packet for packet in self.packets if packet.name == f"publish {name}" and packet.up is up]

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listening], [], [], _LOOK_S)[0]:
                near, _ = self._listening.accept()
                with near:
                    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    try:
                        self._serve(near)
                    except (OSError, ValueError) as error:
                        self.failures.append(str(error))
                    finally:
                        self._past, self._near = self._past + counted(near), None

    def _serve(self, near: socket.socket) -> None:
        self._near = near
        client = ssl.create_default_context(cafile=str(self._ca))
        client.load_cert_chain(*self._device)
        with (
            socket.create_connection(("127.0.0.1", self._target)) as plain,
            client.wrap_socket(plain, server_hostname="localhost") as far,
        ):
            _Session(self, near, far, ssl.MemoryBIO(), ssl.MemoryBIO()).run()

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The broker's side of TLS with the device."""
        return self._context.wrap_bio(incoming, outgoing, server_side=True)

    @property
    def ended(self) -> bool:
        """Whether it is to stop."""
        return self._ended.is_set()


class _Session:
    """One connection of the device."""

    def __init__(
        self, meter: Meter, near: socket.socket, far: ssl.SSLSocket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._meter, self._near, self._far = meter, near, far
        self._incoming, self._outgoing = incoming, outgoing
        self._tls = meter.wrap(incoming, outgoing)
        self._shaken = False
        self._raw = b""
        self._halves = {True: _Half(), False: _Half()}

    def run(self) -> None:
        """Until one side ends."""
        while not self._meter.ended:
            ready = [self._far] if self._far.pending() else select.select([self._near, self._far], [], [], _LOOK_S)[0]
            if self._near in ready and not self._from_device():
                return
            if self._far in ready and not self._from_broker():
                return

    def _from_device(self) -> bool:
        data = self._near.recv(65_536)
        self._raw += data
        while len(self._raw) >= _RECORD_HEADER:
            size = _RECORD_HEADER + int.from_bytes(self._raw[3:_RECORD_HEADER], "big")
            if len(self._raw) < size:
                break
            record, self._raw = self._raw[:size], self._raw[size:]
            self._incoming.write(record)
            if not self._shake():
                continue
            plain = self._read()
            for packet in self._halves[True].take(plain, len(record) - len(plain)):
                self._note(packet, up=True)
                self._far.setblocking(True)
                self._far.sendall(packet.whole)
        return bool(data)

    def _from_broker(self) -> bool:
        self._far.setblocking(False)
        try:
            data = self._far.recv(65_536)
        except ssl.SSLWantReadError:
            return True
        for packet in self._halves[False].take(data, 0):
            self._tls.write(packet.whole)
            record = self._outgoing.read()
            self._near.sendall(record)
            self._note(_Cut(packet.whole, len(record) - len(packet.whole)), up=False)
        return bool(data)

    def _shake(self) -> bool:
        """Whether the handshake is over; its last record holds no MQTT."""
        if self._shaken:
            return True
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self._shaken = True
        self._near.sendall(self._outgoing.read())
        return self._shaken

    def _read(self) -> bytes:
        plain = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while data := self._tls.read(65_536):
                plain += data
        return plain

    def _note(self, cut: "_Cut", *, up: bool) -> None:
        name, content = _opened(cut.whole)
        size = len(cut.whole)
        self._meter.packets.append(Packet(up, name, content, size, size + cut.overhead, time.monotonic()))


@dataclass(frozen=True, slots=True)
class _Cut:
    """A whole packet, and the bytes of TLS that it cost beside its own."""

    whole: bytes
    overhead: int


class _Half:
    """One direction: a stream of bytes that is cut into packets."""

    def __init__(self) -> None:
        self._rest, self._overhead = b"", 0

    def take(self, data: bytes, overhead: int) -> list[_Cut]:
        """The packets that these bytes complete."""
        self._rest += data
        self._overhead += overhead
        found = []
        while (size := _size(self._rest)) and len(self._rest) >= size:
            found.append(_Cut(self._rest[:size], self._overhead))
            self._rest, self._overhead = self._rest[size:], 0
        return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer of MQTT and where it ends; (0, 0) when it is not whole."""
    value = 0
    for place in range(4):
        if at + place >= len(data):
            return 0, 0
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise ValueError("no MQTT")


def _size(data: bytes) -> int:
    """How long the packet is that begins here; 0 when that cannot be told yet."""
    rest, header = _number(data, 1)
    return header + rest if header else 0


def _opened(packet: bytes) -> tuple[str, bytes]:
    """What a packet is, and the payload of a PUBLISH."""
    kind = TYPES[packet[0] >> 4]
    if kind != TYPES[PUBLISH]:
        return kind, b""
    _, at = _number(packet, 1)
    end = at + 2 + int.from_bytes(packet[at : at + 2], "big")
    topic = packet[at + 2 : end].decode()
    properties, at = _number(packet, end + (2 if packet[0] & 6 else 0))
    return f"{kind} {topic.rpartition('/')[2]}", packet[at + properties :]
