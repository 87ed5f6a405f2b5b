"""Owns how large a request's body may be."""

from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beamfleet_server.api.problems import problem


class BodyLimit:
    """Refuses bodies above `limit` bytes; requests to the paths in `streamed` see to that themselves."""

    def __init__(self, app: ASGIApp, limit: int, streamed: Collection[str] = ()) -> None:
        self._app = app
        self._limit = limit
        self._streamed = frozenset(streamed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting."""
        if scope["type"] != "http" or scope["path"] in self._streamed:
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        detail = f"the body is larger than {self._limit} bytes"
        if not announced.isdigit() or len(announced) > 15 or int(announced) > self._limit:
            await problem(413, "request.too_large", detail)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, counted, send)
