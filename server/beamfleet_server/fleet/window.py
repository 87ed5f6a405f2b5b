"""Owns maintenance windows: when it is allowed to touch a device, by the wall clock where it stands.

A window belongs to the day on which it begins; one whose end is not after its beginning crosses midnight. The wall
clock decides: an hour that is left out in spring opens nothing, an hour that comes twice in autumn is open twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MIN = 1440
DAY_S = 86_400
LOOK_AHEAD_DAYS = 16
"""A weekly window that one change of the clock swallows opens the week after."""


@dataclass(frozen=True, slots=True)
class Window:
    """Open from `start` to before `end`, in minutes of the day; `days` are 0 (Monday) to 6."""

    days: frozenset[int]
    start: int
    end: int

    @property
    def crosses_midnight(self) -> bool:
        """Whether it ends on the day after; from 02:00 to 02:00 is a whole day."""
        return self.end <= self.start

    def has(self, weekday: int, minute: int) -> bool:
        """Whether this minute of that day is inside."""
        if not self.crosses_midnight:
            return weekday in self.days and self.start <= minute < self.end
        return (weekday in self.days and minute >= self.start) or ((weekday - 1) % 7 in self.days and minute < self.end)

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in sorted(self.days)) if len(self.days) < len(DAYS) else "daily"
        return f"{days} {clock(self.start)}-{clock(self.end)}"


def clock(minute: int) -> str:
    """`HH:MM`."""
    return f"{minute // 60:02}:{minute % 60:02}"


def zone(name: str) -> tzinfo:
    """The time zone of this name; UTC for one that nobody knows."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def is_open(windows: Sequence[Window], zone_name: str, now: int) -> bool:
    """Whether `now` (Unix seconds) is inside one of them; without any it always is."""
    return not windows or _inside(windows, zone(zone_name), now)


def next_change(windows: Sequence[Window], zone_name: str, now: int) -> int | None:
    """When they open if they are closed, close if they are open (Unix seconds); None if never."""
    if not windows:
        return None
    where = zone(zone_name)
    before = _inside(windows, where, now)
    marks = {mark for window in windows for mark in (window.start, window.end % DAY_MIN)}
    today = datetime.fromtimestamp(now, where).replace(hour=0, minute=0, second=0, tzinfo=None)
    days = (today + timedelta(days=ahead) for ahead in range(-1, LOOK_AHEAD_DAYS))
    moments = set().union(*(_moments(marks, where, day) for day in days))
    later = sorted(moment for moment in moments if moment > now)
    return next((moment for moment in later if _inside(windows, where, moment) != before), None)


def _inside(windows: Sequence[Window], where: tzinfo, now: int) -> bool:
    local = datetime.fromtimestamp(now, where)
    return any(window.has(local.weekday(), local.hour * 60 + local.minute) for window in windows)


def _moments(marks: set[int], where: tzinfo, day: datetime) -> set[int]:
    """When the wall clock shows one of `marks` on the day that begins with the naive `day`, and when it jumps then."""
    walls = [day + timedelta(minutes=mark) for mark in marks]
    found = {int(wall.replace(tzinfo=where, fold=fold).timestamp()) for wall in walls for fold in (0, 1)}
    jump = _jump(where, int(day.replace(tzinfo=where).timestamp()))
    return found | {jump} if jump is not None else found


def _jump(where: tzinfo, start: int) -> int | None:
    """When the zone's offset changes in the 25 hours after `start`."""
    low, high = start, start + DAY_S + 3600
    offset = datetime.fromtimestamp(low, where).utcoffset()
    if datetime.fromtimestamp(high, where).utcoffset() == offset:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, where).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high
