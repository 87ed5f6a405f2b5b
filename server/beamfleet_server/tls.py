"""Owns the TLS contexts of the listeners, and bringing a client's certificate from the socket to the request.

uvicorn puts no peer certificate into the ASGI scope. `PeerCertificateProtocol` does, in the form of the ASGI TLS
extension: `scope["extensions"]["tls"]["client_cert_chain"]` is a list with the PEM of the client's certificate, or
empty. It comes from the handshake of this very connection; no header is ever looked at.

The protocol also sees to what an application cannot: headers that are too large or too slow, requests that cannot be
parsed (told as problems, like all else), and too many connections of one address."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any, cast

from beamfleet_bundles import pki
from beamfleet_bundles.pki import CertificateFacts
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from beamfleet_server.ca import KeyPair
from beamfleet_server.refusals import REQUESTS, TOLD

NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL: the dates are checked by the caller."""
HEADERS_S = 20.0
"""How long the headers of a request may take, from the connection or from their first byte."""
DRAIN_S = 60.0
"""How long the rest of a body is thrown away after its request was answered."""
LARGEST_HEADERS = 32 << 10
READ_SIZE = 256 << 10
"""What asyncio reads at once, at most: a piece may hold the beginning of a body behind the headers."""
MOST_CONNECTIONS = 4000
"""Of one listener at once."""
MOST_OF_ADDRESS = 2000
"""Of one address: a whole site may stand behind one."""


class PeerCertificateProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with the client's certificate in each request's scope."""

    _client_cert_chain: list[str]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the certificate once per connection."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls else None
        self._client_cert_chain = [ssl.DER_cert_to_PEM_cert(der)] if der else []
        self._header_bytes = 0
        self._awaited: asyncio.TimerHandle | None = None
        self._draining: asyncio.TimerHandle | None = None
        self._in_message = False
        self.switched = False
        self._await_headers()
        if len(self._requesting()) > MOST_CONNECTIONS or self._of_address() > MOST_OF_ADDRESS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it the deadline."""
        self._headers_came()
        if self._draining is not None:
            self._draining.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the headers grow beyond bounds."""
        if self._awaited is None and not self._in_message:
            self._await_headers()
        self._header_bytes = self._header_bytes + len(data) if self._awaited is not None else 0
        if self._header_bytes > LARGEST_HEADERS + READ_SIZE:
            self._refuse(431, "Headers too large", "request.headers", "the headers of the request are too large")
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Put the certificate into the scope that uvicorn has just made, and a way to cut who does not read."""
        super().on_message_begin()
        self.scope["extensions"] = {
            "tls": {"client_cert_chain": self._client_cert_chain},
            "beamfleet": {"abort": self.transport.abort, "switch": self.switch},
        }

    def switch(self, head: bytes, protocol: asyncio.Protocol) -> bool:
        """Answer the request with `head`, and leave the connection to `protocol`, which speaks something else; False if
        it is gone."""
        if self.transport.is_closing() or self.cycle is None or self.cycle.response_started:
            return False
        self._headers_came()
        self.switched = self.cycle.disconnected = True  # uvicorn has nothing more to answer
        self.transport.write(head)
        self.transport.set_protocol(_Switched(self, protocol))
        protocol.connection_made(self.transport)
        return True

    def _unsupported_upgrade_warning(self) -> None:
        """Whether there is such a thing is for the route to say."""

    def on_headers_complete(self) -> None:
        """The headers are here: the application has the rest."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._headers_came()
        self._in_message = True
        if size > LARGEST_HEADERS:
            self._refuse(431, "Headers too large", "request.headers", "the headers of the request are too large")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole request is here."""
        self._in_message = False
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Answered before the whole body came: the rest is read and thrown away for a while, so that the answer is
        heard."""
        super().on_response_complete()
        if self._in_message:
            self._draining = self.loop.call_later(DRAIN_S, self._too_slow)

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is told as a problem, too."""
        del msg
        self._refuse(400, "Bad request", "request.malformed", "the request cannot be read")

    def _await_headers(self) -> None:
        self._headers_came()
        self._awaited = self.loop.call_later(HEADERS_S, self._too_slow)

    def _headers_came(self) -> None:
        self._header_bytes = 0
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _too_slow(self) -> None:
        self._awaited = self._draining = None
        self.transport.abort()

    def _of_address(self) -> int:
        address = self.client and self.client[0]
        return sum(1 for each in self._requesting() if each.client is not None and each.client[0] == address)

    def _requesting(self) -> list["PeerCertificateProtocol"]:
        """The connections on which HTTP is spoken; the others have limits of their own."""
        return [each for each in self.connections if isinstance(each, PeerCertificateProtocol) and not each.switched]

    def _refuse(self, status: int, title: str, code: str, detail: str) -> None:
        self._headers_came()
        if self.transport.is_closing():
            return
        if not self._told():
            address = self.client[0] if self.client else ""
            REQUESTS.tell(address, code, status=status, address=address)
        if self.cycle is not None and self._in_message and self.cycle.response_started:
            self.transport.close()
            return
        told = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, "hint": ""}
        body = json.dumps(told).encode()
        head = (
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _told(self) -> bool:
        """Whether the log has the refusal of this very request; from now on it has."""
        if not self._in_message:
            return False
        scope = cast("dict[str, Any]", self.scope)
        told, scope[TOLD] = bool(scope.get(TOLD)), True
        return told

    def shutdown(self) -> None:
        """The server stops: an idle connection ends at once. A TLS good-bye would wait for an answer, up to 30
        seconds."""
        if self.cycle is None or self.cycle.response_complete or self.switched:
            self.transport.abort()
        else:
            super().shutdown()


class _Switched(asyncio.Protocol):
    """Hands on to a protocol what happens on a connection that HTTP has left, and tells HTTP when it ends."""

    def __init__(self, left: PeerCertificateProtocol, protocol: asyncio.Protocol) -> None:
        self._left, self._protocol = left, protocol
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone for both."""
        self._protocol.connection_lost(exc)
        self._left.connection_lost(exc)


def peer_of(scope: Mapping[str, Any]) -> CertificateFacts | None:
    """The client of an ASGI scope, or None if it showed no certificate; error `pki.certificate`."""
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
    return pki.read_certificate(pki.load_certificate(chain[0].encode())) if chain else None


def peer_der(scope: Mapping[str, Any]) -> bytes:
    """The bytes (DER) of the certificate of an ASGI scope's client; empty if it showed none."""
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
    return ssl.PEM_cert_to_DER_cert(chain[0]) if chain else b""


def operators_context(pair: KeyPair) -> ssl.SSLContext:
    """TLS without a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def devices_context(pair: KeyPair, authority_pem: bytes) -> ssl.SSLContext:
    """TLS that ends in the handshake without a valid client certificate of the fleet."""
    context = operators_context(pair)
    context.load_verify_locations(cadata=authority_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # devices never resume, and a ticket carries their chain: 1,375 bytes of each check
    return context


def enrolment_context(pair: KeyPair, authority_pem: bytes) -> ssl.SSLContext:
    """TLS in which a client certificate is optional and its dates are not checked: that is the renewal's business.
    `authority_pem`: also those that are no longer trusted for anything else."""
    context = devices_context(pair, authority_pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= NO_CHECK_TIME
    return context
