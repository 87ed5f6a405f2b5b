"""Owns enrolment over HTTPS: the part of EST (RFC 7030) that a device needs. curl and openssl are a complete client.

    GET  /.well-known/est/cacerts          the fleet CA
    POST /.well-known/est/simpleenroll     HTTP Basic DEVICE:TOKEN, a certificate request -> a certificate
    POST /.well-known/est/simplereenroll   a certificate of the fleet, expired or not, and a request -> a further
    certificate

The subject of a request is ignored: the device's id comes from the token's record, or from the certificate it has.
"""

from typing import Annotated

import structlog
from beamfleet_bundles import pki
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import token_hash
from beamfleet_server.api.guard import Guard, stand
from beamfleet_server.api.limits import AddressRate, BodyLimit
from beamfleet_server.ca import FleetAuthority, key_fingerprint
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.rates import Rates
from beamfleet_server.store import Store
from beamfleet_server.store.acts import Act, about
from beamfleet_server.tls import peer_of

PREFIX = "/.well-known/est"
HEADERS = {"Content-Transfer-Encoding": "base64"}
MEDIA_TYPE = "application/pkcs7-mime; smime-type=certs-only"

_log = structlog.get_logger(__name__)
_basic = HTTPBasic(auto_error=False)


async def _requested(request: Request) -> ec.EllipticCurvePublicKey:
    """The key of the certificate request in the body; errors `pki.*`."""
    return pki.read_request(pki.decode_body(await request.body(), pki.MAX_REQUEST))


Requested = Annotated[ec.EllipticCurvePublicKey, Depends(_requested)]


async def _admit(_: str, request: Request, act: Act) -> None:
    """Everybody: the token or the certificate is looked at where it is used."""
    del request
    act.actor = ""


def application(store: Store, authority: FleetAuthority, clock: Clock, rates: Rates) -> FastAPI:
    """The ASGI application of the enrolment listener."""
    app = FastAPI(title="beamfleet enrolment", openapi_url=None, docs_url=None, redoc_url=None)
    problems.install(app)
    stand(app, Guard(_admit, store.audit))

    @app.get(f"{PREFIX}/cacerts", tags=["enrolment"])
    def cacerts() -> Response:
        """The fleet CA, as PKCS#7."""
        return _answer(authority.der)

    @app.post(f"{PREFIX}/simpleenroll", tags=["enrolment"])
    def simpleenroll(key: Requested, given: Annotated[HTTPBasicCredentials | None, Depends(_basic)]) -> Response:
        """A device's first certificate, for a token."""
        if given is None:
            raise ServerError("token.wrong", "this needs DEVICE:TOKEN", "use HTTP Basic with the device's id and token")
        about(_shown(given.username))
        token, fingerprint = token_hash(given.password), key_fingerprint(key)
        try:
            der = store.enrolment.use_token(
                given.username, token, fingerprint, lambda device: authority.issue_device(device, key), clock()
            )
        except ServerError as error:
            _log.warning("enrolment refused", device=_shown(given.username), code=error.code)
            raise
        return _answer(der)

    @app.post(f"{PREFIX}/simplereenroll", tags=["enrolment"])
    def simplereenroll(request: Request, key: Requested) -> Response:
        """A device's next certificate, for the one it has."""
        peer = peer_of(request.scope)
        if peer is None:
            raise ServerError("certificate.unknown", "renewal needs the certificate that is to be renewed")
        about(_shown(peer.name), f"serial {peer.serial}")
        return _answer(store.enrolment.renew(peer.serial, lambda device: authority.issue_device(device, key), clock()))

    app.add_middleware(BodyLimit, limit=pki.MAX_REQUEST)
    app.add_middleware(AddressRate, rates=rates)
    return app


def _shown(name: str) -> str:
    """What somebody calls itself, as a line of the log may show it."""
    try:
        return check_device(name)
    except BundleError:
        return "not a device id"


def _answer(der: bytes) -> Response:
    body = pki.encode_body(pki.pack_certificates([x509.load_der_x509_certificate(der)]))
    return Response(body, media_type=MEDIA_TYPE, headers=HEADERS)
