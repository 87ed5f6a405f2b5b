"""A device as far as MQTT goes: a real paho client with a real certificate, and messages in the real shapes.

The agent is not used: the server is what is tested, and it must not matter who speaks.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beamfleet_bundles import topics
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.support.server import DEADLINE_S, Identity

NEVER: dict[str, Any] = {"phase": "none", "attempt": 0, "manifest": "", "product": "", "version": ""}


class _Client(Client):
    """paho forgets to close a socket whose handshake has failed, and Python complains of that whenever it likes."""

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        assert self._ssl_context is not None
        tls = self._ssl_context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        tls.settimeout(self._connect_timeout)
        try:
            tls.do_handshake()
        except BaseException:
            tls.close()
            raise
        return tls


class MqttDevice:
    """Connects as `identity`. `received` are (kind or topic, payload) in order of arrival."""

    def __init__(
        self,
        identity: Identity,
        address: str,
        ca: Path,
        *,
        session: int = 1,
        subscribe: str = "",
        machine: str = "0" * 32,
    ) -> None:
        self.name = identity.device
        self.session, self.machine = session, machine
        self.boot, self.seq = session, 0
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(identity.certificate, identity.key)
        self._client = _Client(CallbackAPIVersion.VERSION2, identity.device, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set_context(context)
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        will = json.dumps(self._presence(online=False, reason="will")).encode()
        self._client.will_set(topics.up(self.name, "main", "presence"), will, qos=1)
        self._client.reconnect_delay_set(0.1, 1)  # type: ignore[arg-type]
        self._subscribe = subscribe or f"{topics.PREFIX}/{self.name}/main/down/+"
        self._changed = threading.Condition()
        self._answers: list[tuple[int, str]] = []
        self.received: list[tuple[str, bytes]] = []
        self.connections = 0
        self._client.connect_async(host, int(port), 5)
        self._client.loop_start()
        self.wait("a connection", lambda: self.connections)

    def close(self) -> None:
        """Disconnect without a will."""
        self._client.disconnect()
        self._client.loop_stop()

    def vanish(self) -> None:
        """Lose the connection, as a device without power does: the broker publishes the will."""
        self._client.loop_stop()
        sock = self._client.socket()
        assert sock is not None
        sock.close()

    def wait(self, what: str, look: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
        """The first true answer of `look`, asked after each thing that arrives."""
        end = time.monotonic() + deadline_s
        with self._changed:
            while not (answer := look()):
                left = end - time.monotonic()
                assert left > 0, f"{self.name} waited {deadline_s:.0f} s for {what}"
                self._changed.wait(left)
            return answer

    def publish(self, kind: str, message: dict[str, Any] | bytes, *, device: str = "", retain: bool = False) -> str:
        """Publish on `up/KIND`, of another device if it is named; what the broker answers, such as `Success`."""
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.publish_on(topics.up(device or self.name, "main", kind), payload, retain=retain)

    def publish_on(self, topic: str, payload: bytes, *, retain: bool = False) -> str:
        """Publish on any topic; what the broker answers."""
        seen = len(self._answers)
        packet = self._client.publish(topic, payload, qos=1, retain=retain).mid
        return str(self.wait("the broker's answer", lambda: dict(self._answers[seen:]).get(packet)))

    def birth(self) -> None:
        """Say that this session is online."""
        self.publish("presence", self._presence(online=True, reason="start"))

    def farewell(self, session: int) -> None:
        """Say that a session, perhaps an old one, is offline."""
        self.publish("presence", self._presence(online=False, reason="bye") | {"session": session})

    def report(self, **changes: Any) -> tuple[int, int]:
        """Publish a state that differs from an empty device in `changes`; its (boot, seq)."""
        self.seq += 1
        self.publish("state", state(self.boot, self.seq, **changes))
        return self.boot, self.seq

    def event(self, kind: str, cause: str, **changes: Any) -> tuple[int, int]:
        """Publish an event; its (boot, seq)."""
        self.seq += 1
        numbers = {"v": 1, "boot": self.boot, "seq": self.seq, "time": 1_700_000_000}
        self.publish("event", numbers | {"kind": kind, "cause": cause, "detail": "", "slot": "", "data": {}} | changes)
        return self.boot, self.seq

    def acknowledged(self, number: tuple[int, int]) -> None:
        """Wait until the server says that everything up to `number` is committed."""
        self.wait(f"the ack of {number}", lambda: number in self.acks)

    def wait_for_offer(self, count: int = 1) -> dict[str, Any]:
        """Wait until so many assignments have come; the signed part of the last one."""
        self.wait(f"assignment {count}", lambda: len(self.desired) >= count)
        return self.desired[-1]

    @property
    def acks(self) -> list[tuple[int, int]]:
        """What the server has acknowledged."""
        decoded = [json.loads(payload) for kind, payload in self.received if kind == "ack"]
        return [(ack["boot"], ack["seq"]) for ack in decoded]

    @property
    def desired(self) -> list[dict[str, Any]]:
        """The signed part of each assignment that came."""
        return [json.loads(payload)["signed"] for kind, payload in self.received if kind == "desired"]

    def _presence(self, *, online: bool, reason: str) -> dict[str, Any]:
        facts = {"agent": "0.1.0", "profile": "wired", "time": 1_700_000_000, "machine": self.machine}
        return {"v": 1, "session": self.session, "online": online, "reason": reason} | facts

    def _on_connect(self, client: Client, *_: Any) -> None:
        client.subscribe(self._subscribe, options=SubscribeOptions(qos=1))

    def _on_subscribe(self, *_: Any) -> None:
        with self._changed:
            self.connections += 1
            self._changed.notify_all()

    def _on_publish(self, _: Client, __: Any, packet: int, reason: ReasonCode, ___: Any) -> None:
        with self._changed:
            self._answers.append((packet, str(reason)))
            self._changed.notify_all()

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        own = message.topic.startswith(f"{topics.PREFIX}/{self.name}/main/down/")
        with self._changed:
            self.received.append((message.topic.rpartition("/")[2] if own else message.topic, bytes(message.payload)))
            self._changed.notify_all()


def state(boot: int, seq: int, **changes: Any) -> dict[str, Any]:
    """A message for `up/state`: an x86_64 glibc device that has never run anything, but for `changes`."""
    inventory = {
        "agent": "0.1.0",
        "arch": "x86_64",
        "libc": "glibc",
        "libc_version": "2.36",
        "machine": "x86_64",
        "hardware": "",
        "kernel": "Linux 6.1",
        "os": "Debian 12",
        "python": "3.11.7",
        "filesystem": "ext4",
        "unsafe_filesystem": False,
        "free_bytes": 1 << 30,
        "cpus": 2,
        "memory_bytes": 1 << 30,
    } | changes.pop("inventory", {})
    numbers = {"v": 1, "boot": boot, "seq": seq, "time": 1_700_000_000, "sequence": 0, "starts": 0, "power_losses": 0}
    texts = {"slot": "", "previous": "", "cause": "", "failed": ""}
    metadata = {"root": 0, "timestamp": 0, "snapshot": 0, "targets": 0, "products": {}} | changes.pop("metadata", {})
    objects = {"update": None, "inventory": inventory, "metadata": metadata}
    return numbers | texts | NEVER | objects | {"stopped": False} | changes


def update(phase: str, manifest: str, attempt: int = 1, reason: str = "") -> dict[str, Any]:
    """The object `update` of a state."""
    names = {"product": "sensor-gateway", "version": "1.0.0"}
    return {"phase": phase, "manifest": manifest, "attempt": attempt, "reason": reason, "detail": ""} | names


def committed(manifest: str, version: str = "1.0.0", attempt: int = 1) -> dict[str, Any]:
    """What changes in a state when `boot/state` is committed on a manifest."""
    names = {"product": "sensor-gateway", "version": version, "slot": manifest[:32], "manifest": manifest}
    return names | {"phase": "committed", "attempt": attempt, "update": update("committed", manifest, attempt)}
