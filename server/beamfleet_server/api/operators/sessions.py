"""Owns the routes of web sessions: a token becomes a cookie, and a cookie ends."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import COOKIE, Authentication, check_origin, csrf_of, new_token, token_hash
from beamfleet_server.api.guard import address_of
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Number
from beamfleet_server.api.schemas import BegunSession, Ended, Page, WebSession
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import ADMIN, Operator
from beamfleet_server.store.sessions import KnownSession


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/session`, `/sessions`."""
    routes = guarded("sessions")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.post("/session", status_code=201)
    def begin(request: Request, response: Response, operator: Admitted) -> BegunSession:
        """Begin a web session for the bearer token that this request carries: sets the cookie."""
        if operator.session is not None:
            raise ServerError("auth.required", "a session begins with a token", "send the token as a bearer token")
        check_origin(request)
        session, secret = begin_session(store, operator, request, clock())
        set_cookie(response, secret, session.expires - clock())
        return BegunSession(**_described(session, session.id), csrf_token=csrf_of(secret))

    @routes.get("/session", responses=problems.told("session.unknown"))
    def current(request: Request, operator: Admitted) -> BegunSession:
        """The session that asks, with its CSRF token."""
        for each in store.sessions.all(clock(), operator.name):
            if each.id == operator.session:
                return BegunSession(**_described(each, each.id), csrf_token=csrf_of(request.cookies[COOKIE]))
        raise ServerError("session.unknown", "this is a token, not a session", "POST /api/v1/session begins one")

    @routes.delete("/session", responses=problems.told("session.unknown"))
    def end_current(response: Response, operator: Admitted) -> Ended:
        """Log out: end the session that asks."""
        if operator.session is None:
            raise ServerError("session.unknown", "this is a token, not a session", "beamfleet logout forgets a token")
        about(str(operator.session))
        store.sessions.end(operator.session)
        drop_cookie(response)
        return Ended(ended=str(operator.session))

    @routes.get("/sessions")
    def listed(operator: Admitted) -> Page[WebSession]:
        """The caller's sessions, for an admin everybody's, newest first."""
        name = None if operator.role == ADMIN else operator.name
        found = store.sessions.all(clock(), name)
        return Page(items=[WebSession(**_described(each, operator.session)) for each in found])

    @routes.delete("/sessions/{session}", responses=problems.told("session.unknown"))
    def end(session: Number, operator: Admitted) -> Ended:
        """End one of the caller's sessions, for an admin anybody's."""
        store.sessions.end(session, None if operator.role == ADMIN else operator.name)
        return Ended(ended=str(session))

    return routes


def begin_session(store: Store, operator: Operator, request: Request, now: int) -> tuple[KnownSession, str]:
    """A new session and its secret."""
    secret = new_token()
    agent = request.headers.get("user-agent", "")
    session = store.sessions.begin(token_hash(secret), operator, address_of(request), agent, now)
    about(str(session.id))
    return session, secret


def set_cookie(response: Response, secret: str, life_s: int) -> None:
    """The cookie of a session."""
    response.set_cookie(COOKIE, secret, max_age=life_s, path="/", secure=True, httponly=True, samesite="strict")


def drop_cookie(response: Response) -> None:
    """Take the cookie back."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def _described(session: KnownSession, current: int | None) -> dict[str, Any]:
    return {
        "id": session.id,
        "name": session.name,
        "role": session.role,
        "created": rfc3339(session.created),
        "used": rfc3339(session.used),
        "expires": rfc3339(session.expires),
        "address": session.address,
        "agent": session.agent,
        "current": session.id == current,
    }
