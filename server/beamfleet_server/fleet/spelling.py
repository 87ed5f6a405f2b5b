"""Owns how a plan spells durations, sizes and times of the day, and the error that says what is wrong with one."""

import re
from typing import Any

from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.fleet.window import DAY_MIN, clock

UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
LONGEST_S = 3650 * 86_400
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")
_PERCENT = re.compile(r"([0-9]{1,3})%")


class PlanError(BeamfleetError):
    """A plan that is not one; `code` is `plan.*`, the message begins with the field."""


def refused(code: str, field: str, what: str, hint: str) -> PlanError:
    """The error about one field, such as `phases[1].soak`."""
    return PlanError(f"plan.{code}", f"{field}: {what}", hint)


def shown(value: Any) -> str:
    """A value as errors quote it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def duration(value: Any, field: str) -> int:
    """Seconds of `90s`, `10m`, `24h`, `30d`, `2w` or 0; error `plan.duration`."""
    if value == 0 and not isinstance(value, bool):
        return 0
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    seconds = int(found.group(1)) * UNITS[found.group(2)] if found else -1
    if found is None or seconds > LONGEST_S:
        what = f"{shown(value)} is no duration of at most 10 years"
        raise refused("duration", field, what, "write 90s, 10m, 24h or 30d")
    return seconds


def duration_text(seconds: int) -> str:
    """`duration` backwards, in the largest unit that fits."""
    unit = next(unit for unit, size in UNITS.items() if seconds % size == 0 and (seconds or unit == "s"))
    return f"{seconds // UNITS[unit]}{unit}"


def size(value: Any, field: str) -> tuple[int, bool]:
    """(number, whether it is a percentage) of `5`, `10%` or `all`, which is 100%; error `plan.size`."""
    if value == "all":
        return 100, True
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9:
        return value, False
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value), False
    return percent(value, field), True


def percent(value: Any, field: str) -> int:
    """The number of `10%`, at most 100; error `plan.size`."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found.group(1)) > 100:
        raise refused("size", field, f"{shown(value)} is no number of devices and no share", "write 5, or 10%")
    return int(found.group(1))


def minute(value: Any, field: str) -> int:
    """The minute of the day of `02:30`, at most `24:00`; error `plan.window`.

    YAML makes a number of an unquoted 12:30, and the number is that minute.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= DAY_MIN:
        return value
    found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    told = int(found.group(1)) * 60 + int(found.group(2)) if found else -1
    if found is None or int(found.group(2)) > 59 or told > DAY_MIN:
        raise refused("window", field, f"{shown(value)} is no time of the day", 'write it in quotes: "02:30"')
    return told


def minute_text(told: int) -> str:
    """`minute` backwards."""
    return clock(told)
