"""Owns what a check finds, and how it is worded."""

from typing import Literal, NamedTuple

Level = Literal["degraded", "failing"]

LONGEST = 200


class Finding(NamedTuple):
    """What is wrong: which check says so, how bad it is, and one line about it."""

    check: str
    level: Level
    detail: str


def above(check: str, value: int | None, degraded: int, failing: int, detail: str) -> Finding | None:
    """A finding when the value has reached a threshold; 0 is a threshold that nothing reaches."""
    if value is None:
        return None
    if failing and value >= failing:
        return Finding(check, "failing", detail[:LONGEST])
    if degraded and value >= degraded:
        return Finding(check, "degraded", detail[:LONGEST])
    return None


def below(check: str, value: int | None, degraded: int, failing: int, detail: str) -> Finding | None:
    """A finding when the value has fallen below a threshold; below 0 nothing falls."""
    if value is None:
        return None
    if value < failing:
        return Finding(check, "failing", detail[:LONGEST])
    if value < degraded:
        return Finding(check, "degraded", detail[:LONGEST])
    return None


def percent(permille: int | None) -> str:
    """`93.5 %`."""
    return "" if permille is None else f"{permille / 10:g} %"


def size(count: int) -> str:
    """`210 MB`; `1.5 GB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{round(count / factor, 1):g} {unit}"
    return f"{count} B"
