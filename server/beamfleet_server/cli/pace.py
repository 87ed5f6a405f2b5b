"""Owns how fast a rollout goes: devices a minute, and when it would be done if it went on like this. Pure; a time is in
seconds of any monotonic clock."""

from collections import deque

WINDOW_S = 300.0
"""How far back the pace is measured."""
FEWEST_S = 10.0
"""Less than that says nothing."""


class Pace:
    """Takes how many devices have come to their end, as time goes on."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, ended: int) -> None:
        """`ended` devices at the time `now`."""
        if self._seen and ended < self._seen[-1][1]:
            self._seen.clear()  # somebody tried again what had ended
        self._seen.append((now, ended))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    @property
    def per_minute(self) -> float:
        """Devices a minute; 0 while that cannot be known."""
        if len(self._seen) < 2:
            return 0.0
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return 60 * (last - first) / (now - began) if now - began >= FEWEST_S else 0.0

    def left_s(self, devices: int) -> float | None:
        """Seconds that so many devices take at this pace; None while that cannot be known."""
        return 60 * devices / self.per_minute if self.per_minute else None
