"""Who sits between a device and its server and holds the server's own certificate: TLS does not stop them any more.

`Interceptor` stands in place of the devices' HTTPS listener, `FalseBroker` in place of mosquitto; `redirect` sends a
device there, as a stolen name or a bent route would. Nothing of the server itself is altered.
"""

import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from beamfleet_bundles import topics
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.support.fleet import Device, free_port, wait_for

Pair = tuple[Path, Path]
"""Files of a certificate and of its key."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a device asked for and what the real server says to it."""

    path: str
    query: str
    status: int
    content: bytes


Answer = Callable[[Exchange], "bytes | int | Iterator[bytes]"]
"""What the device hears instead: content, a status without any, or pieces for as long as there are some."""


def always(said: bytes | int) -> Answer:
    """The same answer whatever is asked."""
    return lambda _: said


def server_pair(data: Path, folder: Path) -> Pair:
    """A copy of the certificate that the server shows to devices, and of its key."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("server.pem", "server.key"):
        shutil.copy(data / "ca" / name, folder / name)
    return folder / "server.pem", folder / "server.key"


def identity_of(device: Device) -> Pair:
    """The certificate and the key on the disk of a device: one file with both."""
    pair = device.root / "var/lib/beamfleet/identity/pair.pem"
    return pair, pair


class Interceptor:
    """HTTPS that passes everything on to `upstream` as the device `identity`, but for the paths in `answers`.

    A key of `answers` is a path, or its beginning if it ends with `*`. upstream: None, and there is no server behind.
    """

    def __init__(self, pair: Pair, ca: Path, upstream: str | None = None, identity: Pair | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.heard: dict[str, bytes] = {}
        """What the real server said last, by path."""
        self.asked: list[str] = []
        self._upstream, self._ca, self._identity = upstream, ca, identity
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def address(self) -> str:
        """Its URL."""
        return f"https://localhost:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fetch(self, path: str) -> bytes:
        """What the real server says to the device, which is remembered in `heard`."""
        exchange = self._ask("GET", path, "", b"")
        assert exchange.status == 200, exchange
        return exchange.content

    def _ask(self, method: str, path: str, query: str, body: bytes) -> Exchange:
        if self._upstream is None:
            return Exchange(path, query, 404, b"")
        assert self._identity is not None
        url = f"{self._upstream}{path}{f'?{query}' if query else ''}"
        pair = (str(self._identity[0]), str(self._identity[1]))
        answer = requests.request(method, url, data=body or None, cert=pair, verify=str(self._ca), timeout=30)
        if answer.status_code == 200:
            self.heard[path] = answer.content
        return Exchange(path, query, answer.status_code, answer.content)

    def _answer(self, exchange: Exchange) -> "bytes | int | Iterator[bytes]":
        for key, answer in self.answers.items():
            if exchange.path == key or (key.endswith("*") and exchange.path.startswith(key[:-1])):
                return answer(exchange)
        return exchange.content if exchange.status == 200 else exchange.status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                front.asked.append(parts.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                said = front._answer(front._ask(self.command, parts.path, parts.query, body))
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.send_response(said if isinstance(said, int) else 200)
                    whole = isinstance(said, bytes | int)
                    if isinstance(said, bytes | int):
                        said = said if isinstance(said, bytes) else b""
                        self.send_header("Content-Length", str(len(said)))
                        said = iter([said])
                    else:
                        self.send_header("Connection", "close")
                    self.end_headers()
                    for piece in said:
                        self.wfile.write(piece)
                    self.close_connection = not whole

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler


class FalseBroker:
    """A mosquitto of somebody else, with the fleet's certificate and no rules, and its owner's hands on it."""

    def __init__(self, folder: Path, pair: Pair, ca: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, back_door = free_port(), free_port()
        configuration = folder / "mosquitto.conf"
        configuration.write_text(
            f"user {getpass.getuser()}\nlog_dest none\nallow_anonymous true\nmax_packet_size 1048576\n"
            f"listener {self.port} 127.0.0.1\ncafile {ca}\ncertfile {pair[0]}\nkeyfile {pair[1]}\n"
            f"listener {back_door} 127.0.0.1\n"
        )
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert program, "mosquitto is not installed"
        self._process = subprocess.Popen([program, "-c", str(configuration)], stderr=subprocess.DEVNULL)
        self.heard: list[tuple[str, str, bytes]] = []
        """(device, kind, payload) of what devices published."""
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, "owner", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        wait_for("the false broker", lambda: self._connect(back_door), deadline_s=20)
        self._client.loop_start()
        assert self._subscribed.wait(20)

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"localhost:{self.port}"

    def close(self) -> None:
        """End it."""
        self._client.disconnect()
        self._client.loop_stop()
        self._process.terminate()
        self._process.wait(20)

    def tell(self, device: str, kind: str, payload: bytes | dict[str, Any], *, retain: bool = False) -> None:
        """Publish on `down/KIND` of a device."""
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        topic = topics.down(device, "main", kind)
        self._client.publish(topic, content, qos=1, retain=retain).wait_for_publish(20)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What devices published of a kind."""
        with self._changed:
            return [json.loads(payload) for _, found, payload in self.heard if found == kind]

    def wait(self, what: str, look: Callable[[], Any], deadline_s: float = 30) -> Any:
        """The first true answer of `look`, asked after each message."""
        end = time.monotonic() + deadline_s
        with self._changed:
            while not (answer := look()):
                left = end - time.monotonic()
                assert left > 0, f"waited {deadline_s:.0f} s for {what}"
                self._changed.wait(left)
            return answer

    def _connect(self, port: int) -> bool:
        assert self._process.poll() is None, "mosquitto ended"
        try:
            self._client.connect("127.0.0.1", port)
        except OSError:
            return False
        return True

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe(f"{topics.PREFIX}/+/+/up/+", 1)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        device, _, _, kind = topics.parse(message.topic)
        with self._changed:
            self.heard.append((device, kind, bytes(message.payload)))
            self._changed.notify_all()


def redirect(device: Device, **addresses: str) -> None:
    """Have a device find its server elsewhere, and start its agent anew: `api`, `enrol` are URLs, `mqtt` host:port."""
    settings = device.root / "etc/beamfleet/agent.toml"
    text = settings.read_text()
    for name, address in addresses.items():
        text, count = re.subn(rf'^{name} = ".*"$', f'{name} = "{address}"', text, flags=re.MULTILINE)
        assert count == 1, text
    settings.write_text(text)
    restart_agent(device)


def restart_agent(device: Device) -> int:
    """End the agent of a device; its init starts it again. The new pid."""
    before = wait_for("the agent", device.agent_pid, deadline_s=30)
    os.kill(before, signal.SIGTERM)

    def another() -> int | None:
        pid = device.agent_pid()
        return pid if pid != before else None

    return wait_for("another agent", another, deadline_s=30)
