"""Owns whether devices can be heard. While they cannot, nobody is late and nothing is proven: what is judged by the
clock waits, and gets the time of silence back."""

from collections.abc import Callable
from typing import NamedTuple


class Hearing(NamedTuple):
    """Whether devices can be heard now, and how many seconds of silence have just ended."""

    hears: bool
    silence_s: int


class Listening:
    """Remembers since when nobody can be heard; `up` says whether the broker listens to us. It begins deaf at `now`."""

    def __init__(self, up: Callable[[], bool], now: int) -> None:
        self._up = up
        self._deaf_since: int | None = now

    def judge(self, now: int) -> Hearing:
        """How it stands (Unix seconds)."""
        if not self._up():
            self._deaf_since = now if self._deaf_since is None else self._deaf_since
            return Hearing(False, 0)
        since, self._deaf_since = self._deaf_since, None
        return Hearing(True, 0 if since is None else max(0, now - since))
