"""Owns the pages that are not the API: the log-in, and who is logged in. What the web interface grows on.

Plain HTML with forms, no script, under a policy that allows none: nothing loads, nothing frames it, forms go to this
server only. Every text is escaped. A token becomes a session here as it does at `POST /api/v1/session`; the token
itself is in no page and no address.
"""

import asyncio
import html
from collections.abc import Callable
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from beamfleet_server.api.authentication import (
    COOKIE,
    CSRF_FIELD,
    Authentication,
    check_csrf,
    check_origin,
    csrf_of,
    new_token,
)
from beamfleet_server.api.development import WORDS
from beamfleet_server.api.operators.sessions import begin_session, drop_cookie, set_cookie
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.provider import Provider
from beamfleet_server.store import Store
from beamfleet_server.store.acts import ACTING, about

LARGEST_FORM = 4096
POLICY = "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
UNDERWAY = "__Host-beamfleet-login"
PROVIDER = '<p><a href="/login/oidc">Log in with the identity provider</a></p>'
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Strict-Transport-Security": "max-age=31536000",
}
HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><title>beamfleet</title>'
FORM = """<h1>beamfleet</h1>
<form method="post" action="/login" autocomplete="off">
<p><label>Token <input type="password" name="token" required maxlength="256" autocomplete="off"></label></p>
<p><button>Log in</button></p>
</form>
<p>beamfleet operator create NAME --role ROLE makes a token.</p>"""


def install(
    app: FastAPI,
    store: Store,
    authentication: Authentication,
    clock: Clock,
    provider: Provider | None,
    development: Callable[[], bool],
) -> None:
    """Add `/`, `/login` and `/logout`, and with a provider `/login/oidc`; none of them is in the API's description."""

    def page_of(body: str) -> HTMLResponse:
        mark = f'<p role="note"><strong>{WORDS}</strong></p>' if development() else ""
        return HTMLResponse(HEAD + mark + body, headers=HEADERS)

    async def home(request: Request) -> Response:
        """Who is logged in, or the way to the log-in."""
        try:
            operator = await authentication.identify(request)
        except ServerError:
            return RedirectResponse("/login", 303, HEADERS)
        secret = request.cookies.get(COOKIE, "")
        sessions = await asyncio.to_thread(store.sessions.all, clock(), operator.name)
        rows = "".join(
            f"<li>{_text(each.created)}, from {html.escape(each.address)}, {html.escape(each.agent)}"
            f"{' (this one)' if each.id == operator.session else ''}</li>"
            for each in sessions
        )
        return page_of(
            f"<h1>beamfleet</h1><p>{html.escape(operator.name)}, {html.escape(operator.role)}</p>"
            f"<h2>Sessions</h2><ul>{rows}</ul>"
            f'<form method="post" action="/logout"><input type="hidden" name="{CSRF_FIELD}" '
            f'value="{csrf_of(secret)}"><button>Log out</button></form>'
        )

    async def form(_: Request) -> Response:
        """The log-in."""
        return page_of(FORM + (PROVIDER if provider else ""))

    async def login(request: Request) -> Response:
        """A token becomes a session."""
        check_origin(request)
        given = await _form(request)
        operator = await authentication.of_token(given.get("token", "").strip())
        act = ACTING.get()
        if act is not None:
            act.actor = operator.name
        session, secret = await asyncio.to_thread(begin_session, store, operator, request, clock())
        answer = RedirectResponse("/", 303, HEADERS)
        set_cookie(answer, secret, session.expires - clock())
        return answer

    async def logout(request: Request) -> Response:
        """A session ends."""
        given = await _form(request)
        operator = await authentication.of_session(request)
        check_csrf(request, given.get(CSRF_FIELD, ""))
        if operator.session is not None:
            about(str(operator.session))
            await asyncio.to_thread(store.sessions.end, operator.session)
        answer = RedirectResponse("/login", 303, HEADERS)
        drop_cookie(answer)
        return answer

    async def to_provider(request: Request) -> Response:
        """The way to the provider; a cookie of its own says which browser went there."""
        del request
        browser = new_token()
        answer = RedirectResponse(await asyncio.to_thread(_given(provider).begin, browser), 303, HEADERS)
        answer.set_cookie(UNDERWAY, browser, max_age=600, path="/", secure=True, httponly=True, samesite="lax")
        return answer

    async def from_provider(request: Request) -> Response:
        """The way back. The page goes on by itself: a cookie that is strict is not sent where another site led."""
        state, code = (request.query_params.get(name, "")[:LARGEST_FORM] for name in ("state", "code"))
        browser = request.cookies.get(UNDERWAY, "")
        operator = await asyncio.to_thread(_given(provider).finish, browser, state, code)
        act = ACTING.get()
        if act is not None:
            act.actor = operator.name
        session, secret = await asyncio.to_thread(begin_session, store, operator, request, clock())
        answer = page_of('<meta http-equiv="refresh" content="0;url=/"><p><a href="/">logged in</a></p>')
        set_cookie(answer, secret, session.expires - clock())
        answer.delete_cookie(UNDERWAY, path="/", secure=True, httponly=True, samesite="lax")
        return answer

    pages = [("/login/oidc", "GET", to_provider), ("/login/oidc/callback", "GET", from_provider)] if provider else []
    for path, method, page in (
        *pages,
        ("/", "GET", home),
        ("/login", "GET", form),
        ("/login", "POST", login),
        ("/logout", "POST", logout),
    ):
        app.add_api_route(path, page, methods=[method], tags=["pages"], include_in_schema=False, response_model=None)


def _given(provider: Provider | None) -> Provider:
    assert provider is not None  # noqa: S101 (the routes are there with a provider only)
    return provider


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_FORM:
            raise ServerError("request.too_large", f"the form is larger than {LARGEST_FORM} bytes")
    try:
        fields = parse_qs(body.decode("ascii", "replace"), max_num_fields=10)
    except ValueError:
        raise ServerError("request.malformed", "this is no form of ours") from None
    return {name: values[-1] for name, values in fields.items()}


def _text(seconds: int) -> str:
    return html.escape(rfc3339(seconds))
