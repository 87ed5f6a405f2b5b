"""Owns HTTPS to the server: pinned to the fleet's authorities, no redirects, bounded lengths and waits.

Everything that arrives is bounded here and believed nowhere; whoever asked verifies it. Sends no secret but what it is
given for one request. Of several addresses the first that answers is used. A device whose clock was never set can still
get here, see `tls.Dateless`; without authorities nobody is verified, which is for `rescue` alone. A proxy is the one of
the settings or none, whatever the environment says, and TLS goes through it unopened.
"""

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.util import SKIP_HEADER
from urllib3.util.connection import create_connection

from beamfleet_agent import proxy
from beamfleet_agent.errors import AgentError
from beamfleet_agent.proxy import Proxy
from beamfleet_agent.reports import clean, word
from beamfleet_agent.tls import Dateless

CONNECT_S, READ_S = 10.0, 60.0
PROXY_S = 15.0
"""How long a proxy may take to open the way."""
GRACE_S, SLOWEST_BYTES_PER_S = 60.0, 1_000
"""After the first minute an answer has to come faster than this on average, or it is given up."""
_PIECE = 1 << 16
_ACCEPTED, _NOT_MODIFIED = 202, 304
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are always offered."""
_PADDING = 0x10
"""SSL_OP_TLSEXT_PADDING, which makes a first message of 256 bytes one of 517: for a server that nobody has any more."""
LONGEST_WAIT_S = 900
"""However long a server asks to be left alone."""
UNSAID_WAIT_S = 60
_OF_THE_CERTIFICATE = re.compile("ALERT.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)")
"""What OpenSSL calls an alert about the client's certificate."""
_AGAIN = "the device tries again by itself"


class UntrustedError(AgentError):
    """Somebody answers at the server's address, but no authority that this device knows vouches for him."""


class RefusedError(AgentError):
    """The server's TLS does not take the device's certificate."""


class LaterError(AgentError):
    """There is no answer yet; when it is time to ask again: `after_s`."""

    def __init__(self, code: str, message: str, hint: str, after_s: int) -> None:
        super().__init__(code, message, hint)
        self.after_s = after_s


class Through(NamedTuple):
    """A proxy, and what is shown to it: USER:PASSWORD, or nothing."""

    proxy: Proxy
    secret: str = ""


class Transport:
    """Requests to one server, under one address or several. `authorities` is a PEM file, `certificate` a pair's file.

    through: the proxy, if there is one. floor: given when the device's clock is wrong, the Unix second before which it
    cannot be.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        authorities: str | None,
        certificate: str | tuple[str, str] | None = None,
        floor: int | None = None,
        through: Through | None = None,
    ) -> None:
        self._addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = authorities or False
        self._session.cert = certificate
        self._session.mount("https://", _Adapter(floor, through, verified=authorities is not None))
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

    def post(self, path: str, body: bytes, content_type: str, limit: int, auth: tuple[str, str] | None = None) -> bytes:
        """What the server answers to `body`; a refusal carries the server's own code and words. Error: `LaterError`."""
        response = self._send("POST", path, data=body, headers={"Content-Type": content_type}, auth=auth)
        with response:
            return b"".join(self._body(response, path, limit))

    def put(self, path: str, body: bytes, limit: int, **query: str) -> bytes:
        """What the server answers to `body`; errors as for `post`."""
        headers = {"Content-Type": "application/octet-stream"}
        with self._send("PUT", path, params=query, data=body, headers=headers) as response:
            return b"".join(self._body(response, path, limit))

    def _get(self, path: str, query: dict[str, str]) -> requests.Response:
        return self._send("GET", path, params=query or None)

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        """The answer of the first address that gives one, which is asked first from then on."""
        failures: list[AgentError] = []
        for address in [*self._addresses]:
            try:
                response = self._ask(address, method, path, **more)
            except AgentError as error:
                failures.append(error)
                continue
            self._addresses.sort(key=address.__ne__)
            return self._answer(response, path)
        raise next((error for error in failures if isinstance(error, UntrustedError)), failures[0])

    def _ask(self, address: str, method: str, path: str, **more: Any) -> requests.Response:
        try:
            return self._session.request(
                method, address + path, timeout=(CONNECT_S, READ_S), allow_redirects=False, stream=True, **more
            )
        except (requests.RequestException, OSError) as error:
            cause = _cause(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise UntrustedError("worker.network", f"TLS with {address} failed: {_words(cause)}", _AGAIN) from error
            if isinstance(cause, ssl.SSLError) and _OF_THE_CERTIFICATE.search(cause.reason or ""):
                hint = "it is asked for a new one; see `beamfleet device show` as well"
                words = f"{address} does not take this device's certificate: {_words(cause)}"
                raise RefusedError("certificate.refused", words, hint) from error
            what = "TLS with {} failed" if isinstance(error, requests.exceptions.SSLError) else "{} cannot be reached"
            raise AgentError("worker.network", f"{what.format(address)}: {_words(cause)}", _AGAIN) from error

    def _answer(self, response: requests.Response, path: str) -> requests.Response:
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
        wanted = response.headers.get("Retry-After", "")
        wait_s = min(int(wanted), LONGEST_WAIT_S) if wanted.isdecimal() and len(wanted) < 9 else UNSAID_WAIT_S
        if status == _ACCEPTED:
            return LaterError("enrol.pending", f"the server has not decided about {path} yet", _AGAIN, wait_s)
        if status >= 500 or status in (408, 425, 429):
            said = f"the server cannot answer {path} now: {words}"
            if wanted:
                return LaterError("worker.server", said, _AGAIN, wait_s)
            return AgentError("worker.server", said, _AGAIN)
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
            words = f"{path} broke off after {received} bytes: {_words(_cause(error))}"
            raise AgentError("worker.network", words, _AGAIN) from error
        promised = response.headers.get("Content-Length", "")
        if promised.isdecimal() and received != int(promised):
            raise AgentError("worker.network", f"{path} broke off after {received} of {promised} bytes", _AGAIN)


class _Adapter(HTTPAdapter):
    """HTTPS with few words: a handshake that offers every old cipher costs 266 bytes more. floor: see `Dateless`."""

    def __init__(self, floor: int | None, through: Through | None, *, verified: bool) -> None:
        self._floor, self._through, self._verified = floor, through, verified
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._floor is None else Dateless.since(self._floor)
        if not self._verified:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.options &= ~_PADDING
        super().init_poolmanager(*args, ssl_context=context, **more)
        if self._through is not None:
            self.poolmanager.pool_classes_by_scheme = {"https": _pool(self._through)}


def _pool(through: Through) -> type[HTTPSConnectionPool]:
    """Connections that pass a proxy and are like any other from there on."""

    class Connection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            connection = None
            try:
                connection = create_connection(through.proxy, self.timeout, socket_options=self.socket_options)
                proxy.pass_through(connection, self.host, self.port, through.secret, PROXY_S)
                connection.settimeout(CONNECT_S)
                return connection
            except OSError as error:
                why = str(error)
            if connection is not None:
                connection.close()
            raise OSError(f"by the proxy {through.proxy}: {why}")

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


def _cause(error: BaseException) -> BaseException:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _words(error: BaseException) -> str:
    return f"{error}"[:300] or type(error).__name__
