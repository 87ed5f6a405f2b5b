"""Owns the log line of what was refused: one each, and of whoever is refused all the time only so many.

What stands in a line may have been written by whom it was refused to: it is cut, and shown in ASCII.
"""

import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from beamfleet_server.rates import Rates

LINES_PER_S, LINES_AT_ONCE = 1.0, 300
"""Of one address or device."""
ALL_PER_S, ALL_AT_ONCE = 20.0, 2000
LONGEST = 200
TOLD = "beamfleet.refusal_told"
"""In the scope of a request that has its line: what is wrong with its body may come out in two places."""
USUAL = frozenset({"metadata.none"})
"""Each check of a device asks for the next root, which mostly is not there yet."""

_log = structlog.get_logger(__name__)


class Refusals:
    """Tells of refusals as lines of `level` that say `event`. `clock`: monotonic seconds."""

    def __init__(self, event: str, level: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._event, self._level = event, level
        self._of_one = Rates(LINES_PER_S, LINES_AT_ONCE, clock)
        self._of_all = Rates(ALL_PER_S, ALL_AT_ONCE, clock)
        self._untold = 0

    def tell(self, who: str, code: str, **facts: str | int) -> None:
        """A line, unless there were too many: those are a number in the next one."""
        if self._of_one.take(who) or self._of_all.take(None):
            self._untold += 1
            return
        if self._untold:
            facts["untold"], self._untold = self._untold, 0
        known = {name: shown(value) for name, value in facts.items() if value != ""}
        _log.log(self._level, self._event, code=code, **known)


def shown(value: str | int) -> str | int:
    """A fact as a line of the log may have it."""
    return value if isinstance(value, int) else ascii(value)[1:-1][:LONGEST]


REQUESTS = Refusals("request refused", logging.INFO)
"""Of all listeners: an address is the same on each."""


def request_refused(scope: MutableMapping[str, Any], status: int, code: str) -> None:
    """A request got this answer; who asked, and about what, is known where a guard had looked at it."""
    if code in USUAL or scope.get(TOLD):
        return
    scope[TOLD] = True
    address = (scope.get("client") or ("",))[0]
    act = scope.get("state", {}).get("act")
    known = {"actor": act.actor, "target": act.target} if act is not None else {}
    path = scope.get("raw_path", b"").decode("ascii", "replace")
    REQUESTS.tell(address, code, status=status, method=scope["method"], path=path, address=address, **known)
