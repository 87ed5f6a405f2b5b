"""What is too large, too slow or too much: each is refused with its code, and everybody else is served."""

import asyncio
import contextlib
import socket
import ssl
import time
from pathlib import Path

import pytest
import requests
from beamfleet_server.api.guard import network_of
from beamfleet_server.api.limits import BodyLimit
from beamfleet_server.api.problems import code_of
from beamfleet_server.rates import Rates
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from tests.server.conftest import Centre
from tests.support.server import running_server

LISTENERS = ("operators", "enrolment", "metrics")


def connect(centre: Centre, name: str = "operators", **versions: ssl.TLSVersion) -> socket.socket:
    context = ssl.create_default_context(cafile=str(centre.server.ca))
    for key, version in versions.items():
        setattr(context, key, version)
    plain = socket.create_connection(("127.0.0.1", centre.server.facts["ports"][name]), timeout=60)
    return plain if name == "metrics" else context.wrap_socket(plain, server_hostname="localhost")


def answer_to(connection: socket.socket, request: bytes) -> bytes:
    with contextlib.suppress(ConnectionError, ssl.SSLError):  # it may answer and close before all of it is sent
        connection.sendall(request)
    parts = []
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_rate_lets_a_burst_pass_then_its_average_and_forgets_who_was_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    rates = Rates(2, 4, lambda: now)
    assert [rates.take("a") for _ in range(4)] == [0.0] * 4
    assert rates.take("a") == pytest.approx(0.5)
    assert rates.take("b") == 0.0
    now += 0.5
    assert [rates.take("a"), rates.take("a") > 0] == [0.0, True]
    monkeypatch.setattr("beamfleet_server.rates.MOST", 3)
    for name in "cdefg":
        rates.take(name)
    assert len(rates._buckets) <= 4


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ("", ""),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(address: str, counted: str) -> None:
    assert network_of(address) == counted


@pytest.mark.parametrize("name", ["operators", "devices", "enrolment", "mqtt"])
def test_nothing_older_than_tls_1_2_is_spoken(centre: Centre, name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options &= ~ssl.OP_NO_TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection(("127.0.0.1", centre.server.facts["ports"][name]), timeout=30)
    with pytest.raises(OSError, match=r"(?i)ssl|reset|eof|closed"):
        context.wrap_socket(plain)
    plain.close()


@pytest.mark.parametrize("name", LISTENERS)
@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", b"GET /" + b"y" * 295_000],
    ids=["headers", "address"],
)  # fmt: skip
def test_headers_that_are_too_large_are_refused(centre: Centre, name: str, request_: bytes) -> None:
    with connect(centre, name) as connection:
        answer = answer_to(connection, request_)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer
    assert b"request.headers" in answer


@pytest.mark.parametrize("name", LISTENERS)
def test_what_is_no_request_is_told_as_a_problem(centre: Centre, name: str) -> None:
    with connect(centre, name) as connection:
        answer = answer_to(connection, b"\x16\x03\x01 nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"request.malformed" in answer


def test_whoever_connects_and_says_nothing_is_ended(centre: Centre) -> None:
    with socket.create_connection(("127.0.0.1", centre.server.facts["ports"]["devices"]), timeout=60) as silent:
        try:
            ended = silent.recv(10)
        except ConnectionError:
            ended = b""
    assert ended == b""


def test_a_client_that_drips_its_headers_is_ended(centre: Centre) -> None:
    with connect(centre) as connection:
        connection.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()
        connection.settimeout(1)
        ended = False
        while not ended and time.monotonic() - began < 60:
            try:
                connection.sendall(b"X: y\r\n")
                ended = connection.recv(10) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
    assert ended
    assert centre.server.get("/health")["status"] == "ok"


def test_a_body_that_does_not_come_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamfleet_server.api.limits.BODY_S", 0.05)

    async def reads(_: Scope, receive: Receive, __: Send) -> None:
        while (await receive())["more_body"]:
            pass

    async def drips() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def hears(_: Message) -> None:
        raise AssertionError("the error handler answers, not the limit")

    scope = {"type": "http", "path": "/", "headers": []}
    with pytest.raises(HTTPException) as caught:
        asyncio.run(BodyLimit(reads, 1000)(scope, drips, hears))
    assert (caught.value.status_code, code_of(caught.value)) == (408, "request.timeout")


def test_who_asks_too_often_hears_when_to_come_back_and_others_are_served(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", requests_per_operator_s=1) as server:
        token = server.post("/operators", {"name": "hasty", "role": "viewer"})["token"]
        answers = [server.api("GET", "/whoami", token=token) for _ in range(70)]
        refused = [each for each in answers if each.status_code == 429]
        assert refused
        assert refused[0].json()["code"] == "request.rate"
        assert refused[0].headers["retry-after"] == "1"
        assert server.get("/whoami")["name"] == "admin"


def test_one_address_cannot_ask_without_end(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", requests_per_address_s=2) as server:
        url, ca = f"{server.facts['enrolment']}/.well-known/est/cacerts", str(server.ca)
        with requests.Session() as session:
            answers = [session.get(url, verify=ca, timeout=30) for _ in range(40)]
        refused = [each for each in answers if each.status_code == 429]
        assert answers[0].status_code == 200
        assert refused
        assert int(refused[0].headers["retry-after"]) >= 1
