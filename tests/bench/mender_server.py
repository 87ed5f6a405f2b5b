"""An HTTPS server on loopback that accepts every mender client, takes its inventory and never has an update for it."""

import http.server
import ssl
import threading
from pathlib import Path
from typing import Self

from tests.support.certificates import self_signed


class MenderServer:
    """Listens while entered, on a free port; `asked` is set when a client has asked for an update.

    Its certificate and key are files in `work`.
    """

    def __init__(self, work: Path) -> None:
        self.asked = threading.Event()
        self.certificate, key = self_signed(work)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server = _Listener(self.asked)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="mender server")

    @property
    def address(self) -> str:
        """Its URL."""
        return f"https://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, asked: threading.Event) -> None:
        self.asked = asked
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    """/authentication/auth_requests -> a token; /deployments/... -> 204; anything else -> 200."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def answer(self) -> None:
        self._skip_body()
        if "/deployments/" in self.path:
            self.send_response(204)
            self.end_headers()
            self.server.asked.set()
            return
        body = b"header.payload.signature" if "/auth_requests" in self.path else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

    def _skip_body(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, *_: object) -> None:
        """Says nothing."""
