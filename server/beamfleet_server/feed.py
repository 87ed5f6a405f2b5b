"""Owns the newest events in memory: read from the database once, for all who follow them.

    a commit ── wake ──► run: one read ──► recent ── bell ──► streams of operators, webhooks

Who has fallen behind what is here, or begins in the past, reads the database itself until it has caught up."""

import asyncio
from bisect import bisect_right
from collections import Counter
from typing import get_args

import structlog
from beamfleet_bundles.messages import Cause

from beamfleet_server.bell import Bell
from beamfleet_server.store.events import Event, Events

KEPT = 4096
PAGE = 1000
PAUSE_S = 1.0
"""After a read that failed."""

RESTART = "restart"
CAUSES = frozenset(get_args(Cause))

_log = structlog.get_logger(__name__)


class Feed:
    """The newest events. `bell` rings when there are more."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._news = asyncio.Event()
        self._recent: list[Event] = []
        self.bell = Bell()
        self.counted: Counter[tuple[str, str]] = Counter()
        """Events since the start by kind and, of restarts, cause; a device cannot make up further ones."""
        self.newest = events.last_id()
        """The id of the newest event."""
        self._floor = self.newest

    def wake(self) -> None:
        """There are new events in the database."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled: read what is new."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                found = await asyncio.to_thread(self._events.after, self.newest, PAGE)
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("new events cannot be read")
                self._news.set()
                await asyncio.sleep(PAUSE_S)
            else:
                if found:
                    self._take(found)
                if len(found) == PAGE:
                    self._news.set()

    def after(self, last: int) -> list[Event] | None:
        """The events with an id above `last`, oldest first; None if not all of them are in memory."""
        if last < self._floor:
            return None
        return self._recent[bisect_right(self._recent, last, key=lambda event: event.id) :]

    def _take(self, found: list[Event]) -> None:
        self._recent += found
        self.counted.update(kind_of(event) for event in found)
        if len(self._recent) > 2 * KEPT:
            self._floor = self._recent[-KEPT - 1].id
            del self._recent[:-KEPT]
        self.newest = found[-1].id
        self.bell.ring()


def kind_of(event: Event) -> tuple[str, str]:
    """As what an event is counted."""
    if event.kind != RESTART:
        return event.kind, ""
    return event.kind, event.cause if event.cause in CAUSES else "other"
