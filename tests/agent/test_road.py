"""The road to the broker: proxies and addresses as they are, and strangers who say whatever they like."""

import json
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import proxy, road, tunnel
from beamfleet_agent.errors import AgentError
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.proxy import Proxy
from beamfleet_agent.road import Way
from beamfleet_agent.session import Session
from beamfleet_agent.settings import Server
from beamfleet_agent.telemetry import rhythm
from beamfleet_bundles import websocket

from tests.agent.authority import Authority
from tests.agent.broker import Broker, Listener
from tests.agent.test_session import Device
from tests.support.http_proxy import HttpProxy

Spin = Callable[[str, Callable[[], object]], None]
SECRET = "me:pass word:§"


class Behind(Device):
    """A device whose session goes through a proxy."""

    def __init__(self, loop: Loop, authority: Authority, port: int, way: Way) -> None:
        super().__init__(loop, authority, port)
        old = self.session
        self.session = Session(
            loop, old._log, lambda: self.places, self.name, "main", 60, self.context,
            birth=old._birth, will=old._will, bye=old._bye,
            on_up=self._up, on_down=self._down, on_message=old._on_message, way=way,
        )  # fmt: skip


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def through(made: HttpProxy, secret: str = "") -> Way:
    return Way(Proxy("127.0.0.1", made.port), secret=lambda: secret)


@pytest.fixture
def started() -> Iterator[list[Behind]]:
    devices: list[Behind] = []
    yield devices
    for device in devices:
        device.session.stop()


def start(started: list[Behind], device: Behind) -> Behind:
    started.append(device)
    device.session.start()
    return device


def test_a_session_goes_through_a_proxy_that_wants_a_user(
    loop: Loop, authority: Authority, broker: Broker, listener: Listener, spin: Spin, started: list[Behind]
) -> None:
    with HttpProxy(secret=SECRET) as made:
        device = start(started, Behind(loop, authority, broker.port, through(made, SECRET)))
        spin("a session", lambda: device.ups)
        spin("its birth", lambda: listener.of("presence"))
        device.session.stop()
    (asked,) = made.asked
    assert asked.startswith(f"CONNECT 127.0.0.1:{broker.port} HTTP/1.1\r\nHost: 127.0.0.1:{broker.port}\r\n".encode())
    assert made.refused == 0


def test_behind_a_proxy_only_the_proxy_resolves_the_servers_name(
    loop: Loop, authority: Authority, broker: Broker, spin: Spin, started: list[Behind]
) -> None:
    with HttpProxy(names={"localhost": "127.0.0.1"}) as made:
        device = Behind(loop, authority, broker.port, through(made))
        device.places = [Server("https://x", "https://x", "localhost", broker.port)]
        seen: list[object] = []
        resolve = socket.getaddrinfo

        def noting(host: Any, *more: Any, **named: Any) -> Any:
            seen.append(host)
            return resolve(host, *more, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", noting)
            start(started, device)
        spin("a session", lambda: device.ups)
        device.session.stop()
    assert seen == [b"127.0.0.1"]


@pytest.mark.parametrize("secret", ["", "me:wrong", "somebody else:x"])
def test_a_proxy_that_does_not_let_us_through_is_told_without_the_secret(
    loop: Loop, authority: Authority, broker: Broker, spin: Spin, started: list[Behind], secret: str
) -> None:
    with HttpProxy(secret=SECRET) as made:
        device = start(started, Behind(loop, authority, broker.port, through(made, secret)))
        spin("a refusal", device.log)
        device.session.stop()
    said = device.log()[0]["detail"]
    assert said == ("the proxy does not take user and password" if secret else "the proxy wants user and password")
    assert not secret or secret not in json.dumps(device.log())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 502 Bad gateway\r\n\r\n", "the proxy refuses the way: status 502"),
        (b"HTTP/1.1 302 Log in here\r\nLocation: http://x/\r\n\r\n", "the proxy refuses the way: status 302"),
        (b"HTTP/1.1 200 OK\r\n\r\nwelcome", "the proxy speaks before it is asked"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "the answer is too long"),
        (b"HTTP/1.1 " + b"2" * 100_000, "the answer is too long"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "the answer has no status"),
        (b"HTTP/1.1\r\n\r\n", "the answer has no status"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "the answer is not HTTP"),
        (b"\0", "the answer is not HTTP"),
    ],
)
def test_a_proxy_may_say_anything(
    loop: Loop, authority: Authority, spin: Spin, started: list[Behind], answer: bytes, told: str
) -> None:
    with HttpProxy(answer=answer) as made:
        device = start(started, Behind(loop, authority, 1, through(made)))
        spin("a refusal", device.log)
        device.session.stop()
    assert device.log()[0]["detail"] == told


def test_a_proxy_that_says_nothing_is_given_up(
    loop: Loop, authority: Authority, spin: Spin, started: list[Behind], monkeypatch: pytest.MonkeyPatch
) -> None:
    from beamfleet_agent import session

    monkeypatch.setattr(session, "CONNECT_LIMIT_S", 0.3)
    with HttpProxy(answer=b"HTTP/1.1 2") as made:
        device = start(started, Behind(loop, authority, 1, through(made)))
        spin("giving up", device.log)
        device.session.stop()
    assert device.log()[0]["detail"] == "no session in time"


def test_an_address_that_does_not_answer_does_not_keep_the_next_one_waiting(
    loop: Loop, authority: Authority, broker: Broker, spin: Spin, started: list[Behind], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with two addresses, of which the first is full: nobody there answers, and nothing is refused either."""
    monkeypatch.setattr(road, "ADDRESS_LIMIT_S", 0.2)
    with socket.socket() as full, socket.socket() as filler, socket.socket() as more:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        dead = full.getsockname()
        for each in (filler, more):
            each.setblocking(False)
            each.connect_ex(dead)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in (dead, ("127.0.0.1", broker.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        device = start(started, Behind(loop, authority, broker.port, Way()))
        spin("a session by the other address", lambda: device.ups)
        device.session.stop()
    assert [line["event"] for line in device.log()] == ["session up"]


def test_a_road_that_is_left_keeps_nothing_open(
    loop: Loop, authority: Authority, broker: Broker, spin: Spin, started: list[Behind]
) -> None:
    before = descriptors()
    with HttpProxy(answer=b"HTTP/1.1 200 OK\r\n") as made:
        device = Behind(loop, authority, broker.port, through(made))
        ours = descriptors()
        start(started, device)
        spin("the question", lambda: made.asked)
        device.session.stop()
    spin("the proxy's end", lambda: descriptors() <= ours - 1)
    assert descriptors() <= before + 2  # the device's log


# --- what is settled about proxies


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("http://proxy:3128", Proxy("proxy", 3128)),
        ("http://10.0.0.1:80/", Proxy("10.0.0.1", 80)),
        ("http://[2001:db8::1]:8080", Proxy("2001:db8::1", 8080)),
        ("", None),
    ],
)
def test_a_proxy_is_a_host_and_a_port(address: str, found: Proxy | None) -> None:
    assert proxy.parse(address) == found
    assert found is None or f"http://{found}" == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "proxy:3128", "https://proxy:3128", "http://proxy", "http://:3128", "http://proxy:0", "http://proxy:70000", "http://",
        "http://proxy:3128/path", "http://a b:1", "http://2001:db8::1:8080", "http://proxy:3128?x", "http://[proxy]:1",
        "http://proxy:\u0661",
    ],
)  # fmt: skip
def test_anything_else_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(AgentError) as refusal:
        proxy.parse(address)
    assert refusal.value.code == "agent.settings"
    assert address not in str(refusal.value) or address == "http://"


def test_a_secret_does_not_belong_into_settings_that_everybody_reads() -> None:
    with pytest.raises(AgentError) as refusal:
        proxy.parse("http://me:hush@proxy:3128")
    assert "identity/proxy" in refusal.value.hint
    assert "hush" not in str(refusal.value)


def test_what_is_given_at_once_is_parted_into_address_and_secret() -> None:
    assert proxy.split("http://me:a%40b%3Ac@proxy:3128/") == ("http://proxy:3128", "me:a@b:c")
    assert proxy.split("http://me@proxy:3128") == ("http://proxy:3128", "me:")
    assert proxy.split("http://[::1]:3128") == ("http://[::1]:3128", "")
    assert proxy.split("") == ("", "")
    for word in ("https://me:hush@proxy:1", "http://me:hush@proxy", "http://me:hu%0Ash@proxy:1", "me:hush@proxy:1"):
        with pytest.raises(AgentError) as refusal:
            proxy.split(word)
        assert "hush" not in str(refusal.value)


def test_the_secret_is_read_when_it_is_needed_and_is_one_line(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    assert proxy.secret(paths) == ""
    file = Path(paths.proxy_secret)
    file.parent.mkdir(parents=True)
    for content, found in ((SECRET.encode() + b"\n", SECRET), (b"a:b\r\nX: y", ""), (b"\xff", ""), (b"\n", "")):
        file.write_bytes(content)
        assert proxy.secret(paths) == found
    file.chmod(0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# --- WebSocket


def test_a_server_must_show_that_it_has_read_the_request() -> None:
    key = tunnel.new_key()
    good = (
        f"HTTP/1.1 101 Switching\r\nSEC-WebSocket-Accept: {websocket.accept(key)}\r\n"
        f"Sec-WebSocket-Protocol: {websocket.PROTOCOL}\r\n\r\n"
    )

    def told(answer: str) -> str:
        head = proxy.head_of(answer.encode())
        assert head
        return tunnel.refusal(head, key)

    assert websocket.is_key(key)
    assert told(good) == ""
    assert told(good.replace("101", "200")) == "the server gives no WebSocket: status 200"
    assert told(good.replace(websocket.accept(key), "x" * 28)) == "the server's answer is not to our WebSocket"
    assert told(good.replace(websocket.PROTOCOL, "mqtt")) == "the server speaks something else over WebSocket"


def test_the_place_of_the_api_is_where_a_websocket_is() -> None:
    places = [
        Server(api, "", "x", 1)
        for api in ("https://fleet", "https://fleet:444/x", "https://[::1]:8444", "https://[::1]")
    ]
    assert [Way(websocket=True).end(place) for place in places] == [
        ("fleet", 443), ("fleet", 444), ("::1", 8444), ("::1", 443),
    ]  # fmt: skip
    assert Way().end(places[0]) == ("x", 1)


# --- keepalive


def test_a_keepalive_that_was_chosen_is_the_one_that_is_promised() -> None:
    assert rhythm("metered", 0, 40).keepalive_s == 40
    assert rhythm("metered", 0, 0) == rhythm("metered")


def test_a_short_keepalive_pings_by_itself(loop: Loop, authority: Authority, broker: Broker, spin: Spin) -> None:
    device = Device(loop, authority, broker.port, keepalive_s=2)
    device.session._tends_itself = True
    device.session.start()
    spin("a session", lambda: device.ups)
    client = device.session._client
    assert client
    pings: list[float] = []
    send = client._send_pingreq

    def noting() -> Any:
        pings.append(loop.now())
        return send()

    client._send_pingreq = noting  # type: ignore[method-assign]
    spin("three pings", lambda: len(pings) == 3)
    assert device.session.up
    assert device.downs == 0
    device.session.stop()
    assert not loop.pending("session.tend")
