"""Owns HTTPS to the server: pinned to the fleet's authority, no redirects, no proxy, bounded lengths and waits.

Everything that arrives is bounded here and believed nowhere; whoever asked verifies it. Sends no secret but what it is
given for one request. A device whose clock was never set can still get here: see `_Dateless`.
"""

import json
import ssl
import time
from collections.abc import Iterator
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import SKIP_HEADER

from beamfleet_agent.errors import AgentError
from beamfleet_agent.reports import clean, word

CONNECT_S, READ_S = 10.0, 60.0
GRACE_S, SLOWEST_BYTES_PER_S = 60.0, 1_000
"""After the first minute an answer has to come faster than this on average, or it is given up."""
_PIECE = 1 << 16
_NOT_MODIFIED = 304
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are always offered."""
_PADDING = 0x10
"""SSL_OP_TLSEXT_PADDING, which makes a first message of 256 bytes one of 517: for a server that nobody has any more."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the standard library has no name for."""
_AGAIN = "the device tries again by itself"


class Transport:
    """Requests to one address. `certificate` is (certificate file, key file), or None before there is one.

    floor: given when the device's clock is wrong, the Unix second before which it cannot be.
    """

    def __init__(
        self, address: str, ca: str, certificate: tuple[str, str] | None = None, floor: int | None = None
    ) -> None:
        self._address = address
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca
        self._session.cert = certificate
        self._session.mount("https://", _Adapter(floor))
        self._session.headers.clear()  # each costs a device on a metered line, every time
        self._session.headers.update(dict.fromkeys(("Accept-Encoding", "User-Agent"), SKIP_HEADER))

    def stream(self, path: str, limit: int, **query: str) -> Iterator[bytes]:
        """The bytes of a GET, in pieces of at most 64 KiB.

        FileNotFoundError for 404 and 410. AgentError: `worker.network` and `worker.server` mend themselves,
        `worker.refused` does not, `worker.too_large` when there are more than `limit` bytes.
        """
        with self._get(path, query) as response:
            yield from self._body(response, path, limit)

    def read(self, path: str, limit: int, **query: str) -> bytes:
        """The whole of a small document; empty for 204. Errors as for `stream`."""
        return b"".join(self.stream(path, limit, **query))

    def read_unless(self, tag: str, path: str, limit: int, **query: str) -> bytes | None:
        """As `read`, but None for a document that still has this entity tag: then it does not travel again."""
        headers = {"If-None-Match": f'"{tag}"'} if tag else {}
        with self._send("GET", path, params=query or None, headers=headers) as response:
            return None if response.status_code == _NOT_MODIFIED else b"".join(self._body(response, path, limit))

    def post(self, path: str, body: bytes, content_type: str, limit: int, auth: tuple[str, str]) -> bytes:
        """What the server answers to `body`; a refusal carries the server's own code and words."""
        response = self._send("POST", path, data=body, headers={"Content-Type": content_type}, auth=auth)
        with response:
            return b"".join(self._body(response, path, limit))

    def _get(self, path: str, query: dict[str, str]) -> requests.Response:
        return self._send("GET", path, params=query or None)

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        try:
            response = self._session.request(
                method, self._address + path, timeout=(CONNECT_S, READ_S), allow_redirects=False, stream=True, **more
            )
        except requests.exceptions.SSLError as error:
            raise AgentError("worker.network", f"TLS with {self._address} failed: {_cause(error)}", _AGAIN) from error
        except (requests.RequestException, OSError) as error:
            raise AgentError("worker.network", f"{self._address} cannot be reached: {_cause(error)}", _AGAIN) from error
        asked = response.request.headers
        if response.status_code in (200, 204) or (response.status_code == _NOT_MODIFIED and "If-None-Match" in asked):
            return response
        with response:
            raise self._refusal(response, path)

    def _refusal(self, response: requests.Response, path: str) -> AgentError | FileNotFoundError:
        status = response.status_code
        try:
            said = json.loads(b"".join(self._body(response, path, _PIECE)))
            code, words = word(str(said["code"])), clean(str(said.get("detail") or said["title"]), 512)
            hint = clean(str(said.get("hint", "")), 512)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AgentError):
            code, words, hint = "", f"status {status}", ""
        if status in (404, 410):
            return FileNotFoundError(f"{path}: {words}")
        if status >= 500 or status in (408, 425, 429):
            return AgentError("worker.server", f"the server cannot answer {path} now: {words}", _AGAIN)
        return AgentError(code or "worker.refused", f"the server refused {path}: {words}", hint)

    def _body(self, response: requests.Response, path: str, limit: int) -> Iterator[bytes]:
        received, began = 0, time.monotonic()
        try:
            while piece := response.raw.read1(_PIECE, decode_content=False):
                received += len(piece)
                if received > limit:
                    raise AgentError("worker.too_large", f"{path} has more than {limit} bytes")
                if time.monotonic() - began > GRACE_S + received / SLOWEST_BYTES_PER_S:
                    raise AgentError("worker.network", f"{path} drips: {received} bytes so far", _AGAIN)
                yield piece
        except (requests.RequestException, OSError, urllib3.exceptions.HTTPError) as error:
            words = f"{path} broke off after {received} bytes: {_cause(error)}"
            raise AgentError("worker.network", words, _AGAIN) from error
        promised = response.headers.get("Content-Length", "")
        if promised.isdecimal() and received != int(promised):
            raise AgentError("worker.network", f"{path} broke off after {received} of {promised} bytes", _AGAIN)


class _Adapter(HTTPAdapter):
    """HTTPS with few words: a handshake that offers every old cipher costs 266 bytes more. floor: see `_Dateless`."""

    def __init__(self, floor: int | None) -> None:
        self._floor = floor
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._floor is not None:
            context = _Dateless(ssl.PROTOCOL_TLS_CLIENT)
            context.floor = self._floor
            context.verify_flags |= _NO_CHECK_TIME
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.options &= ~_PADDING
        super().init_poolmanager(*args, ssl_context=context, **more)


class _Dateless(ssl.SSLContext):
    """TLS of a device that does not know the time: of the server's dates only the end is checked, against `floor`.

    A wrong host, a wrong authority and a certificate that had run out before `floor` are refused as ever.
    """

    floor = 0

    def wrap_socket(self, *args: Any, **more: Any) -> ssl.SSLSocket:
        connection = super().wrap_socket(*args, **more)
        ends = (connection.getpeercert() or {}).get("notAfter", "")
        if not isinstance(ends, str) or not ends or ssl.cert_time_to_seconds(ends) < self.floor:
            connection.close()
            raise ssl.SSLCertVerificationError(f"the server's certificate ran out at {ends or 'no time at all'}")
        return connection


def _cause(error: BaseException) -> str:
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None:
            return f"{error}"[:300] or type(error).__name__
        error = inner
