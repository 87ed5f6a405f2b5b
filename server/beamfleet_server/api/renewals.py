"""Owns the renewal of devices' certificates over HTTPS (EST, simplereenroll), and how certificates are asked and told.

The enrolment listener has it for every device, also for one whose certificate has run out. The devices' listener has it
as well, for those that get through to that one port alone; who gets there has a certificate that is good.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from beamfleet_bundles import pki
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device
from cryptography import x509
from fastapi import Depends, FastAPI, Request, Response

from beamfleet_server.api.problems import TooManyError
from beamfleet_server.authorities import Authorities
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.rates import Rates
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.tls import peer_der, peer_of

PREFIX = "/.well-known/est"
RENEW = f"{PREFIX}/simplereenroll"
HEADERS = {"Content-Transfer-Encoding": "base64"}
MEDIA_TYPE = "application/pkcs7-mime; smime-type=certs-only"


async def _requested(request: Request) -> pki.Requested:
    """The certificate request in the body; errors `pki.*`."""
    return pki.read_request_of(pki.decode_body(await request.body(), pki.MAX_REQUEST))


Requested = Annotated[pki.Requested, Depends(_requested)]


class Renewals:
    """Renews what the store knows. `rates`: how often a device may, on whichever listener."""

    def __init__(self, store: Store, authorities: Authorities, rates: Rates, clock: Clock) -> None:
        self._store, self._authorities, self._rates, self._clock = store, authorities, rates, clock

    def take(self, app: FastAPI, tag: str) -> None:
        """Add the route."""

        @app.post(RENEW, tags=[tag])
        def simplereenroll(request: Request, asked: Requested) -> Response:
            """A device's next certificate, for the one it has."""
            peer, der = peer_of(request.scope), peer_der(request.scope)
            if peer is None:
                raise ServerError("certificate.unknown", "renewal needs the certificate that is to be renewed")
            about(shown(peer.name), f"serial {peer.serial}")
            if wait_s := self._rates.take(peer.name):
                raise TooManyError(wait_s)
            issue = partial(self._authorities.issue_device, public_key=asked.key)
            return certificate(self._store.enrolment.renew(peer.serial, der, issue, self._clock()))


def shown(name: str) -> str:
    """What somebody calls itself, as a line of the log may show it."""
    try:
        return check_device(name)
    except BundleError:
        return "not a device id"


def certificate(der: bytes) -> Response:
    """One certificate, as it travels."""
    return certificates([x509.load_der_x509_certificate(der)])


def certificates(each: Sequence[x509.Certificate]) -> Response:
    """Certificates, as they travel: PKCS#7 in base64."""
    return Response(pki.encode_body(pki.pack_certificates(each)), media_type=MEDIA_TYPE, headers=HEADERS)
