"""Owns turning what happens into spans: it follows the feed of events, and hands out spans when something has ended.

A trace is told by what is in the database, so a server that was killed tells the rest of it; only what ended while no
server ran is missing from it."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from beamfleet_server.feed import Feed
from beamfleet_server.fleet.states import Progress
from beamfleet_server.store import Store
from beamfleet_server.store.events import Event
from beamfleet_server.tracing.ids import TraceIds
from beamfleet_server.tracing.spans import Span, of_device, of_rollout, of_silent

ENDS = frozenset({Progress.COMPLETED, Progress.ABORTED, Progress.EXPIRED})
MOST_SILENT = 1000
"""Devices of one rollout that never answered and get a span."""
PAUSE_S = 1.0
"""After something failed."""

_log = structlog.get_logger(__name__)


class Tracing:
    """Follows the feed; `export` takes spans and never blocks."""

    def __init__(self, store: Store, feed: Feed, ids: TraceIds, export: Callable[[Sequence[Span]], None]) -> None:
        self._store = store
        self._feed = feed
        self._ids = ids
        self._export = export
        self._told: set[int] = set()
        """Rollouts that have their span: one that takes late devices ends more than once."""

    async def run(self) -> None:
        """Until cancelled."""
        last = self._feed.newest
        while True:
            ring = self._feed.bell.next
            news = self._feed.after(last)
            if news is None:
                _log.warning("traces lack events: too many came at once")
            if news:
                try:
                    self._export(await asyncio.to_thread(self._spans, news))
                except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                    _log.exception("spans cannot be made")
                    await asyncio.sleep(PAUSE_S)
                last = news[-1].id
            else:
                last = self._feed.newest
                await ring.wait()

    def _spans(self, news: Sequence[Event]) -> list[Span]:
        spans: list[Span] = []
        for event in news:
            if event.kind == "update" and event.device is not None and "trace_id" in event.data:
                phase = str(event.data.get("phase", ""))
                for part in self._store.parts.of(event.device):
                    spans += of_device(self._ids, part, event.time, phase, event.cause, event.data)
            elif event.kind == "rollout" and event.rollout is not None and event.cause in ENDS:
                spans += self._ended(event.rollout)
        return spans

    def _ended(self, rollout: int) -> list[Span]:
        whole = self._store.parts.whole(rollout)
        if whole is None or rollout in self._told:
            return []
        self._told.add(rollout)
        silent = self._store.parts.silent(rollout, MOST_SILENT)
        return [of_rollout(self._ids, whole), *(of_silent(self._ids, part) for part in silent)]
