"""Owns what is wrong with the server itself right now: each thing has a name, is an event when it begins and when it
is over, and stands in `GET /health` in between. Never decides what is wrong."""

import threading
from dataclasses import dataclass

import structlog

from beamfleet_server.clock import Clock
from beamfleet_server.store.events import Events, NewEvent

KIND = "alarm"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is wrong, in words, and since when (Unix seconds)."""

    name: str
    detail: str
    since: int


class Alarms:
    """The alarms that sound; from any thread, and without waiting for anything."""

    def __init__(self, events: Events, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._lock = threading.Lock()
        self._sounding: dict[str, Alarm] = {}

    @property
    def sounding(self) -> list[Alarm]:
        """Those that are not over, by name."""
        with self._lock:
            return [self._sounding[name] for name in sorted(self._sounding)]

    def sound(self, name: str, detail: str) -> None:
        """Something is wrong. While it is, only the words change."""
        with self._lock:
            before = self._sounding.get(name)
            alarm = Alarm(name, detail, before.since if before else self._clock())
            self._sounding[name] = alarm
        if before is None:
            _log.error("alarm", code=name, detail=detail)
            self._events.post(NewEvent(alarm.since, KIND, name, detail[:1000]))

    def clear(self, name: str) -> None:
        """It is not wrong, or no longer."""
        with self._lock:
            alarm = self._sounding.pop(name, None)
        if alarm is not None:
            _log.info("alarm is over", code=name)
            self._events.post(NewEvent(self._clock(), KIND, name, "over"))
