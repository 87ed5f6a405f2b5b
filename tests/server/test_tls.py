"""The client's certificate on its way from the handshake into the request: guards `tls.PeerCertificateProtocol`.

uvicorn's protocol class promises nothing about the names that ours leans on; this goes red when one of them moves.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
import requests
from beamfleet_bundles import pki
from beamfleet_server.ca import FleetAuthority, KeyPair
from beamfleet_server.clock import wall_clock
from beamfleet_server.listeners import Listener, bind
from beamfleet_server.tls import devices_context, enrolment_context, operators_context, peer_of
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI, Request


class Running:
    """The three contexts, each behind an application that says whom it sees."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.now = wall_clock()
        self.authority = FleetAuthority.open(work, lambda: self.now)
        (work / "ca.pem").write_bytes(self.authority.pem)
        pair = self.authority.server_pair([])
        contexts = {
            "operators": operators_context(pair),
            "devices": devices_context(pair, self.authority.pem),
            "enrolment": enrolment_context(pair, self.authority.pem),
        }
        sockets = {name: bind(name, "127.0.0.1", 0) for name in contexts}
        self.ports = {name: each.getsockname()[1] for name, each in sockets.items()}
        self._listeners = [Listener(echo(), sockets[name], contexts[name]) for name in contexts]
        self._thread = Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    async def _run(self) -> None:
        await asyncio.gather(*(listener.run() for listener in self._listeners))

    def close(self) -> None:
        for listener in self._listeners:
            listener.stop()
        self._thread.join()

    def device(self, name: str, authority: FleetAuthority | None = None) -> KeyPair:
        pair = KeyPair(self.work / f"{name}.pem", self.work / f"{name}.key")
        key = pki.create_key(pair.key)
        made = (authority or self.authority).issue_device(name, key.public_key())
        pair.certificate.write_bytes(x509.load_der_x509_certificate(made.der).public_bytes(Encoding.PEM))
        return pair

    def get(self, listener: str, pair: KeyPair | None = None, headers: dict[str, str] | None = None) -> str | None:
        """The name that the listener sees, None for nobody."""
        cert = (str(pair.certificate), str(pair.key)) if pair else None
        url = f"https://127.0.0.1:{self.ports[listener]}/"
        answer = requests.get(url, cert=cert, verify=str(self.work / "ca.pem"), headers=headers, timeout=30)
        name: str | None = answer.json()["name"]
        return name


def echo() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def seen(request: Request) -> dict[str, str | None]:
        peer = peer_of(request.scope)
        return {"name": peer.name if peer else None, "serial": peer.serial if peer else None}

    return app


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path)
    yield started
    started.close()


def test_each_connection_has_the_name_of_its_own_certificate(running: Running) -> None:
    pairs = [running.device(f"dev-{number}") for number in range(3)]
    assert [running.get("devices", pair) for pair in pairs] == ["dev-0", "dev-1", "dev-2"]


def test_requests_on_one_connection_all_have_it(running: Running) -> None:
    pair = running.device("dev-1")
    context = ssl.create_default_context(cafile=str(running.work / "ca.pem"))
    context.load_cert_chain(pair.certificate, pair.key)
    address = ("127.0.0.1", running.ports["devices"])
    with closing(context.wrap_socket(socket.create_connection(address), server_hostname="localhost")) as connection:
        for _ in range(2):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = connection.recv(65_536)
            body = answer.partition(b"\r\n\r\n")[2] or connection.recv(65_536)
            assert json.loads(body)["name"] == "dev-1"


def test_without_a_certificate_the_devices_listener_ends_the_handshake(running: Running) -> None:
    with pytest.raises(requests.exceptions.RequestException):
        running.get("devices")


def test_a_certificate_of_another_authority_ends_the_handshake(running: Running, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = running.device("dev-1", FleetAuthority.open(tmp_path / "other", wall_clock))
    for listener in ("devices", "enrolment"):
        with pytest.raises(requests.exceptions.RequestException):
            running.get(listener, stranger)


def test_an_expired_certificate_is_for_renewal_only(running: Running) -> None:
    running.now -= 100 * 86_400
    pair = running.device("dev-1")
    with pytest.raises(requests.exceptions.RequestException):
        running.get("devices", pair)
    assert running.get("enrolment", pair) == "dev-1"


def test_enrolment_needs_no_certificate_and_operators_are_not_asked_for_one(running: Running) -> None:
    pair = running.device("dev-1")
    assert running.get("enrolment") is None
    assert running.get("operators", pair) is None


def test_no_header_makes_a_name(running: Running) -> None:
    headers = {"X-Client-Cert": "dev-9", "X-SSL-Client-CN": "dev-9", "Forwarded": "for=dev-9"}
    assert running.get("enrolment", headers=headers) is None


def test_an_idle_connection_does_not_keep_the_server_from_stopping(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with requests.Session() as session:
        url = f"https://127.0.0.1:{running.ports['operators']}/"
        assert session.get(url, verify=str(running.work / "ca.pem"), timeout=30).status_code == 200
        running.close()
    assert not [record for record in caplog.records if "timeout" in record.getMessage()], "it waited for the client"


@pytest.mark.parametrize("listener", ["operators", "devices", "enrolment"])
def test_nothing_below_tls_1_2_is_spoken(running: Running, listener: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", running.ports[listener])) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)
