"""Owns how large and how slow a request's body may be, and how often one address may ask."""

import asyncio
from collections.abc import Collection, Mapping
from types import MappingProxyType

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beamfleet_server.api.guard import address_of, network_of
from beamfleet_server.api.problems import TooManyError, problem, response_to
from beamfleet_server.rates import Rates
from beamfleet_server.refusals import request_refused

BODY_S = 60.0
"""How long a body may take that is not streamed."""
PIECE_S = 30.0
"""How long the next piece of a streamed body may take."""
NONE: Mapping[str, int] = MappingProxyType({})


class BodyLimit:
    """Refuses bodies above `limit` bytes, or above the one that `larger` has for a path, and those that do not come in
    time; requests to the paths in `streamed` see to their size themselves."""

    def __init__(
        self, app: ASGIApp, limit: int, streamed: Collection[str] = (), larger: Mapping[str, int] = NONE
    ) -> None:
        self._app = app
        self._limit = limit
        self._larger = larger
        self._streamed = frozenset(streamed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        streamed = scope["path"] in self._streamed
        limit = self._larger.get(scope["path"], self._limit)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        detail = f"the body is larger than {limit} bytes"
        unreadable = not announced.isdigit() or len(announced) > 15
        if not streamed and (unreadable or int(announced) > limit):
            request_refused(scope, 413, "request.too_large")
            await problem(413, "request.too_large", detail)(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + BODY_S
        seen, more = 0, True

        async def counted() -> Message:
            nonlocal seen, more
            if not more:
                return await receive()  # only to hear that the client has gone: that may take as long as it likes
            try:
                message = await asyncio.wait_for(receive(), PIECE_S if streamed else max(0.0, end - loop.time()))
            except TimeoutError:
                raise HTTPException(408, "the body does not arrive in time", {"Connection": "close"}) from None
            more = message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > limit and not streamed:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, counted, send)


class AddressRate:
    """Refuses requests of an address that asks too often, before anything else is looked at."""

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429 with Retry-After."""
        if scope["type"] == "http":
            wait_s = self._rates.take(network_of(address_of(Request(scope))))
            if wait_s:
                request_refused(scope, 429, "request.rate")
                await response_to(TooManyError(wait_s))(scope, receive, send)
                return
        await self._app(scope, receive, send)
