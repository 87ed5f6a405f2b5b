"""Owns one MQTT session over mTLS in the event loop, and coming back when it is lost. paho-mqtt speaks the protocol.

    dial (at most so many handshakes at once) -> TLS -> CONNECT -> CONNACK: subscribe, birth, `risen` -> `fallen`, again

No thread: the loop watches the socket, and paho reads and writes when it says so. The socket is made here, since paho
would connect and shake hands in one blocking call. Each connection is a new client with a clean session, as of a real
agent; the pauses between them are an agent's as well: 1 s, doubled each time up to a minute, half of it jitter.
"""

import asyncio
import json
import random
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from beamfleet_bundles import topics
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

APP = "main"
MAX_PACKET = 65_536
BACKOFF_FIRST_S, BACKOFF_CAP_S = 1.0, 60.0
STABLE_S = 30.0
CONNECT_LIMIT_S = 30.0
MAX_SAID = 8_192


class Speaker(Protocol):
    """Whose session it is."""

    def presence(self, connection: int, online: bool, reason: str) -> bytes:
        """Birth, will or farewell."""
        ...

    def risen(self) -> None:
        """There is a session."""
        ...

    def fallen(self) -> None:
        """There is none any more."""
        ...

    def heard(self, kind: str, said: dict[str, Any] | bytes) -> None:
        """A message."""
        ...


class Place:
    """Where the broker is, and how many may knock at once. pair: a PEM file with certificate and key."""

    def __init__(self, host: str, port: int, authority: str, most: int, count: Callable[..., None]) -> None:
        self.host, self.port, self.count = host, port, count
        self.gate = asyncio.Semaphore(most)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(cadata=authority)

    def wrap(self, plain: socket.socket, pair: Path) -> ssl.SSLSocket:
        """A client's TLS over this socket, with this certificate; error OSError. One context serves all: a session
        takes the certificate along that is in it when it is made."""
        self._context.load_cert_chain(pair)
        return self._context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)


class Link:
    """Keeps a session for `speaker` between `open` and `close`."""

    def __init__(self, place: Place, device: str, pair: Path, speaker: Speaker, keepalive_s: int) -> None:
        self._place, self._device, self._pair, self._speaker = place, device, pair, speaker
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._kinds = {topics.down(device, APP, kind): kind for kind in topics.DOWN_KINDS}
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._socket: ssl.SSLSocket | None = None
        self._accepted: asyncio.Future[str] | None = None
        self._ended = asyncio.Event()
        self._inbox: list[MQTTMessage] = []
        self._reports: set[int] = set()
        """Packet ids of reports of health that the broker has not taken yet."""
        self._connections = 0
        self._away_s = 0.0
        self._up = False

    @property
    def up(self) -> bool:
        """Whether the broker has accepted us."""
        return self._up

    @property
    def waiting(self) -> bool:
        """Whether the broker has not taken a report of health yet."""
        return bool(self._reports)

    def open(self) -> None:
        """Have a session from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def close(self, why: str = "") -> None:
        """Have none. With a reason it says farewell; without, the broker finds out."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if why and self.up and self._client is not None:
            self.publish("presence", self._speaker.presence(self._connections, False, why))
            self._client.disconnect()
            self._client.loop_write()
        self._drop()

    def cut(self, away_s: float) -> None:
        """The power fails; the session comes back after so long."""
        self._away_s = away_s
        self._drop()

    def publish(self, kind: str, payload: bytes, expiry_s: int | None = None) -> bool:
        """Hand this to the broker, QoS 1; False without a session."""
        if self._client is None or not self.up:
            return False
        properties = None
        if expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        topic = topics.up(self._device, APP, kind)
        sent = self._client.publish(topic, payload, qos=1, properties=properties)
        if kind == "health":
            self._place.count("reports")
            self._reports.add(sent.mid)
        return sent.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def tend(self) -> None:
        """Ping when it is due; to be called a few times in a keepalive."""
        if self._client is not None and self.up:
            self._client.loop_misc()
            self._settle()

    async def _run(self) -> None:
        failures = 0
        while True:
            async with self._place.gate:
                began = self._loop.time()
                try:
                    async with asyncio.timeout(CONNECT_LIMIT_S):
                        refused = await self._connect()
                except (OSError, ssl.SSLError, TimeoutError) as error:
                    refused = str(error) or "no answer in time"
            if refused:
                self._place.count("refused_connects")
                self._drop()
            else:
                self._place.count("connects")
                self._rise()
                await self._ended.wait()
            lasted = self._loop.time() - began
            failures = 1 if not refused and lasted >= STABLE_S else failures + 1
            pause_s = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))
            away_s, self._away_s = self._away_s, 0.0
            await asyncio.sleep(away_s + pause_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def _connect(self) -> str:
        """A session that the broker has accepted, or why there is none."""
        self._ended.clear()
        self._inbox.clear()
        plain = socket.socket(socket.AF_INET6 if ":" in self._place.host else socket.AF_INET)
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found = await self._loop.getaddrinfo(self._place.host, self._place.port, family=plain.family)
            await self._loop.sock_connect(plain, found[0][4])
            tls = self._place.wrap(plain, self._pair)
        except BaseException:
            plain.close()
            raise
        self._socket = tls
        await self._shake(tls)
        self._accepted = self._loop.create_future()
        self._speak(tls)
        return await self._accepted

    async def _shake(self, tls: ssl.SSLSocket) -> None:
        while True:
            try:
                tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._ready(tls, self._loop.add_reader, self._loop.remove_reader)
            except ssl.SSLWantWriteError:
                await self._ready(tls, self._loop.add_writer, self._loop.remove_writer)

    async def _ready(self, tls: ssl.SSLSocket, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        descriptor = tls.fileno()
        ready: asyncio.Future[None] = self._loop.create_future()
        add(descriptor, _resolve, ready)
        try:
            await ready
        finally:
            remove(descriptor)

    def _speak(self, tls: ssl.SSLSocket) -> None:
        self._connections += 1
        client = _Client(self._device, tls)
        will = self._speaker.presence(self._connections, False, "connection lost")
        client.will_set(topics.up(self._device, APP, "presence"), will, qos=1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = lambda _, __, message: self._inbox.append(message)
        descriptor = tls.fileno()
        client.on_socket_register_write = lambda *_: self._loop.add_writer(descriptor, self._writable)
        client.on_socket_unregister_write = lambda *_: self._unwatch(descriptor)
        client.on_socket_close = lambda *_: self._forget(descriptor)
        self._client = client
        self._loop.add_reader(descriptor, self._readable)
        limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = MAX_PACKET
        client.connect(self._place.host, self._place.port, self._keepalive_s, clean_start=True, properties=limits)

    def _unwatch(self, descriptor: int) -> None:
        self._loop.remove_writer(descriptor)

    def _forget(self, descriptor: int) -> None:
        """Before the socket is closed: its number will be another's."""
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)

    def _rise(self) -> None:
        client = self._client
        if client is None:
            return
        self._up = True
        client.subscribe([(topic, 1) for topic in self._kinds])
        self.publish("presence", self._speaker.presence(self._connections, True, "connected"))
        self._speaker.risen()
        self._settle()

    def _readable(self) -> None:
        client, tls = self._client, self._socket
        if client is None or tls is None:
            return
        client.loop_read()
        while client.socket() is not None and tls.pending():  # read ahead by TLS: the selector cannot see it
            client.loop_read()
        self._settle()

    def _writable(self) -> None:
        if self._client is not None:
            self._client.loop_write()
            self._settle()

    def _settle(self) -> None:
        """Act on what came; not in paho's callbacks, where its locks are held."""
        if not self.up:
            return
        while self._inbox and self.up:
            message = self._inbox.pop(0)
            kind = self._kinds.get(message.topic)
            if kind is not None and len(message.payload) <= MAX_SAID:
                self._speaker.heard(
                    kind, bytes(message.payload) if kind == "desired" else _decoded(bytes(message.payload))
                )
        if self._client is not None and self._client.socket() is None:
            self._drop()

    def _on_connect(self, _: Client, __: object, ___: object, reason: ReasonCode, ____: object) -> None:
        if self._accepted is not None and not self._accepted.done():
            self._accepted.set_result(str(reason) if reason.is_failure else "")

    def _on_publish(self, _: Client, __: object, packet: int, ___: object, ____: object) -> None:
        if packet in self._reports:
            self._reports.discard(packet)
            self._place.count("reports_taken")

    def _on_disconnect(self, _: Client, __: object, ___: object, reason: ReasonCode, ____: object) -> None:
        if self._accepted is not None and not self._accepted.done():
            self._accepted.set_result(f"disconnected: {reason}")
        self._loop.call_soon(self._gone, self._socket)

    def _gone(self, which: ssl.SSLSocket | None) -> None:
        if which is not None and which is self._socket:
            self._drop()

    def _drop(self) -> None:
        was_up, self._up = self._up, False
        self._place.count("reports_unsure", len(self._reports))
        self._reports.clear()
        client, self._client = self._client, None
        tls, self._socket = self._socket, None
        if client is not None:
            client.on_disconnect = None
            client.on_socket_unregister_write = None
            client.on_socket_register_write = None
            client.on_socket_close = None
        if tls is not None and tls.fileno() >= 0:
            self._forget(tls.fileno())
            tls.close()
        self._ended.set()
        if was_up:
            self._place.count("lost_sessions")
            self._speaker.fallen()


class _Client(Client):
    """A paho client that is given its socket."""

    def __init__(self, client_id: str, tls: ssl.SSLSocket) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
        )
        self._given = tls

    def _create_socket(self) -> ssl.SSLSocket:
        return self._given


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _decoded(payload: bytes) -> dict[str, Any]:
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
