"""Owns waking those who wait for something to happen, without losing a ring between looking and waiting."""

import asyncio


class Bell:
    """Take `next` before looking; if there was nothing, wait for that event."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """Set at the next ring."""
        return self._next

    def ring(self) -> None:
        """Wake everyone who waits."""
        rung, self._next = self._next, asyncio.Event()
        rung.set()
