"""Owns the stream of events (server-sent events): one answer that goes on until somebody ends it.

    from `Last-Event-ID` or `after`: pages out of the database ──► caught up: the feed in memory ──► as things happen

It ends when the operator's token or session does, when the server stops, and when the reader does not take what it is
sent. The reader comes again with the last id it has seen, and misses nothing. A stream does not count as use of a web
session: whoever leaves a page open is logged out all the same."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.types import Receive, Scope, Send

from beamfleet_server.api import permissions, problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.events import Device, Kinds, Of, asked_for, described
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.feed import Feed
from beamfleet_server.store import Store
from beamfleet_server.store.events import Event, Wanted
from beamfleet_server.store.operators import Operator
from beamfleet_server.store.sessions import Sessions

OPERATION = "events.stream"
MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
"""After this long without an event there is a sign of life; identity and role are looked at as often."""
SEND_S = 20.0
"""How long a reader may take nothing."""
GOOD_BYE_S = 1.0
RETRY_MS = 2000
MOST = 100
MOST_OF_OPERATOR = 10
TOGETHER = 100
"""Events that are sent in one piece."""


class Streams:
    """The streams that are open: bounded in all and for each operator."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def enter(self, operator: str) -> None:
        """One more; error `stream.full`."""
        if self._open.total() >= MOST or self._open[operator] >= MOST_OF_OPERATOR:
            what = f"{MOST_OF_OPERATOR} streams of one operator, or {MOST} in all, are open already"
            raise ServerError("stream.full", what, "end one of them, or ask with GET /events")
        self._open[operator] += 1

    def leave(self, operator: str) -> None:
        """One less."""
        self._open[operator] -= 1
        if self._open[operator] <= 0:
            del self._open[operator]


@dataclass(slots=True)
class Reading:
    """One reader: what it wants, and the last event that was looked at for it."""

    feed: Feed
    store: Store
    wanted: Wanted
    last: int
    sent: int = field(init=False)
    """The last id that it was told."""

    def __post_init__(self) -> None:
        self.sent = self.last

    async def next(self) -> list[Event]:
        """What is new and wanted, a few at a time; empty if there is nothing."""
        while True:
            newest = self.feed.newest
            page = self.feed.after(self.last)
            if page is None:
                found = await asyncio.to_thread(self.store.events.after, self.last, TOGETHER, self.wanted)
                self.last = found[-1].id if found else max(self.last, newest)
            else:
                found = list(islice(filter(self.wanted.takes, page), TOGETHER))
                self.last = found[-1].id if len(found) == TOGETHER else page[-1].id if page else self.last
            if found or page is not None:
                return found


Still = Callable[[Request, Operator], Awaitable[bool]]
"""Whether the operator behind a request may go on with it."""


def router(
    store: Store, feed: Feed, authentication: Authentication, still: Still, stopping: asyncio.Event
) -> APIRouter:
    """`/events/stream`. `still`: whether an operator may go on; `stopping` ends all streams."""
    routes = guarded("events")
    streams = Streams()
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.get(
        "/events/stream",
        status_code=200,
        response_class=EventStream,
        responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}, **problems.told("stream.full")},
    )
    async def stream(
        request: Request,
        operator: Admitted,
        after: Annotated[int | None, Query(ge=0, le=2**62, description="all with a higher id; else new ones")] = None,
        device: Device = None,
        kind: Kinds = None,
        cause: Kinds = None,
        rollout: Of = None,
        last_event_id: Annotated[str | None, Header(max_length=20, description="counts before `after`")] = None,
    ) -> Response:
        """Events as they happen, as server-sent events: `id`, and `data` as in `GET /events`."""
        if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
            after = int(last_event_id)
        last = feed.newest if after is None else min(after, feed.newest)
        reading = Reading(feed, store, asked_for(device, kind, cause, rollout), last)
        streams.enter(operator.name)
        pieces = _pieces(reading, lambda: still(request, operator))
        return EventStream(pieces, stopping, lambda: streams.leave(operator.name))

    return routes


def still_there(authentication: Authentication, sessions: Sessions, clock: Clock, operation: str = OPERATION) -> Still:
    """Looks at the token again, or whether the session goes on, without using it."""

    async def look(request: Request, operator: Operator) -> bool:
        try:
            if operator.session is not None:
                known = await asyncio.to_thread(sessions.all, clock(), operator.name)
                return any(each.id == operator.session for each in known)
            permissions.check(await authentication.identify(request), operation)
        except ServerError as error:
            return not error.code.startswith("auth.")  # a database that is busy ends nobody's stream
        return True

    return look


class EventStream(Response):
    """The answer: `pieces`, until they end. `leave` is called once, when it is over."""

    media_type = MEDIA_TYPE

    def __init__(self, pieces: AsyncGenerator[bytes, None], stopping: asyncio.Event, leave: Callable[[], None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._pieces = pieces
        self._stopping = stopping
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until it is over."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({sending, gone, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, gone, stopping):
                task.cancel()
            results = await asyncio.gather(sending, gone, stopping, return_exceptions=True)
            self._leave()
        try:
            if isinstance(results[0], BaseException) and not isinstance(results[0], asyncio.CancelledError):
                raise results[0]
            end = {"type": "http.response.body", "body": b"", "more_body": False}
            await asyncio.wait_for(send(end), GOOD_BYE_S)
        except TimeoutError:
            scope["extensions"]["beamfleet"]["abort"]()
            await _gone(receive)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await asyncio.wait_for(send(start), SEND_S)
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                body = {"type": "http.response.body", "body": piece, "more_body": True}
                await asyncio.wait_for(send(body), SEND_S)


async def _pieces(reading: Reading, still: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    yield f"retry: {RETRY_MS}\nid: {reading.last}\n\n".encode()
    checked = loop.time()
    while True:
        ring = reading.feed.bell.next
        found = await reading.next()
        if found:
            reading.sent = found[-1].id
            yield b"".join(map(_told, found))
        else:
            left = checked + HEARTBEAT_S - loop.time()
            with suppress(TimeoutError):
                await asyncio.wait_for(ring.wait(), max(0.0, left))
        if loop.time() - checked >= HEARTBEAT_S:
            checked = loop.time()
            if not await still():
                return
            yield f"id: {reading.last}\n\n".encode() if reading.last > reading.sent else b": alive\n\n"
            reading.sent = max(reading.sent, reading.last)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _told(event: Event) -> bytes:
    return f"id: {event.id}\ndata: {json.dumps(described(event).model_dump(), separators=(',', ':'))}\n\n".encode()
