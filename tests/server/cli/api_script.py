"""A small HTTPS server that answers as it was told, request by request: errors, silence, redirects, nonsense."""

import http.server
import ipaddress
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from beamfleet_server.cli.client import Client
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "token-of-the-test"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a JSON body or raw bytes; with `drop` the connection is closed without any."""

    body: Any = None
    status: int = 200
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


def problem(status: int, code: str, detail: str = "no", hint: str = "do otherwise") -> Answer:
    return Answer(
        {"type": "about:blank", "title": "No", "status": status, "detail": detail, "code": code, "hint": hint}, status
    )


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedApi:
    """Serves on a free loopback port with a certificate of its own, and remembers what it was asked."""

    def __init__(self, directory: Path) -> None:
        self._answers: deque[Answer] = deque()
        self.requests: list[Request] = []
        key, self.ca = directory / "server.key", directory / "ca.pem"
        make_certificate(key, self.ca)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def script(self, *answers: Answer) -> None:
        """Queue answers, in order."""
        self._answers.extend(answers)

    def client(self, pause: Callable[[float], None], clock: Callable[[], float]) -> Client:
        return Client(self.url, self.ca, lambda: TOKEN, pause=pause, clock=clock)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        script = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                script.requests.append(Request(self.command, self.path, dict(self.headers), self.rfile.read(length)))
                answer = script._answers.popleft()
                self.close_connection = True
                if answer.drop:
                    return
                body = answer.raw if answer.raw is not None else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PATCH = do_GET  # noqa: N815 (names of http.server)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        return Handler


def make_certificate(key_file: Path, certificate_file: Path, common_name: str = "scripted") -> None:
    """A self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
