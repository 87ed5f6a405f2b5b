"""Owns who an operator is: a bearer token, or the cookie of a web session; 256 random bits each, of which the database
has only the SHA-256.

The cookie is `__Host-`: HttpOnly, Secure, SameSite=Strict, of this host alone. Whatever changes something needs the
session's CSRF token in a header as well, which no other site can set, and must not say that it comes from elsewhere.
The CSRF token is made from the secret of the session: it needs no memory of its own, and gives nothing of it away.
"""

import asyncio
import hashlib
import hmac
import secrets
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from beamfleet_server.api import permissions
from beamfleet_server.api.guard import SAFE
from beamfleet_server.api.problems import TooManyError
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.rates import Rates
from beamfleet_server.store.acts import Act
from beamfleet_server.store.operators import Operator, Operators
from beamfleet_server.store.sessions import Sessions

COOKIE = "__Host-beamfleet"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
LONGEST = 256
"""Most characters of a token or cookie that are looked at."""

_bearer = HTTPBearer(auto_error=False, description="the operator's token")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description=f"a web session; changes need {CSRF_HEADER} too")


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def csrf_of(secret: str) -> str:
    """The CSRF token of the session with this secret."""
    return hmac.new(secret.encode("utf-8", "replace"), b"beamfleet csrf", hashlib.sha256).hexdigest()


class Authentication:
    """Admits requests to the operators' API; as a dependency of a route it gives the operator. `rates`: how often one
    operator may ask."""

    def __init__(self, operators: Operators, sessions: Sessions, clock: Clock, rates: Rates) -> None:
        self._operators = operators
        self._sessions = sessions
        self._clock = clock
        self._rates = rates

    def __call__(
        self,
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        __: Annotated[str | None, Depends(_cookie)],
    ) -> Operator:
        """The operator that was admitted; the arguments describe how."""
        return cast("Operator", request.state.operator)

    async def admit(self, operation: str, request: Request, act: Act) -> None:
        """Errors `auth.*`, `request.rate`. Pages see to themselves who asks."""
        if operation.startswith("pages."):
            return
        operator = await self.identify(request)
        act.actor = operator.name
        wait_s = self._rates.take(operator.name)
        if wait_s:
            raise TooManyError(wait_s)
        permissions.check(operator, operation)
        request.state.operator = operator

    async def identify(self, request: Request) -> Operator:
        """Who asks; errors `auth.required`, `auth.expired`, `auth.csrf`."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme:
            return await self.of_token(token.strip() if scheme.lower() == "bearer" else "")
        operator = await self.of_session(request)
        if request.method not in SAFE:
            check_origin(request)
            check_csrf(request, request.headers.get(CSRF_HEADER, ""))
        return operator

    async def of_token(self, token: str) -> Operator:
        """Whose token this is; errors `auth.required`, `auth.expired`."""
        good = token if 0 < len(token) <= LONGEST else ""
        operator = await asyncio.to_thread(self._operators.find, token_hash(good)) if good else None
        if operator is None:
            raise _required("this token is not known")
        if operator.expires is not None and operator.expires <= self._clock():
            raise ServerError("auth.expired", f"the token of {operator.name} has expired", "ask for a new one")
        return operator

    async def of_session(self, request: Request) -> Operator:
        """Who is in the session of the request's cookie; error `auth.required`."""
        secret = request.cookies.get(COOKIE, "")
        if not secret or len(secret) > LONGEST:
            raise _required("this needs a token")
        operator = await asyncio.to_thread(self._sessions.find, token_hash(secret), self._clock())
        if operator is None:
            raise _required("this session is over")
        return operator


def check_csrf(request: Request, given: str) -> None:
    """Refuse a change without the CSRF token of the request's session; error `auth.csrf`."""
    secret = request.cookies.get(COOKIE, "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), csrf_of(secret).encode()):
        hint = f"send the session's token as {CSRF_HEADER}: GET /api/v1/session has it"
        raise ServerError("auth.csrf", f"{CSRF_HEADER} is not this session's", hint)


def check_origin(request: Request) -> None:
    """Refuse what a browser says comes from another site; error `auth.csrf`."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and origin != f"https://{host}") or site not in ("same-origin", "none"):
        raise ServerError("auth.csrf", "this comes from another site", "open this server's own page")


def _required(what: str) -> ServerError:
    return ServerError("auth.required", what, "log in: beamfleet login URL --token-file FILE --ca FILE")
