"""Owns how the server tells the time to others; what it decides by is passed in as a `Clock`."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import overload

Clock = Callable[[], int]
"""Gives Unix seconds."""
LAST = 253_402_300_799
"""The end of the year 9999: a device may claim any time."""


def wall_clock() -> int:
    """Unix seconds now."""
    return int(time.time())


@overload
def rfc3339(seconds: int) -> str: ...
@overload
def rfc3339(seconds: int | None) -> str | None: ...
def rfc3339(seconds: int | None) -> str | None:
    """`2026-11-23T06:31:43Z` for Unix seconds; None stays None, and a time that no calendar has is the last of its
    end."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(min(seconds, LAST), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
