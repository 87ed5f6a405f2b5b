"""MQTT over WebSocket: the agent's own session through the devices' listener of a real server to its real broker."""

import json
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import session as module
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.proxy import Proxy
from beamfleet_agent.road import Way
from beamfleet_agent.session import Session
from beamfleet_agent.settings import Server as Place

from tests.support.http_proxy import HttpProxy
from tests.support.server import Identity, Server, running_server

Spin = Callable[[str, Callable[[], object]], None]
MACHINE = "0" * 32


class Device:
    """A session of an enrolled device that goes by the HTTPS listener, and what it heard."""

    def __init__(self, loop: Loop, server: Server, identity: Identity, way: Way | None = None) -> None:
        self.ups = self.downs = 0
        self.heard: list[tuple[str, bytes]] = []
        self._server, self._identity = server, identity
        self._log, writing = os.pipe()
        os.set_blocking(self._log, False)
        place = Place(server.facts["devices"], server.facts["enrolment"], "192.0.2.1", 1)  # the broker is nowhere else
        self.session = Session(
            loop, Log(writing), lambda: [place], identity.device, "main", 60, self._context,
            birth=lambda n: self._presence(n, online=True),
            will=lambda n: self._presence(n, online=False),
            bye=lambda n, _: self._presence(n, online=False),
            on_up=self._up, on_down=self._down,
            on_message=lambda kind, payload: self.heard.append((kind, payload)),
            way=way or Way(websocket=True),
        )  # fmt: skip

    def log(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in os.read(self._log, 1 << 20).splitlines()]
        except BlockingIOError:
            return []

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self._server.ca)
        context.load_cert_chain(self._identity.certificate, self._identity.key)
        return context

    def _presence(self, session: int, *, online: bool) -> bytes:
        facts = {"agent": "0.1.0", "profile": "wired", "time": 1_700_000_000, "machine": MACHINE, "reason": "x"}
        return json.dumps({"v": 1, "session": session, "online": online} | facts).encode()

    def _up(self) -> None:
        self.ups += 1

    def _down(self) -> None:
        self.downs += 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("websocket") / "data") as running:
        yield running


def online(server: Server, device: str) -> bool:
    return bool(server.get(f"/devices/{device}")["online"])


def test_a_device_is_online_by_the_port_of_the_api_alone_and_says_good_bye(
    loop: Loop, server: Server, spin: Spin, tmp_path: Path
) -> None:
    device = Device(loop, server, server.enrol("ws-1", tmp_path))
    device.session.start()
    spin("a session", lambda: device.ups)
    spin("the server to show it", lambda: online(server, "ws-1"))
    assert device.log()[-1]["port"] == int(server.facts["devices"].rpartition(":")[2])
    device.session.stop()
    spin("its good-bye", lambda: not online(server, "ws-1"))


def test_long_messages_pass_and_many_of_them_in_order(loop: Loop, server: Server, spin: Spin, tmp_path: Path) -> None:
    identity = server.enrol("ws-2", tmp_path)
    device = Device(loop, server, identity)
    device.session.start()
    spin("a session", lambda: device.ups)
    long = json.dumps({"v": 1, "id": "x", "lines": ["y" * 500] * 50, "missed": 0, "end": True}).encode()
    for _ in range(40):
        assert device.session.publish("logs", long)
    client = device.session._client
    assert client
    spin("what was sent to be acknowledged", lambda: not client._out_messages)
    assert device.session.up
    device.session.stop()


def test_a_revoked_device_is_put_out_and_stays_out(
    loop: Loop, server: Server, spin: Spin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.05)
    device = Device(loop, server, server.enrol("ws-3", tmp_path))
    device.session.start()
    spin("a session", lambda: device.ups)
    assert server.api("POST", "/devices/ws-3/revoke", json={}).status_code < 300
    spin("its end", lambda: device.downs)
    said: list[dict[str, Any]] = []

    def refused() -> bool:
        said.extend(device.log())
        return any("status 403" in str(line.get("detail")) for line in said)

    spin("a refusal", refused)
    device.session.stop()


def test_the_broker_itself_refuses_whom_it_does_not_know_although_the_listener_lets_him_pass(
    loop: Loop, server: Server, spin: Spin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the WebSocket TLS is with the broker: a device of a certificate without a session is nobody there."""
    device = Device(loop, server, server.enrol("ws-4", tmp_path))
    shown = device._context()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(server.ca)
    contexts = [shown, bare]
    device.session._road._make_context = lambda: contexts.pop(0)
    device.session.start()
    lines: list[dict[str, Any]] = []

    def down() -> bool:
        lines.extend(device.log())
        return bool(lines)

    spin("a refusal", down)
    device.session.stop()
    assert lines[0]["event"] == "session down"
    assert device.ups == 0


def test_a_killed_broker_ends_the_session_and_it_comes_back(
    loop: Loop, server: Server, spin: Spin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.1)
    monkeypatch.setattr(module, "BACKOFF_CAP_S", 0.5)
    device = Device(loop, server, server.enrol("ws-5", tmp_path))
    device.session.start()
    spin("a session", lambda: device.ups == 1)
    pid = server.broker_pid
    assert pid
    os.kill(pid, 9)
    spin("its end", lambda: device.downs == 1)
    spin("another session", lambda: device.ups == 2)
    device.session.stop()


def test_proxy_and_websocket_together(loop: Loop, server: Server, spin: Spin, tmp_path: Path) -> None:
    with HttpProxy(secret="me:it's secret") as proxy:
        way = Way(Proxy("127.0.0.1", proxy.port), websocket=True, secret=lambda: "me:it's secret")
        device = Device(loop, server, server.enrol("ws-6", tmp_path), way)
        device.session.start()
        spin("a session", lambda: device.ups)
        device.session.stop()
    assert len(proxy.asked) == 1
    assert "secret" not in str(device.log())


def test_whoever_asks_for_something_else_there_is_told_so(server: Server, tmp_path: Path) -> None:
    whole = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "A" * 22 + "==", "Sec-WebSocket-Protocol": "mqtt-tls",
    }  # fmt: skip
    identity = server.enrol("ws-7", tmp_path)
    broken = [
        {},
        *({name: value for name, value in whole.items() if name != missing} for missing in whole),
        {**whole, "Upgrade": "h2c"},
        {**whole, "Sec-WebSocket-Protocol": "mqtt"},
        {**whole, "Sec-WebSocket-Version": "8"},
        {**whole, "Sec-WebSocket-Key": "A" * 24},
    ]
    for headers in broken:
        answer = server.fetch(identity, "/mqtt", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "request.malformed"), headers


def test_one_device_holds_only_so_many_passages_and_they_end_with_what_breaks_a_rule(
    server: Server, tmp_path: Path
) -> None:
    import socket

    identity = server.enrol("ws-8", tmp_path)
    context = ssl.create_default_context(cafile=str(server.ca))
    context.load_cert_chain(identity.certificate, identity.key)
    host, _, port = server.facts["devices"].removeprefix("https://").rpartition(":")
    question = (
        f"GET /mqtt HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: x, mqtt-tls\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
    )

    def ask() -> tuple[ssl.SSLSocket, bytes]:
        connection = context.wrap_socket(socket.create_connection((host, int(port)), 20), server_hostname=host)
        connection.sendall(question.encode())
        return connection, connection.recv(4096)

    opened = [ask() for _ in range(5)]
    assert [said.split(b" ", 2)[1] for _, said in opened] == [b"101"] * 4 + [b"429"]
    for connection, _ in opened[:4]:
        connection.sendall(b"\x82\x01a")  # not masked
        assert connection.recv(1) == b""
    again, said = ask()
    assert said.startswith(b"HTTP/1.1 101")
    for connection in (again, *(connection for connection, _ in opened)):
        connection.close()


def test_a_server_that_stops_waits_for_no_passage_and_devices_come_back(
    loop: Loop, server: Server, spin: Spin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.1)
    device = Device(loop, server, server.enrol("ws-9", tmp_path))
    device.session.start()
    spin("a session", lambda: device.ups == 1)
    assert server.stop() == 0
    server.start()
    spin("another session", lambda: device.ups == 2)
    device.session.stop()
    assert "Traceback" not in server.log.read_text()
