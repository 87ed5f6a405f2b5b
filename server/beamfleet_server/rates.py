"""Owns how often somebody may do something: token buckets by key, with a bounded memory. Never waits, never logs."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

MOST = 20_000
"""Keys that are remembered; the one that was quiet longest goes first."""


class Rates:
    """`per_s` times a second on average and `burst` at once, for each key. `clock`: monotonic seconds."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Take one: 0 if there was one, else the seconds until there is."""
        now = self._clock()
        left, at = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._buckets[key] = (left if wait_s else left - 1, now)
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        return wait_s
