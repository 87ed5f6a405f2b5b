"""Owns moving the fleet: it reacts to what was committed, and looks at everything once in a while in case something
was missed.

It decides nothing itself: the rules are `fleet.decision`, and the store applies their orders and signs assignments in
one transaction; `delivery` brings those to the broker."""

import asyncio
import contextlib
from collections.abc import Collection

import structlog

from beamfleet_server.clock import Clock
from beamfleet_server.delivery import Delivery
from beamfleet_server.expiries import Expiries
from beamfleet_server.listening import Listening
from beamfleet_server.publishing import Publisher
from beamfleet_server.store import Store
from beamfleet_server.store.advancing import Look
from beamfleet_server.store.assignments import FRESH_S, Sign

LOOK_S = 15.0
SHORTEST_S = 1.0
STALE = "metadata.stale"
"""The alarm: what devices need to trust the rest gets no new life."""

_log = structlog.get_logger(__name__)


class Controller:
    """Advances rollouts when something was reported or is due, and keeps assignments and metadata fresh."""

    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        publisher: Publisher,
        expiries: Expiries,
        listening: Listening,
        sign: Sign,
        clock: Clock,
        *,
        offline_after_s: int,
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._publisher = publisher
        self._expiries = expiries
        self._listening = listening
        self._sign = sign
        self._clock = clock
        self._offline_after_s = offline_after_s
        self._changed: set[int] = set()
        self._wake = asyncio.Event()
        self._look_now = asyncio.Event()

    def joined(self) -> None:
        """Devices are new, or have other labels: a rollout may take them in."""
        self._look_now.set()

    def go_on(self) -> None:
        """A further batch of a rollout waits."""
        self._wake.set()

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
                await asyncio.to_thread(self._advance, changed)
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("rollouts could not be advanced", devices=len(changed))
                self._changed |= changed  # the next look tries them again

    def _advance(self, changed: Collection[int]) -> None:
        """One batch of each rollout that has one, then what was reported: neither waits for long."""
        self._store.advancing.go_on(self._clock())
        self._store.advancing.reported(changed, self._clock())

    async def look(self) -> None:
        """Until cancelled: the slow safety net."""
        while True:
            self._look_now.clear()
            pause_s = min(LOOK_S, self._offline_after_s / 4)
            try:
                due = await asyncio.to_thread(self._look)
                if due is not None:
                    pause_s = min(pause_s, max(SHORTEST_S, due - self._clock()))
                await self._delivery.repeat()
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("the safety look failed")
            if self._changed:
                self._wake.set()
            await asyncio.sleep(SHORTEST_S)  # many devices may come at once
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), pause_s - SHORTEST_S)

    def _look(self) -> int | None:
        """Look at everything; when there is something to do by the clock alone (Unix seconds)."""
        now = self._clock()
        self._refresh()
        self._expiries.tell()
        looked = self._rollouts(now)
        self._store.assignments.renew(self._store.assignments.stale(now - FRESH_S), self._sign, now)
        return now if looked.more else looked.due

    def _rollouts(self, now: int) -> Look:
        hearing = self._listening.judge(now)
        if hearing.silence_s:
            self._store.advancing.excuse(hearing.silence_s, self._offline_after_s, now)
        return self._store.advancing.look(now) if hearing.hears else Look(None, False)

    def _refresh(self) -> None:
        """Keep snapshot and timestamp fresh; who cannot do that sounds an alarm, long before devices notice."""
        try:
            self._publisher.refresh()
        except Exception as error:  # noqa: BLE001 (whatever it is, everything else goes on)
            _log.exception("snapshot and timestamp cannot be signed again")
            self._publisher.alarms.sound(STALE, f"snapshot and timestamp cannot be signed again: {error}")
        else:
            self._publisher.alarms.clear(STALE)
