"""Owns enrolment over HTTPS: the part of EST (RFC 7030) that a device needs. curl and openssl are a complete client.

    GET  /.well-known/est/cacerts          the fleet's authorities, the one that signs first
    POST /.well-known/est/simpleenroll     HTTP Basic DEVICE:TOKEN, a certificate request -> a certificate
    POST /.well-known/est/simplereenroll   a certificate of the fleet, expired or not, and a request -> a further one
    GET  /metadata/NAME                    signed metadata of the top-level roles, for whoever has lost touch

The subject of a request is ignored: the device's id comes from the token, or from the certificate it has. Only who has
no token, where the server lets people approve devices, is called by its request's common name: 202 until somebody has
compared the key's fingerprint.

The metadata is for a device that knows none of the server's authorities any more (a year in a warehouse): it trusts
the signatures and nothing else, and what is here is public.
"""

from functools import partial
from typing import Annotated

from beamfleet_bundles import pki
from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.exceptions import HTTPException

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import token_hash
from beamfleet_server.api.devices import metadata_file
from beamfleet_server.api.guard import Guard, address_of, network_of, stand
from beamfleet_server.api.limits import AddressRate, BodyLimit
from beamfleet_server.api.renewals import PREFIX, Renewals, Requested, certificate, certificates, shown
from beamfleet_server.authorities import Authorities
from beamfleet_server.ca import key_fingerprint
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.rates import Rates
from beamfleet_server.store import Store
from beamfleet_server.store.acts import ACTING, Act, about

SHORTEST_WAIT_S, LONGEST_WAIT_S = 5, 900


class _Basic(HTTPBasic):
    """The device's id and token, None without any; error `token.wrong` for what is neither."""

    async def __call__(self, request: Request) -> HTTPBasicCredentials | None:  # type: ignore[override]
        try:
            return await super().__call__(request)
        except HTTPException:
            raise ServerError("token.wrong", "the credentials are not DEVICE:TOKEN in ASCII") from None


_basic = _Basic(auto_error=False)


async def _admit(_: str, request: Request, act: Act) -> None:
    """Everybody: the token or the certificate is looked at where it is used."""
    del request
    act.actor = ""


def application(
    store: Store, authorities: Authorities, clock: Clock, rates: Rates, renewals: Renewals, *, approval: bool
) -> FastAPI:
    """The ASGI application of the enrolment listener. `approval`: whether devices without a token may wait for a
    person."""
    app = FastAPI(title="beamfleet enrolment", openapi_url=None, docs_url=None, redoc_url=None)
    problems.install(app)
    stand(app, Guard(_admit, store.audit))

    @app.get(f"{PREFIX}/cacerts", tags=["enrolment"])
    def cacerts() -> Response:
        """The fleet's authorities, as PKCS#7."""
        return certificates(authorities.certificates)

    @app.post(f"{PREFIX}/simpleenroll", tags=["enrolment"])
    def simpleenroll(
        request: Request, asked: Requested, given: Annotated[HTTPBasicCredentials | None, Depends(_basic)]
    ) -> Response:
        """A device's first certificate, for a token or a person's word."""
        device = given.username if given is not None else asked.name
        about(shown(device))
        fingerprint, issue = key_fingerprint(asked.key), partial(authorities.issue_device, public_key=asked.key)
        if given is not None:
            token = token_hash(given.password)
            return certificate(store.enrolment.use_token(device, token, fingerprint, issue, clock()))
        if approval:
            address = network_of(address_of(request))
            return _decided(store.requests.ask(device, fingerprint, address, issue, clock()), fingerprint, clock())
        raise ServerError("token.wrong", "this needs DEVICE:TOKEN", "use HTTP Basic with the device's id and token")

    renewals.take(app, "enrolment")

    @app.get("/metadata/{name}", tags=["enrolment"])
    def metadata(name: Annotated[str, Path(max_length=64)]) -> Response:
        """`timestamp.json` and `N.ROLE.json` of root, targets and snapshot."""
        return metadata_file(store, name, public=True)

    app.add_middleware(BodyLimit, limit=pki.MAX_REQUEST)
    app.add_middleware(AddressRate, rates=rates)
    return app


def _decided(answer: bytes | int, fingerprint: str, now: int) -> Response:
    """The certificate, or "not yet": soon at first, then more and more seldom."""
    if isinstance(answer, bytes):
        return certificate(answer)
    act = ACTING.get()
    if act is not None:
        act.recorded = True  # that it begins to wait was kept with the change; that it still waits is not an act
    retry_s = min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, (now - answer) // 4))
    text = f"waiting for approval of the key with the SHA-256 {fingerprint}\n"
    return Response(text, 202, {"Retry-After": str(retry_s)}, "text/plain")
