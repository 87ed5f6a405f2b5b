"""Owns the route of events, with a long poll for those who follow them."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Limit
from beamfleet_server.api.schemas import Event, Page
from beamfleet_server.bell import Bell
from beamfleet_server.clock import rfc3339
from beamfleet_server.store import Store
from beamfleet_server.store.events import Event as KeptEvent
from beamfleet_server.store.events import Wanted

LONGEST_WAIT_S = 30

Device = Annotated[str | None, Query(max_length=63, description="only of this device")]
Kinds = Annotated[list[str] | None, Query(max_length=20, description="only of these, repeated")]
Of = Annotated[int | None, Query(ge=0, le=2**62, description="only of this rollout")]


def router(store: Store, bell: Bell, stopping: asyncio.Event) -> APIRouter:
    """`/events`. `bell` rings when there are new ones; `stopping` ends those who wait."""
    routes = guarded("events")

    @routes.get("/events")
    async def listed(
        after: Annotated[int, Query(ge=0, le=2**62, description="only those with a higher id")] = 0,
        device: Device = None,
        kind: Kinds = None,
        cause: Kinds = None,
        rollout: Of = None,
        limit: Limit = 100,
        wait_s: Annotated[int, Query(ge=0, le=LONGEST_WAIT_S, description="wait this long for the first one")] = 0,
        newest: Annotated[bool, Query(description="the last ones instead of the first ones")] = False,
    ) -> Page[Event]:
        """Events by id, oldest first."""
        wanted = asked_for(device, kind, cause, rollout)
        if newest:
            found = await asyncio.to_thread(store.events.newest, limit, wanted)
            return Page(items=[described(event) for event in reversed(found) if event.id > after])
        end = asyncio.get_running_loop().time() + wait_s
        while True:
            ring = bell.next
            found = await asyncio.to_thread(store.events.after, after, limit, wanted)
            left = end - asyncio.get_running_loop().time()
            if found or left <= 0 or stopping.is_set():
                return Page(items=[described(event) for event in found])
            try:
                await asyncio.wait_for(ring.wait(), left)
            except TimeoutError:
                continue

    return routes


def asked_for(device: str | None, kinds: list[str] | None, causes: list[str] | None, rollout: int | None) -> Wanted:
    """The events that the parameters of a request mean."""
    return Wanted(device, frozenset(kinds or ()), frozenset(causes or ()), rollout)


def described(event: KeptEvent) -> Event:
    """An event as it travels."""
    return Event(
        id=event.id,
        time=rfc3339(event.time),
        device=event.device,
        kind=event.kind,
        cause=event.cause,
        detail=event.detail,
        rollout=event.rollout,
        data=dict(event.data),
    )
