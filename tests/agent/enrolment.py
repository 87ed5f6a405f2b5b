"""Enrolment and devices' listener of a server in one small front: real TLS, real certificates, spoilt on wish."""

import base64
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from beamfleet_agent.paths import Paths
from beamfleet_bundles import pki
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.agent.authority import Authority
from tests.agent.device import identify, lay_down, words

NO_CHECK_TIME = 0x200000
DEVICE = "gw-1"


class SmallEnrolment:
    """Issues by `authority` for whoever shows a certificate that one of `trusted` has signed, expired or not.

    `refused`: serials that the devices' listener does not know; `away`: paths that are not answered; `public`: what is
    served as metadata without a certificate; `accepts`: what simpleenroll says to (name, token), an answer in numbers.
    """

    def __init__(self, authority: Authority, *trusted: Authority) -> None:
        self.authority, self._trusted = authority, trusted or (authority,)
        self.issued: list[x509.Certificate] = []
        self.asked: list[str] = []
        self.refused: set[str] = set()
        self.away: set[str] = set()
        self.public: Callable[[str], bytes] = _nothing
        self.accepts: Callable[[str, str], int] = lambda _name, _token: 200
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("front"))
        for each in self._trusted:
            context.load_verify_locations(each.path)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= NO_CHECK_TIME
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def trusts(self, authority: Authority) -> None:
        """Takes certificates of this authority as well."""
        self._context.load_verify_locations(authority.path)

    @property
    def address(self) -> str:
        """Of both listeners."""
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def device(self, root: Path, pair: tuple[Path, Path] | None = None, **more: str) -> Paths:
        """The device, with this (certificate, key) or without any."""
        addresses = {"api": self.address, "enrol": self.address, "mqtt": "127.0.0.1:9"}
        paths = lay_down(root, words(DEVICE, server=addresses, ca_pem=self.authority.path.read_text(), **more))
        if pair is not None:
            identify(paths, *pair)
        return paths

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                front.asked.append(self.path)
                peer = self.peer()
                if self.path.endswith("/simplereenroll"):
                    status, name = (200, pki.read_certificate(peer).name) if peer else (403, "")
                else:
                    given = self.headers.get("Authorization", "").removeprefix("Basic ")
                    name, _, token = base64.b64decode(given).decode().partition(":")
                    name = name or DEVICE
                    status = front.accepts(name, token)
                if status != 200:
                    self.refuse(status)
                    return
                key = pki.read_request(pki.decode_body(body, pki.MAX_REQUEST))
                front.issued.append(front.authority.sign(name, key))
                if self.path in front.away:  # the answer is lost on its way
                    self.close_connection = True
                    return
                self.say(200, pki.encode_body(pki.pack_certificates([front.issued[-1]])))

            def do_GET(self) -> None:
                front.asked.append(self.path)
                peer = self.peer()
                if self.path in front.away:
                    self.close_connection = True
                    return
                try:
                    if peer is None:
                        self.say(200, front.public(self.path.removeprefix("/metadata/")))
                        return
                except FileNotFoundError:
                    self.refuse(404)
                    return
                self.refuse(403 if pki.read_certificate(peer).serial in front.refused else 404)

            def peer(self) -> x509.Certificate | None:
                assert isinstance(self.connection, ssl.SSLSocket)
                der = self.connection.getpeercert(binary_form=True)
                return x509.load_der_x509_certificate(der) if der else None

            def refuse(self, status: int) -> None:
                code = {401: "token.wrong", 403: "certificate.unknown", 404: "request.not_found"}.get(status, "none")
                self.say(status, json.dumps({"code": code, "title": code, "status": status}).encode())

            def say(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status == 202:
                    self.send_header("Retry-After", "7")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler


def both(*authorities: Authority) -> bytes:
    """These authorities in one file."""
    return b"".join(each.certificate.public_bytes(Encoding.PEM) for each in authorities)


def _nothing(name: str) -> bytes:
    raise FileNotFoundError(name)
