"""Owns the stream of a device's log: while somebody reads, the device is asked again and again; then it falls silent.

Redacted on the device. Nothing of it is kept here; that somebody has read it is an entry in the audit."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated

from beamfleet_bundles import messages, topics
from fastapi import APIRouter, Depends, Query, Request, Response

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.evidence import old_agent
from beamfleet_server.api.operators.stream import HEARTBEAT_S, MEDIA_TYPE, EventStream, Still
from beamfleet_server.audit import OK
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.errors import ServerError
from beamfleet_server.relay import Reader, Relay
from beamfleet_server.store import Store
from beamfleet_server.store.operators import Operator

OPERATION = "logs.stream"
APP = "main"
COMMAND_EXPIRY_S = 30
FOLLOW_S, AGAIN_S = 60, 40.0
"""How long a device goes on by itself, and when it is asked to go on."""
SILENT_S = 30.0
"""How long a device may take to say the first word, and, if it is to come to an end, the next one."""


def router(
    store: Store,
    relay: Relay,
    client: BrokerClient,
    authentication: Authentication,
    still: Still,
    stopping: asyncio.Event,
) -> APIRouter:
    """`/devices/{device}/logs`."""
    routes = guarded("logs")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.get(
        "/devices/{device}/logs",
        status_code=200,
        response_class=EventStream,
        responses={
            200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
            **problems.told("device.unknown", "device.offline", "device.old_agent", "broker.down", "stream.full"),
        },
    )
    async def stream(
        request: Request,
        operator: Admitted,
        device: str,
        lines: Annotated[int, Query(ge=0, le=1000, description="so many of the newest")] = 100,
        follow: Annotated[bool, Query(description="and those that come")] = False,
    ) -> Response:
        """The lines that the release prints, as server-sent events: `lines`, how many were `missed`, and at the end
        `end`, with `why` if the device did not come to it."""
        if not await asyncio.to_thread(store.devices.reachable, device):
            raise old_agent(device)
        word = secrets.token_hex(8)
        reader = relay.open(device, word)
        follow_s = FOLLOW_S if follow else 0

        async def ask(lines: int) -> None:
            wish = messages.Command(v=1, id=word, name="logs", lines=lines, follow_s=follow_s)
            topic = topics.down(device, APP, "command")
            await client.publish(topic, messages.encode(wish), expiry_s=COMMAND_EXPIRY_S)

        try:
            await ask(lines)
            act = request.state.act
            act.target, act.detail = device, "followed" if follow else f"{lines} lines"
            await asyncio.to_thread(store.audit.append, act, OK)
        except BaseException:
            relay.close(reader)
            raise
        pieces = _pieces(reader, ask, lambda: still(request, operator), follow=follow)
        return EventStream(pieces, stopping, lambda: relay.close(reader))

    return routes


async def _pieces(
    reader: Reader, ask: Callable[[int], Awaitable[None]], still: Callable[[], Awaitable[bool]], *, follow: bool
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    spoke = asked = checked = loop.time()
    heard = False
    while True:
        try:
            message = await asyncio.wait_for(reader.messages.get(), 1.0)
        except TimeoutError:
            message = None
        now = loop.time()
        if message is not None:
            heard, spoke = True, now
            missed, reader.missed = message["missed"] + reader.missed, 0
            yield told({"lines": list(message["lines"]), "missed": missed, "end": message["end"]})
            if message["end"]:
                return
        elif not (follow and heard) and now - spoke > SILENT_S:
            yield told({"lines": [], "missed": 0, "end": True, "why": "the device does not answer"})
            return
        if now - checked >= HEARTBEAT_S:
            checked = now
            if not await still():
                return
            yield b": alive\n\n"
        if follow and now - asked >= AGAIN_S:
            asked = now
            with suppress(ServerError):  # the broker is away: the device goes on for a while
                await ask(0)


def told(message: dict[str, object]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(message, separators=(',', ':'))}\n\n".encode()
