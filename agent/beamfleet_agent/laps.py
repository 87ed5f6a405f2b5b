"""Owns how long the phases of the newest update took here, by the monotonic clock, for the trace that it is part of.

Kept in memory only: after the agent was started again the phases before that are missing, but none is wrong.
"""

import time
from collections.abc import Callable

from beamfleet_agent.update_state import FINAL, Update


class Laps:
    """The phases of one update after the other; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._about = ("", 0)
        self._phase, self._since = "", 0.0
        self._taken: dict[str, int] = {}

    def enter(self, update: Update) -> None:
        """The update is in this phase now."""
        now, about = self._clock(), (update.slot, update.attempt)
        if about != self._about:
            self._about, self._taken, self._phase = about, {}, ""
        if update.phase == self._phase:
            return
        if self._phase and self._phase not in FINAL:
            self._taken[self._phase] = self._taken.get(self._phase, 0) + int((now - self._since) * 1000)
        self._phase, self._since = update.phase, now

    def of(self, update: Update) -> dict[str, str | int]:
        """What the event of its end carries for the trace; nothing for an update without one."""
        if not update.trace_id:
            return {}
        laps = {f"{phase}_ms": taken for phase, taken in self._taken.items()}
        return {"trace_id": update.trace_id, "span_id": update.span_id, **laps}
