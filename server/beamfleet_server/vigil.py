"""Owns what time alone brings to devices' health: who has fallen silent, which part of the history is over. And the
dead-man's switch: when many devices fall silent at once, or reports are not committed, it is this server or its network
that is the problem, and an alarm says so.

It decides nothing about rollouts: what silence means to them is `controller`'s."""

import asyncio
from collections.abc import Callable

import structlog

from beamfleet_server.alarms import Alarms
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.store import Store
from beamfleet_server.store.silence import BROKER, SERVER, Ear

SHORTEST_S, LONGEST_S = 0.5, 5.0
"""Between two looks: long enough to be cheap, short enough for a device that has just come with a short keepalive."""
FEWEST = 5
"""Fewer devices than these may fall silent together without an alarm."""
TOGETHER_S = 120
STALLED_S = 30
"""Reports that wait for so long are not being committed."""
FLEET_SILENT = "fleet.silent"
INGEST_STALLED = "ingest.stalled"

_log = structlog.get_logger(__name__)


class Vigil:
    """Looks at everybody's silence. `up` says whether the broker listens to us, `waiting_s` for how long reports have
    been waiting to be committed."""

    def __init__(
        self, store: Store, alarms: Alarms, up: Callable[[], bool], waiting_s: Callable[[], float], clock: Clock
    ) -> None:
        self._store = store
        self._alarms = alarms
        self._up = up
        self._waiting_s = waiting_s
        self._clock = clock
        self._ear = Ear(hears=False, since=clock(), away=SERVER)
        self._lost_since: int | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = LONGEST_S
            try:
                due = await asyncio.to_thread(self.look, self._clock())
                if due is not None:
                    pause_s = min(LONGEST_S, max(SHORTEST_S, due - self._clock()))
            except ServerError as error:
                _log.error("nobody looks who has fallen silent", code=error.code, detail=error.message)
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("nobody looks who has fallen silent")
            await asyncio.sleep(pause_s)

    def look(self, now: int) -> int | None:
        """Look once; when the next device is due (Unix seconds)."""
        ear = self._listen(now, stalled=self._stalled())
        lost_since = now - TOGETHER_S if self._lost_since is None else self._lost_since
        standing = self._store.silence.stand(ear, lost_since)
        if standing.due is not None and standing.due <= now:
            self._store.silence.expire(ear, now)
            standing = self._store.silence.stand(ear, lost_since)
        self._silent(standing.lost, standing.lost + standing.online, lost_since)
        self._store.samples.write(now)
        return standing.due

    def _listen(self, now: int, *, stalled: bool) -> Ear:
        """Who says something that is not committed is not heard: that is this server's absence."""
        up = self._up()
        hears = up and not stalled
        if hears != self._ear.hears:
            away = self._ear.away if hears else SERVER if up else BROKER
            self._ear = Ear(hears=hears, since=now, away=away)
        return self._ear

    def _silent(self, lost: int, of: int, since: int) -> None:
        """Half of all that were here are gone since then, and no few: that is not theirs."""
        if lost >= FEWEST and 2 * lost >= of:
            self._lost_since = since
            what = f"{lost} of {of} devices fell silent together: this server or its network is the problem"
            self._alarms.sound(FLEET_SILENT, what)
        else:
            self._lost_since = None
            self._alarms.clear(FLEET_SILENT)

    def _stalled(self) -> bool:
        waiting_s = self._waiting_s()
        stalled = waiting_s >= STALLED_S
        if stalled:
            self._alarms.sound(INGEST_STALLED, f"reports have been waiting for {waiting_s:.0f} s to be committed")
        else:
            self._alarms.clear(INGEST_STALLED)
        return stalled
