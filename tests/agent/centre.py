"""A server as a device's worker sees it, for tests: real TLS, real signatures, and answers that a test may spoil."""

import base64
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from beamfleet_agent.paths import Paths
from beamfleet_bundles import assignment
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.facts import Facts

from tests.agent.authority import Authority
from tests.agent.device import identify, lay_down, words
from tests.support.repository import Repository, manifest

DEVICE = "gw-1"


class SmallCentre:
    """Serves `repo` and, to DEVICE, what `answer` makes of its question: assignments signed by the director."""

    def __init__(self, authority: Authority, repo: Repository) -> None:
        self.repo, self._authority = repo, authority
        self.facts: Facts = repo.release(manifest("2.0.0"))
        repo.publish()
        self.given = Assignment(
            DEVICE, "main", 1000, 1, int(repo.now.timestamp()), None,
            self.facts.path, self.facts.length, self.facts.sha256,
        )  # fmt: skip
        self.answer: Callable[[str | None], bytes] = lambda nonce: self.sign(nonce=nonce)
        self.asked: list[str] = []
        self.evidence = b""
        """What has come of the evidence that the device hands in."""
        self.keeps: Callable[[int, bytes], int] = lambda _offset, piece: len(piece)
        """How much of a piece is kept: less than all of it, and the line breaks; below 0 the server is busy."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("api"))
        context.load_verify_locations(authority.path)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def sign(self, expires: datetime | None = None, **changes: Any) -> bytes:
        """What the director gives the device, with some of it changed."""
        said = replace(self.given, **changes)
        lives_to = expires or datetime.fromtimestamp(said.time, UTC) + assignment.LIFETIME
        return assignment.sign(said, self.repo.keys["director"][0], lives_to)

    def device(self, root: Path) -> Paths:
        """The device, enrolled."""
        api = f"https://127.0.0.1:{self._server.server_address[1]}"
        addresses = {"api": api, "enrol": "https://127.0.0.1:9", "mqtt": "127.0.0.1:9"}
        trusted = {
            "ca_pem": self._authority.path.read_text(),
            "root_json_base64": base64.b64encode(self.repo.root).decode(),
        }
        paths = lay_down(root, words(DEVICE, server=addresses, **trusted))
        identify(paths, *self._authority.issue(DEVICE))
        return paths

    def later(self, **passed: float) -> None:
        """Time passes at the server, and it signs its metadata again."""
        self.repo.now += timedelta(**passed)
        self.repo.publish()

    def progress(self) -> bytes:
        """What the server says of the evidence."""
        return json.dumps({"received": len(self.evidence)}).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        centre = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                centre.asked.append(parts.path)
                try:
                    if parts.path == "/evidence":
                        content = centre.progress()
                    elif parts.path == "/assignment":
                        content = centre.answer(parse_qs(parts.query).get("nonce", [None])[0])
                    else:
                        content = b"".join(centre.repo(parts.path.removeprefix("/metadata/")))
                except FileNotFoundError:
                    self.send_error(404)
                    return
                self.say(200 if content else 204, content)

            def do_PUT(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                offset, piece = int(query["offset"][0]), self.rfile.read(int(self.headers["Content-Length"]))
                assert offset <= len(centre.evidence)
                kept = centre.keeps(offset, piece)
                if kept < 0:
                    self.send_error(503)
                    return
                centre.evidence = centre.evidence[:offset] + piece[:kept]
                if kept < len(piece):
                    self.close_connection = True
                    return
                self.say(200, centre.progress())

            def say(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler
