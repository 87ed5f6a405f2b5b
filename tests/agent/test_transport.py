"""HTTPS as the worker speaks it, against servers that misbehave: each ends in one named error, none in a long wait."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent.errors import AgentError
from beamfleet_agent.proxy import Proxy
from beamfleet_agent.worker import transport as module
from beamfleet_agent.worker.transport import Through, Transport

from tests.agent.authority import Authority
from tests.support.http_proxy import HttpProxy


class Rude:
    """A TLS server that answers every connection with these bytes, then hangs up or stays silent."""

    def __init__(
        self,
        authority: Authority,
        answer: bytes,
        *,
        stays: bool = False,
        drips: bool = False,
        dated: datetime | None = None,
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("rude", ends=dated))
        self._context, self._answer, self._stays, self._drips = context, answer, stays, drips
        self.sent = 0
        self._server = socket.create_server(("", 0))
        self.address = f"https://127.0.0.1:{self._server.getsockname()[1]}"
        self.asked: list[bytes] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self.asked.append(_request(connection))
                    self._send(connection)
                    if self._stays:
                        self._over.wait(30)
            except OSError:
                continue

    def _send(self, connection: ssl.SSLSocket) -> None:
        head, _, body = self._answer.partition(b"\r\n\r\n")
        if not self._drips:
            connection.sendall(self._answer)
            return
        connection.sendall(head + b"\r\n\r\n")
        for byte in body:
            connection.sendall(bytes([byte]))
            self.sent += 1
            if self._over.wait(0.01):
                return


def _request(connection: ssl.SSLSocket) -> bytes:
    """A request to the end of its body: who hangs up with bytes unread resets the connection; its answer is lost."""
    whole = b""
    while chunk := connection.recv(65536):
        whole += chunk
        head, ended, body = whole.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
        if ended and len(body) >= int(length[1] if length else 0):
            break
    return whole


YESTERDAY = datetime.now(UTC) - timedelta(days=1)

Start = Callable[..., tuple[Rude, Transport]]


@pytest.fixture
def start(authority: Authority) -> Iterator[Start]:
    servers: list[Rude] = []

    def begin(answer: bytes, **behaviour: Any) -> tuple[Rude, Transport]:
        servers.append(Rude(authority, answer, **behaviour))
        return servers[-1], Transport(servers[-1].address, str(authority.path))

    yield begin
    for server in servers:
        server.close()


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


PROBLEM = b'{"code": "device.revoked", "detail": "this device was revoked", "title": "Refused", "hint": "ask"}'


@pytest.mark.parametrize(
    ("sent", "code", "named"),
    [
        (answer("302 Found", b"", "Location: https://evil.example/"), "worker.refused", "status 302"),
        (answer("500 Oops"), "worker.server", "status 500"),
        (answer("503 Busy", b"<html>try later</html>"), "worker.server", "status 503"),
        (answer("429 Slow down"), "worker.server", "status 429"),
        (answer("403 Refused", PROBLEM), "device.revoked", "this device was revoked"),
        (answer("401 No", b"[1]"), "worker.refused", "status 401"),
        (answer("400 No", b'{"code": "x y", "detail": "\\u001b[31mred\\u202e"}'), "x_y", "/thing:  [31mred?"),
        (answer("200 OK", b"x" * 101), "worker.too_large", "more than 100 bytes"),
        (answer("200 OK", b"x" * 50)[:-20], "worker.network", "broke off after 30"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, "worker.too_large", "more than 100 bytes"),
        (b"SSH-2.0-OpenSSH\r\n", "worker.network", "cannot be reached"),
        (b"", "worker.network", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "worker.network", "broke off"),
    ],
)
def test_what_goes_wrong_is_named(start: Start, sent: bytes, code: str, named: str) -> None:
    server, transport = start(sent)
    with pytest.raises(AgentError) as refusal:
        transport.read("/thing", 100)
    assert (refusal.value.code, named in refusal.value.message) == (code, True), refusal.value
    assert len(server.asked) == 1, "one question, however it ends"


def test_what_the_server_does_not_have_is_a_missing_file(start: Start) -> None:
    for status in ("404 Not Found", "410 Gone"):
        _, transport = start(answer(status))
        with pytest.raises(FileNotFoundError, match="/thing"):
            transport.read("/thing", 100)


def test_a_server_that_falls_silent_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.2)
    for sent in (b"", answer("200 OK", b"x" * 100)[:-50]):
        _, transport = start(sent, stays=True)
        with pytest.raises(AgentError, match=r"worker\.network"):
            transport.read("/thing", 100)


def test_an_answer_that_drips_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes within the time limit of a read; together they would take for ever."""
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    for sent in (answer("200 OK", b"x" * 2_000), answer("500 Oops", b"x" * 2_000)):
        server, transport = start(sent, drips=True)
        with pytest.raises(AgentError) as refusal:
            transport.read("/thing", 100_000)
        assert refusal.value.code in {"worker.network", "worker.server"}
        assert server.sent < 2_000


def test_an_error_page_is_not_read_to_its_end(start: Start) -> None:
    """Nor is it believed, when it is longer than any that we send."""
    _, transport = start(answer("403 Refused", b'{"code": "a.b", "title": "' + b"x" * (8 << 20) + b'"}'))
    with pytest.raises(AgentError, match="status 403") as refusal:
        transport.read("/thing", 100)
    assert refusal.value.code == "worker.refused"


class TestWithoutAClock:
    """A device that does not know the time: `floor` is what it knows."""

    def test_dates_are_held_against_what_is_known(self, start: Start, authority: Authority) -> None:
        server, dated = start(answer("200 OK", b"content"), dated=YESTERDAY)
        with pytest.raises(AgentError, match=r"TLS with .* failed.*expired"):
            dated.read("/thing", 100)
        before = int((YESTERDAY - timedelta(days=30)).timestamp())
        assert Transport(server.address, str(authority.path), floor=before).read("/thing", 100) == b"content"
        after = int((YESTERDAY + timedelta(hours=1)).timestamp())
        with pytest.raises(AgentError, match=r"TLS with .* failed.*ran out"):
            Transport(server.address, str(authority.path), floor=after).read("/thing", 100)
        assert len([question for question in server.asked if question]) == 1

    def test_another_authority_and_another_host_are_refused_as_ever(
        self, start: Start, tmp_path: Path, authority: Authority
    ) -> None:
        server, _ = start(answer("200 OK"))
        stranger = Authority(tmp_path / "other")
        with pytest.raises(AgentError, match=r"TLS with .* failed"):
            Transport(server.address, str(stranger.path), floor=0).read("/thing", 100)
        elsewhere = server.address.replace("127.0.0.1", "127.0.0.2")
        with pytest.raises(AgentError, match=r"TLS with .* failed"):
            Transport(elsewhere, str(authority.path), floor=0).read("/thing", 100)
        assert server.asked == []


def test_a_good_answer_arrives_whole_with_its_query(start: Start) -> None:
    server, transport = start(answer("200 OK", b"content"))
    assert transport.read("/thing", 100, app="main") == b"content"
    assert server.asked[0].startswith(b"GET /thing?app=main HTTP/1.1\r\n")
    assert server.asked[0].count(b"\r\n") == 3, "no header but the host: each costs, every time"


def test_a_document_that_is_known_does_not_travel_again(start: Start) -> None:
    server, transport = start(b'HTTP/1.1 304 Not Modified\r\nETag: "abc"\r\nConnection: close\r\n\r\n')
    assert transport.read_unless("abc", "/thing", 100) is None
    assert b'If-None-Match: "abc"' in server.asked[0]
    with pytest.raises(AgentError, match="status 304"):
        transport.read("/thing", 100)  # nobody had asked
    _, transport = start(answer("200 OK", b"newer"))
    assert transport.read_unless("abc", "/thing", 100) == b"newer"


def test_nothing_to_do_is_an_empty_answer(start: Start) -> None:
    _, transport = start(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    assert transport.read("/assignment", 100) == b""


def test_a_server_of_another_authority_is_refused_before_anything_is_said(start: Start, tmp_path: Path) -> None:
    server, _ = start(answer("200 OK"))
    stranger = Authority(tmp_path / "other")
    with pytest.raises(AgentError, match=r"TLS with .* failed.*worker\.network"):
        Transport(server.address, str(stranger.path)).read("/thing", 100)
    assert server.asked == []


def test_the_environment_cannot_redirect_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    _, transport = start(answer("200 OK", b"content"))
    assert transport.read("/thing", 100) == b"content"


def test_of_several_addresses_the_first_that_answers_is_used_and_asked_first_from_then_on(
    authority: Authority, start: Start
) -> None:
    server, _ = start(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\ncontent")
    transport = Transport(["https://127.0.0.1:9", server.address], str(authority.path))
    assert transport.read("/thing", 100) == b"content"
    assert transport._addresses == [server.address, "https://127.0.0.1:9"]
    assert transport.read("/thing", 100) == b"content"


def test_somebody_whom_nobody_vouches_for_is_told_from_a_line_that_is_down(
    authority: Authority, start: Start, tmp_path: Path
) -> None:
    server, _ = start(b"")
    stranger = Authority(tmp_path / "stranger")
    for addresses, kind in (
        (["https://127.0.0.1:9", server.address], module.UntrustedError),
        ([server.address, "https://127.0.0.1:9"], module.UntrustedError),
        (["https://127.0.0.1:9"], AgentError),
    ):
        with pytest.raises(AgentError) as refused:
            Transport(addresses, str(stranger.path)).read("/thing", 100)
        assert (type(refused.value), refused.value.code) == (kind, "worker.network")
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "header", "code", "after_s"),
    [
        ("202 Accepted", "Retry-After: 30", "enrol.pending", 30),
        ("202 Accepted", "Retry-After: soon", "enrol.pending", 60),
        ("202 Accepted", "Retry-After: 99999999", "enrol.pending", 900),
        ("202 Accepted", "X: y", "enrol.pending", 60),
        ("503 Busy", "Retry-After: 30", "worker.server", 30),
        ("429 Many", "Retry-After: 999999999999999999", "worker.server", 60),
        ("503 Busy", "X: y", "worker.server", None),
    ],
)
def test_a_server_may_say_when_to_ask_again_within_bounds(
    start: Start, status: str, header: str, code: str, after_s: int | None
) -> None:
    said = f"HTTP/1.1 {status}\r\n{header}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with pytest.raises(AgentError) as refused:
        start(said.encode())[1].post("/thing", b"body", "text/plain", 100)
    assert (refused.value.code, getattr(refused.value, "after_s", None)) == (code, after_s)


class TestThroughAProxy:
    """TLS goes through it unopened; what it says is a stranger's."""

    def test_requests_go_through_it_and_it_is_shown_who_we_are(self, start: Start, authority: Authority) -> None:
        server, _ = start(answer("200 OK", b"content"))
        with HttpProxy(secret="me:hush") as proxy:
            way = Through(Proxy("127.0.0.1", proxy.port), "me:hush")
            assert Transport(server.address, str(authority.path), through=way).read("/x", 100) == b"content"
        assert proxy.asked[0].startswith(f"CONNECT {server.address.removeprefix('https://')} HTTP/1.1\r\n".encode())
        assert proxy.refused == 0
        assert b"hush" not in server.asked[0]

    def test_a_name_that_only_the_proxy_knows_is_reached(self, start: Start, authority: Authority) -> None:
        server, _ = start(answer("200 OK", b"content"))
        port = server.address.rpartition(":")[2]
        with HttpProxy(names={"localhost": "127.0.0.1"}) as proxy:
            way = Through(Proxy("127.0.0.1", proxy.port))
            found = Transport(f"https://localhost:{port}", str(authority.path), through=way).read("/x", 100)
        assert found == b"content"
        assert proxy.asked[0].startswith(b"CONNECT localhost:")

    @pytest.mark.parametrize(
        ("said", "named"),
        [
            (b"HTTP/1.1 407 Who are you\r\n\r\n", "the proxy does not take user and password"),
            (b"HTTP/1.1 503 \x1b[31mNo\r\n\r\n", "the proxy refuses the way: status 503"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "the proxy makes no sense: the answer is too long"),
            (b"\0" * 100, "the proxy makes no sense: the answer is not HTTP"),
        ],
    )
    def test_what_it_says_instead_is_told_without_the_secret(
        self, authority: Authority, said: bytes, named: str
    ) -> None:
        with HttpProxy(answer=said) as proxy:
            way = Through(Proxy("127.0.0.1", proxy.port), "me:hush")
            transport = Transport("https://127.0.0.1:1", str(authority.path), through=way)
            with pytest.raises(AgentError) as refusal:
                transport.read("/x", 100)
        assert refusal.value.code == "worker.network"
        assert f"by the proxy 127.0.0.1:{proxy.port}: {named}" in refusal.value.message
        assert "hush" not in str(refusal.value)

    def test_one_that_drips_or_falls_silent_is_given_up(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PROXY_S", 0.3)
        with HttpProxy(answer=b"HTTP/1.1 20") as proxy:
            way = Through(Proxy("127.0.0.1", proxy.port))
            transport = Transport("https://127.0.0.1:1", str(authority.path), through=way)
            with pytest.raises(AgentError, match="timed out"):
                transport.read("/x", 100)

    def test_one_that_is_away_is_named(self, authority: Authority) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            place = Proxy(*nobody.getsockname())
            with pytest.raises(AgentError, match=f"by the proxy {place}: .*refused"):
                Transport("https://127.0.0.1:1", str(authority.path), through=Through(place)).read("/x", 100)

    def test_whoever_is_behind_it_must_be_vouched_for_as_ever(self, start: Start, tmp_path: Path) -> None:
        server, _ = start(answer("200 OK", b"content"))
        other = Authority(tmp_path / "other")
        with HttpProxy() as proxy:
            transport = Transport(server.address, str(other.path), through=Through(Proxy("127.0.0.1", proxy.port)))
            with pytest.raises(module.UntrustedError):
                transport.read("/x", 100)
