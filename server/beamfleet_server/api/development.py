"""Owns the mark of a fleet with development keys: one person alone can sign anything. Every answer and page carries it.

Development is while the root needs one signature only.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "Beamfleet-Development"
WORDS = "Development keys: each alone is enough to sign. Not for production."


class DevelopmentMark:
    """Adds the header `Beamfleet-Development: yes` to every answer while `development` says so."""

    def __init__(self, app: ASGIApp, development: Callable[[], bool]) -> None:
        self._app = app
        self._development = development

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start" and self._development():
                message["headers"] = [*message.get("headers", ()), (HEADER.lower().encode(), b"yes")]
            await send(message)

        await self._app(scope, receive, marked if scope["type"] == "http" else send)
