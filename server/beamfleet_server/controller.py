"""Owns moving the fleet: it reacts to what was committed, and looks at everything once in a while in case something
was missed.

It decides nothing itself: the rules are `fleet.rollout`, and the store applies their orders and signs assignments in
one transaction; `delivery` brings those to the broker."""

import asyncio
from collections.abc import Collection

import structlog

from beamfleet_server.clock import Clock
from beamfleet_server.delivery import Delivery
from beamfleet_server.publishing import Publisher
from beamfleet_server.store import Store
from beamfleet_server.store.assignments import FRESH_S, Sign

LOOK_S = 15.0

_log = structlog.get_logger(__name__)


class Controller:
    """Advances rollouts and keeps assignments, metadata and presence fresh."""

    def __init__(
        self, store: Store, delivery: Delivery, publisher: Publisher, sign: Sign, clock: Clock, *, offline_after_s: int
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._publisher = publisher
        self._sign = sign
        self._clock = clock
        self._offline_after_s = offline_after_s
        self._listening_since = clock()
        self._changed: set[int] = set()
        self._wake = asyncio.Event()

    def reported(self, devices: Collection[int]) -> None:
        """The new states of these devices (by id) are committed."""
        if devices:
            self._changed |= set(devices)
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled: advance what reports change, as soon as they do."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            changed, self._changed = self._changed, set()
            try:
                await asyncio.to_thread(self._store.advancing.reported, changed, self._clock())
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("rollouts could not be advanced", devices=len(changed))
                self._changed |= changed  # the next look tries them again

    async def look(self) -> None:
        """Until cancelled: the slow safety net."""
        while True:
            try:
                await asyncio.to_thread(self._look)
                await self._delivery.repeat()
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("the safety look failed")
            if self._changed:
                self._wake.set()
            await asyncio.sleep(min(LOOK_S, self._offline_after_s / 4))

    def _look(self) -> None:
        now = self._clock()
        self._publisher.refresh()
        if now - self._listening_since >= self._offline_after_s:  # silence before we listened proves nothing
            self._store.reports.expire(now - self._offline_after_s, now)
        self._store.advancing.check_all(now)
        self._store.assignments.renew(self._store.assignments.stale(now - FRESH_S), self._sign, now)
