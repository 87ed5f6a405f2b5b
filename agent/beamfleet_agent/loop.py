"""Owns the one thread's waiting: descriptors, named timers, signals. Decides nothing and knows no protocol.

A wake-up costs a battery; whoever uses this sets few timers and none that only looks whether something has happened.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Loop:
    """`run` calls back until `stop`. All times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._signals: dict[int, Callable[[], None]] = {}
        self._soon: list[Callable[[], None]] = []
        self._running = False
        self._wakeup, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self.watch(self._wakeup, READ, self._on_signals)

    @staticmethod
    def now() -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` when `descriptor` is ready; replaces an earlier watch of it."""
        if descriptor in self._selector.get_map():
            self._selector.modify(descriptor, events, callback)
        else:
            self._selector.register(descriptor, events, callback)

    def unwatch(self, descriptor: int) -> None:
        """Forget `descriptor`; before it is closed."""
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def after(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, in `delay_s`; a timer of the same name is replaced."""
        self._timers[name] = (self.now() + delay_s, callback)

    def cancel(self, name: str) -> bool:
        """Drop the timer of this name; whether there was one."""
        return self._timers.pop(name, None) is not None

    def pending(self, name: str) -> bool:
        """Whether a timer of this name runs."""
        return name in self._timers

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` when what runs now has returned."""
        self._soon.append(callback)

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop, never in the midst of something, when the signal comes."""
        self._signals[number] = callback
        signal.signal(number, _ignore)

    def run(self) -> None:
        """Call back until `stop`."""
        self._running = True
        while self._running:
            self.turn()

    def stop(self) -> None:
        """Let `run` return."""
        self._running = False

    def turn(self) -> None:
        """Wait once, and do what became due."""
        while self._soon:
            self._soon.pop(0)()
        timeout = None
        if self._timers:
            timeout = max(0.0, min(due for due, _ in self._timers.values()) - self.now())
        if not self._running:
            timeout = 0.0
        for key, events in self._selector.select(timeout):
            if key.fd in self._selector.get_map():  # an earlier callback of this turn may have closed it
                key.data(events)
        now = self.now()
        for name, (due, callback) in sorted(self._timers.items(), key=lambda timer: timer[1][0]):
            if due <= now and self._timers.get(name) == (due, callback):
                del self._timers[name]
                callback()

    def close(self) -> None:
        """Give the descriptors back."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wakeup)
        os.close(self._waker)

    def _on_signals(self, _events: int) -> None:
        for number in sorted(set(os.read(self._wakeup, 4096))):
            if callback := self._signals.get(number):
                callback()


def _ignore(_number: int, _frame: object) -> None:
    """The wake-up descriptor has told the loop already."""
