"""Owns what a simulated device stands on, as protocols: time, the signed metadata, the way to the broker."""

from collections.abc import Callable
from typing import Any, Protocol

from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.facts import Facts

from beamfleet_server.simulator.tally import Tally


class Timer(Protocol):
    """What was put off."""

    def cancel(self) -> object:
        """Never, then."""
        ...


class Clock(Protocol):
    """Time, as the event loop has it."""

    def now(self) -> int:
        """Unix seconds."""
        ...

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call this later."""
        ...


class World(Clock, Protocol):
    """What a device is in. The fleet's; a test's is a list of timers."""

    speed: float
    """How much faster than the clock everything scripted goes."""
    tally: Tally

    @property
    def metadata(self) -> dict[str, Any]:
        """The versions of the verified metadata, as state messages have them."""
        ...

    def check(self, document: bytes, device: str, last: int) -> tuple[Assignment, Facts | None]:
        """The verified assignment, and what its product signs about it; errors `assignment.*`, `trust.*`."""
        ...

    def look(self, then: Callable[[], None]) -> None:
        """Look at the signed metadata anew, then go on."""
        ...

    def fetch(self, device: str, facts: Facts, then: Callable[[], None]) -> None:
        """Fetch as much of the pack as is asked for, then go on."""
        ...


class Line(Protocol):
    """The way to the broker."""

    @property
    def up(self) -> bool:
        """Whether there is a session."""
        ...

    def publish(self, kind: str, payload: bytes, expiry_s: int | None = None) -> bool:
        """False without a session."""
        ...

    def cut(self, away_s: float) -> None:
        """The power fails: no farewell, and nothing for a while."""
        ...
