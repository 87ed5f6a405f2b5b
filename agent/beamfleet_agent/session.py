"""Owns the MQTT session: one connection at a time to the broker, over mTLS, in the agent's own loop, never a thread.

    start -> road.py: TLS -> CONNECT -> CONNACK: subscribe, birth, `on_up` -> lost: `on_down`, and again

paho-mqtt speaks the protocol; it would connect and shake hands in one blocking call, so the socket comes from road.py,
step by step, and is handed over (`_Client._create_socket`; a test goes red if paho stops asking for it). Each
connection is a new client with a clean session: reports.py sends again what counts. Of several places the next one is
tried after each failure, with the same back-off; after a session that was, the first.
"""

import os
import ssl
from collections.abc import Callable, Sequence

from beamfleet_bundles import topics

from beamfleet_agent.log import Log
from beamfleet_agent.loop import READ, WRITE, Loop
from beamfleet_agent.paho import (
    CallbackAPIVersion,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTErrorCode,
    MQTTMessage,
    PacketTypes,
    Properties,
    ReasonCode,
    protocol_v5,
)  # fmt: skip
from beamfleet_agent.road import Road, Way
from beamfleet_agent.settings import Server

CONNECT_LIMIT_S = 15.0
BACKOFF_FIRST_S, BACKOFF_CAP_S = 1.0, 60.0
STABLE_S = 30.0
STOP_LIMIT_S = 2.0
TEND_LATER_S = 0.25
"""paho notes the time of a packet a little later than we do."""
MAX_PACKET = 65_536
DOWN = topics.DOWN_KINDS


class Session:
    """Keeps a session with the broker until `stop`.

    servers: where to look now, the preferred place first. make_context: a client-side TLS context with the device's
    certificate; may raise OSError. birth, will, bye: payloads for up/presence of connection `n`, counted from 1; bye
    is told why. on_message(kind, payload) for each message below down/. way: how the broker is reached. tends_itself:
    pings by a timer of its own, for a keepalive that is shorter than the rounds of whoever calls `tend`.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        servers: Callable[[], Sequence[Server]],
        device: str,
        app: str,
        keepalive_s: int,
        make_context: Callable[[], ssl.SSLContext],
        birth: Callable[[int], bytes],
        will: Callable[[int], bytes],
        bye: Callable[[int, str], bytes],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        way: Way = Way(),  # noqa: B008 - a value
        *,
        tends_itself: bool = False,
    ) -> None:
        self._loop, self._log, self._servers = loop, log, servers
        self._server = servers()[0]
        self._turn = 0
        self._device, self._app, self._keepalive_s = device, app, keepalive_s
        self._birth, self._will, self._bye = birth, will, bye
        self._on_up, self._on_down, self._on_message = on_up, on_down, on_message
        self._topics = {topics.down(device, app, kind): kind for kind in DOWN}
        self._count = 0
        self._failures = 0
        self._up_since = self._spoke = self._heard = 0.0
        self._up = False
        self._way, self._tends_itself = way, tends_itself
        self._road = Road(loop, way, make_context, self._speak, self._lost)
        self._socket: ssl.SSLSocket | None = None
        self._client: Client | None = None
        self._notes = _Notes()

    @property
    def up(self) -> bool:
        """Whether the broker has accepted us."""
        return self._up

    def start(self) -> None:
        """Connect now."""
        self._loop.cancel("session.retry")
        self._loop.after("session.limit", CONNECT_LIMIT_S, lambda: self._lost("no session in time"))
        places = self._servers()
        self._server = places[self._turn % len(places)]
        self._road.go(self._server)

    def stop(self, why: str = "agent stopped") -> None:
        """Say good-bye, within two seconds, and stay away."""
        if self._client is not None and self._socket is not None and self._up:
            self.publish("presence", self._bye(self._count, why))
            self._client.disconnect()
            self._socket.settimeout(STOP_LIMIT_S)
            self._client.loop_write()
            self._road.flush(STOP_LIMIT_S)
        self._drop()
        self._loop.cancel("session.retry")

    def publish(self, kind: str, payload: bytes, expiry_s: int | None = None) -> bool:
        """Hand `payload` to the broker, QoS 1; False when there is no session. `expiry_s`: how long it is of use."""
        if self._client is None or not self._up:
            return False
        properties = None if expiry_s is None else _properties(PacketTypes.PUBLISH, MessageExpiryInterval=expiry_s)
        topic = topics.up(self._device, self._app, kind)
        self._spoke = self._loop.now()
        return self._client.publish(topic, payload, qos=1, properties=properties).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def tend(self) -> None:
        """Send or miss a ping, as due; to be called at least once in a keepalive. Costs no wake-up of its own.

        paho would ping in every keepalive, whatever else is said and answered: that is bytes, and a wake-up.
        """
        if self._client is not None and self._up and self._quiet_s() >= self._keepalive_s:
            self._client.loop_misc()
            self._settle()

    def _tend_again(self) -> None:
        self.tend()
        if self._up:
            left_s = self._keepalive_s - self._quiet_s()
            self._loop.after(
                "session.tend", (left_s if left_s > 0 else self._keepalive_s) + TEND_LATER_S, self._tend_again
            )

    def _quiet_s(self) -> float:
        return self._loop.now() - min(self._spoke, self._heard)

    # --- paho from here on

    def _speak(self, tls: ssl.SSLSocket) -> None:
        self._count, self._socket = self._count + 1, tls
        client, self._notes = _Client(self._device, tls), _Notes()
        client.will_set(topics.up(self._device, self._app, "presence"), self._will(self._count), qos=1)
        client.on_connect = self._notes.connected
        client.on_message = self._notes.heard
        client.on_disconnect = self._notes.disconnected
        client.on_socket_register_write = lambda *_: self._loop.watch(tls.fileno(), READ | WRITE, self._ready)
        client.on_socket_unregister_write = lambda *_: self._loop.watch(tls.fileno(), READ, self._ready)
        client.on_socket_close = lambda *_: self._loop.unwatch(tls.fileno())
        self._client = client
        self._loop.watch(tls.fileno(), READ, self._ready)
        limits = _properties(PacketTypes.CONNECT, MaximumPacketSize=MAX_PACKET)
        host, port = self._server.mqtt_host, self._server.mqtt_port
        client.connect(host, port, self._keepalive_s, clean_start=True, properties=limits)

    def _ready(self, events: int) -> None:
        client, tls = self._client, self._socket
        if client is None or tls is None:
            return
        if events & WRITE:
            client.loop_write()
        if events & READ and client.socket() is not None:
            self._heard = self._loop.now()
            client.loop_read()
            while client.socket() is not None and tls.pending():  # read ahead by TLS: the selector cannot see it
                client.loop_read()
        self._settle()

    def _settle(self) -> None:
        """Act on what paho's callbacks noted; not inside them, where its locks are held."""
        client, notes = self._client, self._notes
        if client is None:
            return
        if notes.accepted and not self._up and not notes.ended:
            self._rise(client)
        while notes.inbox and client is self._client:
            topic, payload = notes.inbox.pop(0)
            if topic in self._topics:
                self._on_message(self._topics[topic], payload)
        if notes.ended and client is self._client:
            self._lost(notes.ended)

    def _rise(self, client: Client) -> None:
        self._up, self._up_since = True, self._loop.now()
        self._loop.cancel("session.limit")
        client.subscribe([(topic, 1) for topic in self._topics])
        self.publish("presence", self._birth(self._count))
        host, port = self._way.end(self._server)
        self._log.info("session up", host=host, port=port, session=self._count)
        if self._tends_itself:
            self._tend_again()
        self._on_up()

    def _lost(self, why: str) -> None:
        was_up, lasted = self._up, self._loop.now() - self._up_since
        self._drop()
        self._failures = 1 if was_up and lasted >= STABLE_S else self._failures + 1
        self._turn = 0 if was_up else self._turn + 1
        limit = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(self._failures - 1, 16))
        delay = limit * (0.5 + int.from_bytes(os.urandom(2), "big") / 131_072)
        self._log.warning(
            "session down", host=self._way.end(self._server)[0], detail=why, retry_after_s=round(delay, 1)
        )
        self._loop.after("session.retry", delay, self.start)
        if was_up:
            self._on_down()

    def _drop(self) -> None:
        self._up = False
        if self._client is not None:
            self._client.on_socket_close = None
            self._client.on_socket_unregister_write = None
            self._client = None
        self._socket = None
        self._loop.cancel("session.limit")
        self._loop.cancel("session.tend")
        self._road.close()


class _Notes:
    """What paho's callbacks heard; they do nothing else, since its locks are held around them."""

    def __init__(self) -> None:
        self.accepted = False
        self.ended = ""
        self.inbox: list[tuple[str, bytes]] = []

    def connected(self, _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _: object) -> None:
        self.accepted = not reason.is_failure
        if reason.is_failure:
            self.ended = f"the broker refused us: {reason}"

    def disconnected(
        self, _client: Client, _data: object, _flags: DisconnectFlags, reason: ReasonCode, _: object
    ) -> None:
        self.ended = self.ended or f"disconnected: {reason}"

    def heard(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.inbox.append((message.topic, bytes(message.payload)))


class _Client(Client):
    """A paho client that is given its socket."""

    def __init__(self, client_id: str, tls: ssl.SSLSocket) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=protocol_v5, reconnect_on_failure=False)
        self._given = tls

    def _create_socket(self) -> ssl.SSLSocket:
        return self._given


def _properties(kind: int, **values: int) -> Properties:
    properties = Properties(kind)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
