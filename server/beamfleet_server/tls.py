"""Owns the TLS contexts of the listeners, and bringing a client's certificate from the socket to the request.

uvicorn puts no peer certificate into the ASGI scope. `PeerCertificateProtocol` does, in the form of the ASGI TLS
extension: `scope["extensions"]["tls"]["client_cert_chain"]` is a list with the PEM of the client's certificate, or
empty. It comes from the handshake of this very connection; no header is ever looked at."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from beamfleet_bundles import pki
from beamfleet_bundles.pki import CertificateFacts
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from beamfleet_server.ca import KeyPair

NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL: the dates are checked by the caller."""


class PeerCertificateProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with the client's certificate in each request's scope."""

    _client_cert_chain: list[str]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the certificate once per connection."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls else None
        self._client_cert_chain = [ssl.DER_cert_to_PEM_cert(der)] if der else []

    def on_message_begin(self) -> None:
        """Put it into the scope that uvicorn has just made."""
        super().on_message_begin()
        self.scope["extensions"] = {"tls": {"client_cert_chain": self._client_cert_chain}}

    def shutdown(self) -> None:
        """The server stops: an idle connection ends at once. A TLS good-bye would wait for an answer, up to 30
        seconds."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()


def peer_of(scope: Mapping[str, Any]) -> CertificateFacts | None:
    """The client of an ASGI scope, or None if it showed no certificate; error `pki.certificate`."""
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
    return pki.read_certificate(pki.load_certificate(chain[0].encode())) if chain else None


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
    return context


def enrolment_context(pair: KeyPair, authority_pem: bytes) -> ssl.SSLContext:
    """TLS in which a client certificate is optional and its dates are not checked: that is the renewal's business."""
    context = devices_context(pair, authority_pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= NO_CHECK_TIME
    return context
