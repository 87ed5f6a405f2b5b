"""A real mosquitto with mTLS for one test, and a client with the server's name that hears what devices say."""

import getpass
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from beamfleet_bundles import topics
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.agent.authority import Authority

CONFIGURATION = """
listener {port} 127.0.0.1
cafile {ca}
certfile {certificate}
keyfile {key}
require_certificate true
use_identity_as_username true
max_packet_size 65536
log_dest none
user {user}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """Starts at once; `kill` and `start` are what a crash and a supervisor do."""

    def __init__(self, authority: Authority, ends: datetime | None = None) -> None:
        self._authority, self.port = authority, free_port()
        certificate, key = authority.issue("broker", ends)
        self._configuration = authority.folder / "mosquitto.conf"
        self._configuration.write_text(
            CONFIGURATION.format(
                port=self.port, ca=authority.path, certificate=certificate, key=key, user=getpass.getuser()
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(self._configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, "mosquitto did not start"
                assert self._process.poll() is None, "mosquitto ended"
                time.sleep(0.02)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


class Listener:
    """Hears everything that devices publish; `messages` are (device, kind, content)."""

    def __init__(self, authority: Authority, port: int) -> None:
        certificate, key = authority.issue("_server")
        context = ssl.create_default_context(cafile=str(authority.path))
        context.load_cert_chain(certificate, key)
        self.messages: list[tuple[str, str, dict[str, Any]]] = []
        self._heard = threading.Condition()
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, "_server", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set_context(context)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(20)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def tell(self, device: str, kind: str, content: dict[str, Any] | bytes, *, retain: bool = False) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._client.publish(topics.down(device, "main", kind), payload, qos=1, retain=retain).wait_for_publish(20)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What was heard of one kind."""
        return [content for _, found, content in self.messages if found == kind]

    def wait(self, what: str, look: Callable[[], Any], deadline_s: float = 20) -> Any:
        """The first true answer of `look`, asked after each message."""
        end = time.monotonic() + deadline_s
        with self._heard:
            while not (answer := look()):
                assert self._heard.wait(end - time.monotonic()) or look(), f"waited {deadline_s} s for {what}"
            return answer

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe(f"{topics.PREFIX}/+/+/up/+", 1)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        device, _, _, kind = topics.parse(message.topic)
        with self._heard:
            self.messages.append((device, kind, json.loads(message.payload)))
            self._heard.notify_all()
