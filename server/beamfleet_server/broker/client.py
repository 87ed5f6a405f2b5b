"""Owns the server's MQTT session: what devices send, acknowledged when we say so; what they are sent.

paho runs in its own thread and hands messages over in a list; everything else happens in the event loop. A message
belongs to a connection (`generation`): packet ids are reused after a reconnect, so what was not acknowledged by then
never is, and the broker sends it again."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from beamfleet_bundles import topics
from paho.mqtt import client as paho_client
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from beamfleet_server.bell import Bell
from beamfleet_server.broker.configuration import MAX_PACKET, SYNC, subscriptions
from beamfleet_server.ca import KeyPair
from beamfleet_server.errors import ServerError

KEEPALIVE_S = 15
SESSION_S = 86_400
"""How long the broker keeps for us what devices send while we are away."""
RECONNECT_S = (0.1, 5.0)
INFLIGHT = 1000

_log = structlog.get_logger(__name__)


def _pair() -> tuple[socket.socket, socket.socket]:
    """What wakes paho's thread: its own would be two sockets on 127.0.0.1, which a machine of IPv6 alone may not
    have."""
    pair = socket.socketpair()
    for each in pair:
        each.setblocking(False)
    return pair


paho_client._socketpair_compat = _pair  # noqa: SLF001 (there is no other way in)


@dataclass(frozen=True, slots=True)
class Received:
    """A message of a device, not yet acknowledged."""

    topic: str
    payload: bytes
    packet: int
    generation: int


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is up, our subscriptions stand, and this is the retained epoch marker (None if there is none)."""

    generation: int
    epoch: bytes | None


class BrokerClient:
    """The session `_server`. Use: `start`, then `take`, `acknowledge`, `publish`, `connected`; at last `stop`."""

    def __init__(self, host: str, port: int, pair: KeyPair, authority: str) -> None:
        self.address = (host, port)
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(pair.certificate, pair.key)
        client = Client(
            CallbackAPIVersion.VERSION2, topics.SERVER, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        client.tls_set_context(context)
        self._context = context
        client.reconnect_delay_set(*RECONNECT_S)  # type: ignore[arg-type]  # seconds, and parts of them are understood
        client.max_inflight_messages_set(INFLIGHT)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        self._client = client
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._generation = 0
        self._epoch: bytes | None = None
        self._arrived = asyncio.Event()
        self._changed = Bell()
        self._connected: Connected | None = None
        self._pending: dict[int, asyncio.Future[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Connect, and again whenever the connection is lost."""
        self._loop = asyncio.get_running_loop()
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connect.SessionExpiryInterval = SESSION_S
        connect.MaximumPacketSize = 2 * MAX_PACKET
        host, port = self.address
        self._client.connect_async(host, port, KEEPALIVE_S, clean_start=False, properties=connect)
        self._client.loop_start()

    def use(self, pair: KeyPair, authority: str) -> None:
        """Show this certificate from the next connection on, and trust what the file `authority` has as well."""
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._context.load_verify_locations(authority)

    async def stop(self) -> None:
        """Disconnect and end the thread."""
        self._change(None)
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    @property
    def up(self) -> bool:
        """True while the broker listens to us."""
        return self._connected is not None

    @property
    def waiting(self) -> int:
        """Messages that came in and that nobody has taken."""
        return len(self._received)

    async def connected(self) -> Connected:
        """Wait for a connection that is up."""
        while self._connected is None:
            await self._changed.next.wait()
        return self._connected

    def still(self, connection: Connected) -> bool:
        """True while this connection is up."""
        return self._connected is connection

    async def lost(self, connection: Connected) -> None:
        """Wait until this connection is no longer up."""
        while self._connected is connection:
            await self._changed.next.wait()

    async def take(
        self, most: int, wait_s: float, longest_s: float = 0.0, patient: Callable[[str], bool] = lambda _: False
    ) -> list[Received]:
        """At least one message; after the first one more are awaited for `wait_s`, up to `most`. While all are on
        topics that are `patient` that goes on, up to `longest_s`: the first other one ends it, and overtakes none."""
        while not self._received:
            self._arrived.clear()
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        end, looked, waits = loop.time() + longest_s, 0, True
        while waits and wait_s and len(self._received) < most:
            await asyncio.sleep(wait_s)
            new = self._received[looked:]
            looked += len(new)
            waits = loop.time() < end and all(patient(message.topic) for message in new)
        with self._lock:
            taken, self._received = self._received[:most], self._received[most:]
        return taken

    def acknowledge(self, messages: Sequence[Received]) -> None:
        """Tell the broker that these are committed; those of an earlier connection are left to it."""
        for message in messages:
            if message.generation == self._generation:
                self._client.ack(message.packet, 1)

    def tell(self, topic: str, payload: bytes, expiry_s: int) -> None:
        """Send, without waiting to hear that it went: who needs it asks again."""
        if self.up:
            self._client.publish(topic, payload, qos=1, properties=_expiring(expiry_s))

    def forget(self, topic: str) -> None:
        """Take back what is retained on a topic, if the broker listens."""
        if self.up:
            self._client.publish(topic, b"", qos=1, retain=True)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None) -> None:
        """Publish and wait until the broker has it; error `broker.down`."""
        if not self.up:
            raise _down()
        properties = _expiring(expiry_s) if expiry_s else None
        packet = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).mid
        self._pending[packet] = future = asyncio.get_running_loop().create_future()
        try:
            await future
        finally:
            self._pending.pop(packet, None)

    # In paho's thread.

    def _call(self, function: Any, *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(self, client: Client, _: Any, __: ConnectFlags, reason: ReasonCode, ___: Properties | None) -> None:
        if reason.is_failure:
            _log.error("the broker refuses us", detail=str(reason))
            return
        self._epoch = None
        devices = [(topic, SubscribeOptions(qos=1, retainHandling=2)) for topic in subscriptions()]
        ours = [(topics.EPOCH, SubscribeOptions(qos=0, noLocal=True)), (SYNC, SubscribeOptions(qos=0))]
        client.subscribe([*devices, *ours])

    def _on_subscribe(self, client: Client, _: Any, __: int, codes: list[ReasonCode], ___: Properties | None) -> None:
        if any(code.is_failure for code in codes):
            _log.error("the broker refuses our subscriptions", detail="; ".join(map(str, codes)))
        client.publish(SYNC, str(self._generation), qos=0)

    def _on_disconnect(
        self, _: Client, __: Any, ___: DisconnectFlags, reason: ReasonCode, ____: Properties | None
    ) -> None:
        with self._lock:
            self._generation += 1
        self._call(self._lost, str(reason))

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        if message.topic == topics.EPOCH:
            self._epoch = bytes(message.payload)
        elif message.topic == SYNC:
            if message.payload == str(self._generation).encode():
                self._call(self._found, Connected(self._generation, self._epoch))
        else:
            with self._lock:
                self._received.append(Received(message.topic, bytes(message.payload), message.mid, self._generation))
                first = len(self._received) == 1
            if first:
                self._call(self._arrived.set)

    def _on_publish(self, _: Client, __: Any, packet: int, reason: ReasonCode, ___: Properties) -> None:
        self._call(self._published, packet, str(reason) if reason.is_failure else "")

    # In the event loop.

    def _found(self, connected: Connected) -> None:
        self._change(connected)
        _log.info("connected to the broker", generation=connected.generation)

    def _lost(self, reason: str) -> None:
        if self._connected is not None:
            _log.warning("lost the broker", detail=reason)
        self._change(None)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(_down())

    def _change(self, connected: Connected | None) -> None:
        self._connected = connected
        self._changed.ring()

    def _published(self, packet: int, refused: str) -> None:
        future = self._pending.get(packet)
        if future is not None and not future.done():
            if refused:
                future.set_exception(ServerError("broker.failed", f"the broker refuses a message: {refused}"))
            else:
                future.set_result(None)


def _expiring(expiry_s: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = expiry_s
    return properties


def _down() -> ServerError:
    return ServerError("broker.down", "the broker cannot be reached", "it is started again by itself; try again soon")
