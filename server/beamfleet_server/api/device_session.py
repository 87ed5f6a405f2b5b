"""Owns the devices' way to the broker over the HTTPS listener: a WebSocket, for networks that let one port through.

Who asks is admitted like any device; what goes through afterwards is between device and broker (`broker.passage`).
"""

from collections.abc import Callable
from typing import Annotated

from beamfleet_bundles import websocket
from fastapi import Depends, FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from beamfleet_server.api.problems import TooManyError
from beamfleet_server.broker.passage import Passage, Passages
from beamfleet_server.errors import ServerError

AGAIN_S = 10


def take_sessions(app: FastAPI, passages: Passages, identified: Callable[[Request], str]) -> None:
    """Add the route."""

    @app.get(websocket.PATH, tags=["device"])
    async def session(request: Request, device: Annotated[str, Depends(identified)]) -> Response:
        """Switches to WebSocket, whose binary frames are one stream: TLS with the broker."""
        key = _key(request)
        if passages.full(device):
            raise TooManyError(AGAIN_S)
        return _Switching(key, await passages.open(device))


def _key(request: Request) -> str:
    headers = {name: request.headers.get(name, "") for name in ("upgrade", "sec-websocket-key")}
    offered = [each.strip() for each in request.headers.get("sec-websocket-protocol", "").split(",")]
    good = (
        "upgrade" in [each.strip().lower() for each in request.headers.get("connection", "").split(",")]
        and headers["upgrade"].lower() == "websocket"
        and request.headers.get("sec-websocket-version") == websocket.VERSION
        and websocket.is_key(headers["sec-websocket-key"])
        and websocket.PROTOCOL in offered
    )
    if not good:
        what = f"this is the way to the broker: a WebSocket with the protocol {websocket.PROTOCOL}"
        raise ServerError("request.malformed", what, "see PROTOCOL.md, MQTT over WebSocket")
    return headers["sec-websocket-key"]


class _Switching(Response):
    """Leaves the connection to the passage."""

    def __init__(self, key: str, passage: Passage) -> None:
        super().__init__(status_code=101)
        self._passage = passage
        self._head = (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-accept: {websocket.accept(key)}\r\nsec-websocket-protocol: {websocket.PROTOCOL}\r\n\r\n"
        ).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        if not scope["extensions"]["beamfleet"]["switch"](self._head, self._passage.near):
            self._passage.close()
