"""Figures as people write and read them: durations, bytes, times. Pure; never reads a clock."""

import re
from datetime import UTC, datetime, tzinfo

from beamfleet_server.cli.errors import CommandError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd]?)")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_KILO = 1000
LONGEST_LIFE_S = 366 * 86_400
"""Of a token, as the server has it."""


def parse_duration(text: str) -> int:
    """Seconds of `90`, `90s`, `15m`, `1h` or `7d`, more than zero; `usage.duration` otherwise."""
    match = _DURATION.fullmatch(text.strip())
    if not match or int(match[1]) == 0:
        raise CommandError("usage.duration", f"{text!r} is not a duration", "a number and a unit: 90s, 15m, 1h, 7d")
    return int(match[1]) * _UNITS[match[2]]


def parse_life(text: str, flag: str = "--expires") -> int:
    """Seconds that a token is good, of `parse_duration`'s words; `usage.duration` for more than a year."""
    life_s = parse_duration(text)
    if life_s > LONGEST_LIFE_S:
        raise CommandError("usage.duration", f"{flag} is at most 366d, not {text}", "name a shorter time, such as 90d")
    return life_s


def parse_time(text: str) -> datetime | None:
    """A time of the API (RFC 3339), or None when it is none."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def show_duration(seconds: float) -> str:
    """The two largest units: `45s`, `3m 20s`, `2h 5m`, `9d 3h`."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit in "dhms":
        count, left = divmod(left, _UNITS[unit])
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    shown = [part for part in parts[:2] if part[0] != "0" or len(parts) == 1]
    return " ".join(shown) or parts[0]


def show_time(text: str | None, zone: tzinfo | None = None) -> str:
    """A time of the API as a clock on the wall of whoever looks: `2027-01-15 09:00:00 CET`; nothing without one, and
    what is none as it is. `zone`: in place of the machine's (TZ)."""
    time = parse_time(text) if text else None
    return f"{time.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}" if time else text or ""


def show_times(text: str, zone: tzinfo | None = None) -> str:
    """A text of the server with the times in it shown as by `show_time`."""
    return _TIME.sub(lambda found: show_time(found[0], zone), text)


def show_since(text: str | None, now: datetime) -> str:
    """How long ago a time of the API was: `3m 20s ago`; `never` without one."""
    time = parse_time(text) if text else None
    return f"{show_duration((now - time).total_seconds())} ago" if time else "never"


def show_bytes(count: int) -> str:
    """Decimal units as networks are sold: `999 B`, `1.5 kB`, `12.3 MB`."""
    if count < _KILO:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= _KILO
        if size < _KILO:
            return f"{size:.1f} {unit}"
    return f"{size / _KILO:.1f} TB"


def show_share(part: int, whole: int) -> str:
    """Of a whole that may be nothing: `7 %`, `0.3 %`."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if 0 < percent < 1 else f"{percent:.0f} %"
