"""The MQTT session, against a real mosquitto over mTLS, in the agent's own loop."""

import itertools
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from beamfleet_agent import session as module
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.session import Session
from beamfleet_agent.settings import Server

from tests.agent.authority import Authority
from tests.agent.broker import Broker, Listener, free_port

Spin = Callable[[str, Callable[[], object]], None]


class Device:
    """A session and what it told."""

    def __init__(self, loop: Loop, authority: Authority, port: int, name: str = "gw-1", keepalive_s: int = 60) -> None:
        self.ups = self.downs = 0
        self.heard: list[tuple[str, bytes]] = []
        self.name, self._authority = name, authority
        self._pair = authority.issue(name)
        self.places = [Server("https://x", "https://x", "127.0.0.1", port)]
        self._log, self._write = os.pipe()
        os.set_blocking(self._log, False)
        self._lines = b""
        self.session = Session(
            loop,
            Log(self._write),
            lambda: self.places,
            name,
            "main",
            keepalive_s,
            self.context,
            birth=lambda n: json.dumps({"session": n, "online": True}).encode(),
            will=lambda n: json.dumps({"session": n, "online": False, "reason": "lost"}).encode(),
            bye=lambda n, _: json.dumps({"session": n, "online": False, "reason": "bye"}).encode(),
            on_up=self._up,
            on_down=self._down,
            on_message=lambda kind, payload: self.heard.append((kind, payload)),
        )

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self._authority.path)
        context.load_cert_chain(*self._pair)
        return context

    def log(self) -> list[dict[str, Any]]:
        """All lines so far."""
        try:
            self._lines += os.read(self._log, 1 << 20)
        except BlockingIOError:
            pass
        return [json.loads(line) for line in self._lines.splitlines()]

    def _up(self) -> None:
        self.ups += 1

    def _down(self) -> None:
        self.downs += 1


@pytest.fixture
def device(loop: Loop, authority: Authority, broker: Broker) -> Iterator[Device]:
    made = Device(loop, authority, broker.port)
    yield made
    made.session.stop()


def test_it_is_born_hears_what_is_for_it_and_says_good_bye(device: Device, listener: Listener, spin: Spin) -> None:
    listener.tell("gw-1", "desired", b"the assignment", retain=True)
    listener.tell("gw-2", "desired", b"of another device", retain=True)
    device.session.start()
    spin("the retained assignment", lambda: device.heard)
    listener.tell("gw-1", "ack", {"boot": 1, "seq": 2})
    spin("the ack", lambda: len(device.heard) == 2)
    assert device.heard == [("desired", b"the assignment"), ("ack", b'{"boot": 1, "seq": 2}')]
    assert device.session.publish("state", b'{"v":1}')
    spin("the state", lambda: listener.of("state"))
    device.session.stop()
    listener.wait("the good-bye", lambda: len(listener.of("presence")) == 2)
    assert [(said["session"], said["online"], said.get("reason")) for said in listener.of("presence")] == [
        (1, True, None),
        (1, False, "bye"),
    ]
    assert not device.session.up
    assert not device.session.publish("state", b"{}")


def test_messages_in_one_tls_record_are_all_heard(loop: Loop, authority: Authority, spin: Spin) -> None:
    """TLS reads the whole record ahead: the socket is no longer readable when the second message is due."""
    topic = b"beamfleet/v1/gw-1/main/down/ack"
    publish = bytes([0x30, 2 + len(topic) + 1 + 2, 0, len(topic)]) + topic + b"\0"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("broker"))
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            plain, _ = server.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(b"\x20\x03\0\0\0" + b"".join(publish + b"%02d" % number for number in range(20)))
                release.wait(30)

        speaking = threading.Thread(target=speak)
        speaking.start()
        device = Device(loop, authority, server.getsockname()[1])
        device.session.start()
        spin("all of them", lambda: len(device.heard) == 20)
        release.set()
        speaking.join()
    device.session.stop()
    assert [payload for _, payload in device.heard] == [b"%02d" % number for number in range(20)]


def test_a_burst_of_messages_is_heard_in_order(device: Device, listener: Listener, spin: Spin) -> None:
    device.session.start()
    spin("its birth", lambda: listener.of("presence"))
    for number in range(200):
        listener.tell("gw-1", "ack", {"boot": 1, "seq": number})
    spin("all of them", lambda: len(device.heard) == 200)
    assert [json.loads(payload)["seq"] for _, payload in device.heard] == list(range(200))


def test_a_killed_broker_is_noticed_and_the_next_one_is_found(
    device: Device, broker: Broker, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.05)
    device.session.start()
    spin("a session", lambda: device.ups == 1)
    broker.kill()
    spin("its loss", lambda: device.downs == 1)
    assert not device.session.up
    broker.start()
    spin("the next session", lambda: device.ups == 2)
    events = [line["event"] for line in device.log()]
    assert events[0] == "session up"
    assert events[-1] == "session up"
    assert "session down" in events


def test_the_pauses_between_tries_grow_and_are_jittered(
    loop: Loop, authority: Authority, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(module, "BACKOFF_CAP_S", 0.3)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        device = Device(loop, authority, nobody.getsockname()[1])
        device.session.start()
        spin("eight failures", lambda: len(device.log()) >= 8)
    lines = device.log()
    device.session.stop()
    assert {line["detail"] for line in lines} == {"Connection refused"}
    assert device.ups == device.downs == 0


def test_nothing_blocks_while_a_broker_accepts_and_says_nothing(loop: Loop, authority: Authority, spin: Spin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        device = Device(loop, authority, silent.getsockname()[1])
        device.session.start()
        ticks: list[float] = []

        def tick() -> None:
            ticks.append(loop.now())
            loop.after("tick", 0.05, tick)

        tick()
        spin("ticks", lambda: len(ticks) > 10)
        loop.cancel("tick")
        device.session.stop()
    assert max(late - early for early, late in itertools.pairwise(ticks)) < 2


def test_a_broker_that_says_nothing_is_given_up(
    loop: Loop, authority: Authority, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_LIMIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        device = Device(loop, authority, silent.getsockname()[1])
        device.session.start()
        spin("giving up", device.log)
        device.session.stop()
    assert device.log()[0]["detail"] == "no session in time"


def test_a_broker_of_another_fleet_is_refused(loop: Loop, broker: Broker, spin: Spin, tmp_path_factory: Any) -> None:
    device = Device(loop, Authority(tmp_path_factory.mktemp("other")), broker.port)
    device.session.start()
    spin("a refusal", device.log)
    device.session.stop()
    assert "CERTIFICATE_VERIFY_FAILED" in device.log()[0]["detail"]


def test_a_name_that_does_not_resolve_is_tried_again(loop: Loop, authority: Authority, spin: Spin) -> None:
    device = Device(loop, authority, 1)
    device.places = [Server("https://x", "https://x", "no-such-host.invalid", 8883)]
    device.session.start()
    assert "cannot be resolved" in device.log()[0]["detail"]
    assert loop.cancel("session.retry")


def test_of_several_places_the_next_one_is_tried_until_one_answers_and_then_the_first_is_preferred_again(
    device: Device, broker: Broker, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.02)
    away = Server("https://x", "https://x", "127.0.0.1", free_port())
    nowhere = Server("https://x", "https://x", "no-such-host.invalid", 8883)
    device.places = [nowhere, away, *device.places]
    device.session.start()
    spin("a session", lambda: device.ups == 1)
    hosts = [line["host"] for line in device.log()]
    assert hosts == ["no-such-host.invalid", "127.0.0.1", "127.0.0.1"]
    broker.kill()
    spin("its loss", lambda: device.downs == 1)
    broker.start()
    spin("a session again", lambda: device.ups == 2)
    again = [line["host"] for line in device.log()][len(hosts) + 1 :]
    assert again == hosts


def test_a_device_that_dies_leaves_its_will(device: Device, listener: Listener, spin: Spin) -> None:
    device.session.start()
    spin("its birth", lambda: listener.of("presence"))
    assert device.session._socket is not None
    device.session._loop.unwatch(device.session._socket.fileno())
    device.session._socket.shutdown(socket.SHUT_RDWR)
    listener.wait("the will", lambda: len(listener.of("presence")) == 2)
    assert listener.of("presence")[1] == {"session": 1, "online": False, "reason": "lost"}
    device.session._loop.watch(device.session._socket.fileno(), 1, device.session._ready)
    spin("its own loss", lambda: device.downs)


def test_a_line_that_falls_silent_is_noticed_by_the_ping(
    loop: Loop, authority: Authority, broker: Broker, spin: Spin
) -> None:
    with Forwarder(broker.port) as forwarder:
        device = Device(loop, authority, forwarder.port, keepalive_s=1)
        device.session.start()
        spin("a session", lambda: device.ups)
        forwarder.silent = True

        def tend() -> None:
            device.session.tend()
            loop.after("tend", 0.2, tend)

        tend()
        spin("the loss", lambda: device.downs)
        loop.cancel("tend")
        device.session.stop()
    assert "Keep alive timeout" in str(device.log())


def test_messages_may_expire(device: Device, listener: Listener, spin: Spin) -> None:
    device.session.start()
    spin("a session", lambda: device.ups)
    assert device.session.publish("health", b'{"v":1}', 120)
    spin("the sample", lambda: listener.of("health"))


def test_paho_asks_for_its_socket_where_we_give_it_one() -> None:
    from beamfleet_agent.paho import Client

    assert "_create_socket" in Client.reconnect.__code__.co_names
    assert module._Client._create_socket is not Client._create_socket


class Forwarder:
    """Passes bytes both ways until told to be silent."""

    def __init__(self, port: int) -> None:
        self._target, self.silent = port, False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = [self._server]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        near, _ = self._server.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        self._sockets += [near, far]
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.silent:
                    sink.sendall(data)
        except OSError:
            return
        time.sleep(0)
