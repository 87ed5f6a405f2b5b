"""Maintenance windows in the local time of devices, by table: many zones, both changes of the clock, midnight."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from beamfleet_server.fleet.window import Window, is_open, next_change, zone
from hypothesis import given, settings
from hypothesis import strategies as st

DAILY = frozenset(range(7))
MON, TUE, SAT, SUN = (frozenset({day}) for day in (0, 1, 5, 6))


def at(text: str) -> int:
    """Unix seconds of a time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def daily(start: str, end: str, days: frozenset[int] = DAILY) -> Window:
    return Window(days, *(int(text[:2]) * 60 + int(text[3:]) for text in (start, end)))


NIGHT = daily("02:00", "04:00")
TABLE: list[tuple[Window, str, str, bool]] = [
    # Berlin, winter: UTC+1
    (NIGHT, "Europe/Berlin", "2026-01-15 00:59:59", False),
    (NIGHT, "Europe/Berlin", "2026-01-15 01:00:00", True),
    (NIGHT, "Europe/Berlin", "2026-01-15 02:59:59", True),
    (NIGHT, "Europe/Berlin", "2026-01-15 03:00:00", False),
    # Berlin, summer: UTC+2
    (NIGHT, "Europe/Berlin", "2026-07-15 00:00:00", True),
    (NIGHT, "Europe/Berlin", "2026-07-15 02:00:00", False),
    # Berlin, 29 March 2026: 02:00 becomes 03:00 at 01:00 UTC, so 02:00-04:00 is one hour long
    (NIGHT, "Europe/Berlin", "2026-03-29 00:59:59", False),
    (NIGHT, "Europe/Berlin", "2026-03-29 01:00:00", True),
    (NIGHT, "Europe/Berlin", "2026-03-29 01:59:59", True),
    (NIGHT, "Europe/Berlin", "2026-03-29 02:00:00", False),
    # and 02:00-03:00 does not exist on that day
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-03-29 00:59:59", False),
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-03-29 01:00:00", False),
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-03-30 00:00:00", True),
    # Berlin, 25 October 2026: 02:00-03:00 comes twice, 00:00 to 02:00 UTC
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-10-24 23:59:59", False),
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-10-25 00:30:00", True),
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-10-25 01:30:00", True),
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-10-25 02:00:00", False),
    # New York: 8 March and 1 November 2026
    (NIGHT, "America/New_York", "2026-03-08 06:59:59", False),
    (NIGHT, "America/New_York", "2026-03-08 07:00:00", True),
    (NIGHT, "America/New_York", "2026-03-08 08:00:00", False),
    (NIGHT, "America/New_York", "2026-11-01 06:59:59", False),
    (NIGHT, "America/New_York", "2026-11-01 07:00:00", True),
    (daily("01:00", "02:00"), "America/New_York", "2026-11-01 05:30:00", True),
    (daily("01:00", "02:00"), "America/New_York", "2026-11-01 06:30:00", True),
    # the southern half goes the other way: Sydney, 5 April and 4 October 2026
    (NIGHT, "Australia/Sydney", "2026-04-04 15:30:00", True),
    (NIGHT, "Australia/Sydney", "2026-04-04 16:30:00", True),
    (NIGHT, "Australia/Sydney", "2026-04-04 18:00:00", False),
    (NIGHT, "Australia/Sydney", "2026-10-03 16:00:00", True),
    (NIGHT, "Australia/Sydney", "2026-10-03 17:00:00", False),
    # offsets of half and three quarters of an hour; Lord Howe's clock changes by half an hour, 4 October 2026
    (NIGHT, "Asia/Kolkata", "2026-01-15 20:30:00", True),
    (NIGHT, "Asia/Kolkata", "2026-01-15 22:30:00", False),
    (NIGHT, "Asia/Kathmandu", "2026-01-15 20:14:59", False),
    (NIGHT, "Asia/Kathmandu", "2026-01-15 20:15:00", True),
    (NIGHT, "America/St_Johns", "2026-01-15 05:30:00", True),
    (daily("02:00", "02:30"), "Australia/Lord_Howe", "2026-10-03 15:29:59", False),
    (daily("02:00", "02:30"), "Australia/Lord_Howe", "2026-10-03 15:30:00", False),
    (daily("02:30", "03:00"), "Australia/Lord_Howe", "2026-10-03 15:30:00", True),
    (daily("01:30", "02:00"), "Australia/Lord_Howe", "2026-04-04 14:45:00", True),
    (daily("01:30", "02:00"), "Australia/Lord_Howe", "2026-04-04 15:15:00", True),
    # the edges of the day: +14 and -11 hours
    (NIGHT, "Pacific/Kiritimati", "2026-01-14 12:00:00", True),
    (NIGHT, "Pacific/Pago_Pago", "2026-01-15 13:00:00", True),
    # across midnight: the day is the one on which it begins (12 January 2026 is a Monday)
    (daily("22:00", "02:00", MON), "UTC", "2026-01-12 01:00:00", False),
    (daily("22:00", "02:00", MON), "UTC", "2026-01-12 22:00:00", True),
    (daily("22:00", "02:00", MON), "UTC", "2026-01-13 01:59:59", True),
    (daily("22:00", "02:00", MON), "UTC", "2026-01-13 02:00:00", False),
    (daily("22:00", "02:00", MON), "UTC", "2026-01-13 22:00:00", False),
    (daily("22:00", "02:00", SUN), "UTC", "2026-01-12 01:00:00", True),
    (daily("22:00", "03:00", SAT), "Europe/Berlin", "2026-03-29 00:59:59", True),
    (daily("22:00", "03:00", SAT), "Europe/Berlin", "2026-03-29 01:00:00", False),
    # a whole day, both spellings; local Monday is not Monday in UTC
    (daily("02:00", "02:00", MON), "UTC", "2026-01-13 01:59:59", True),
    (daily("02:00", "02:00", MON), "UTC", "2026-01-13 02:00:00", False),
    (daily("00:00", "24:00", MON), "UTC", "2026-01-12 23:59:59", True),
    (daily("00:00", "24:00", MON), "UTC", "2026-01-13 00:00:00", False),
    (daily("00:00", "24:00", MON), "Asia/Tokyo", "2026-01-11 15:00:00", True),
    (daily("00:00", "24:00", MON), "America/Los_Angeles", "2026-01-13 07:59:59", True),
    # a zone that nobody knows is UTC, whatever a device calls it
    (NIGHT, "Mars/Olympus", "2026-07-15 02:00:00", True),
    (NIGHT, "", "2026-07-15 02:00:00", True),
    (NIGHT, "../../etc/passwd", "2026-07-15 02:00:00", True),
    (NIGHT, "Europe", "2026-07-15 02:00:00", True),
    (NIGHT, "x" * 5000, "2026-07-15 02:00:00", True),
    (NIGHT, "Europe/Berlin\0", "2026-07-15 02:00:00", True),
]


@pytest.mark.parametrize(("window", "where", "time", "expected"), TABLE)
def test_the_wall_clock_of_the_device_decides(window: Window, where: str, time: str, expected: bool) -> None:
    assert is_open([window], where, at(time)) is expected


CHANGES = [
    (NIGHT, "Europe/Berlin", "2026-01-15 12:00:00", "2026-01-16 01:00:00"),
    (NIGHT, "Europe/Berlin", "2026-01-15 01:00:00", "2026-01-15 03:00:00"),
    (NIGHT, "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00"),
    (NIGHT, "Europe/Berlin", "2026-03-29 01:30:00", "2026-03-29 02:00:00"),
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-30 00:00:00"),
    (daily("02:00", "03:00", SUN), "Europe/Berlin", "2026-03-28 12:00:00", "2026-04-05 00:00:00"),
    (daily("02:00", "03:00"), "Europe/Berlin", "2026-10-25 00:00:00", "2026-10-25 02:00:00"),
    (daily("02:30", "02:45"), "Europe/Berlin", "2026-10-25 00:45:00", "2026-10-25 01:30:00"),
    (daily("22:00", "02:30", SAT), "Europe/Berlin", "2026-03-28 22:00:00", "2026-03-29 01:00:00"),
    (daily("22:00", "02:00", MON), "UTC", "2026-01-13 02:00:00", "2026-01-19 22:00:00"),
    (daily("02:15", "02:30"), "Australia/Lord_Howe", "2026-10-03 00:00:00", "2026-10-04 15:15:00"),
    (NIGHT, "Mars/Olympus", "2026-01-15 12:00:00", "2026-01-16 02:00:00"),
]


@pytest.mark.parametrize(("window", "where", "now", "then"), CHANGES)
def test_the_next_change_is_known(window: Window, where: str, now: str, then: str) -> None:
    assert next_change([window], where, at(now)) == at(then)


def test_without_a_window_it_is_always_open_and_stays_so() -> None:
    assert is_open([], "Europe/Berlin", at("2026-01-15 12:00:00"))
    assert next_change([], "Europe/Berlin", at("2026-01-15 12:00:00")) is None
    assert next_change([daily("00:00", "24:00")], "Europe/Berlin", at("2026-01-15 12:00:00")) is None


def test_windows_that_meet_are_one() -> None:
    both = [daily("22:00", "24:00", MON), daily("00:00", "02:00", TUE)]
    assert next_change(both, "UTC", at("2026-01-12 22:00:00")) == at("2026-01-13 02:00:00")


def test_a_zone_that_is_known_is_that_zone() -> None:
    assert zone("Asia/Kathmandu") == ZoneInfo("Asia/Kathmandu")
    assert zone("nowhere") is UTC


ZONES = st.sampled_from((
    "Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Australia/Sydney",
    "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca", "Asia/Tehran", "UTC",
))  # fmt: skip
WINDOWS = st.builds(
    Window, st.frozensets(st.integers(0, 6), min_size=1), st.integers(0, 95).map(lambda n: n * 15),
    st.integers(0, 96).map(lambda n: n * 15),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(WINDOWS, min_size=1, max_size=2), ZONES, st.integers(1_740_000_000, 1_800_000_000))
def test_nothing_changes_before_the_next_change(windows: list[Window], where: str, now: int) -> None:
    then = next_change(windows, where, now)
    before = is_open(windows, where, now)
    if then is not None:
        assert is_open(windows, where, then) != before
    end = min(then or now + 9 * 86_400, now + 9 * 86_400)
    quarter = now - now % 900 + 900
    assert all(is_open(windows, where, moment) == before for moment in range(quarter, end, 900))


@given(WINDOWS, ZONES, st.integers(1_740_000_000, 1_800_000_000))
def test_a_window_is_the_time_between_its_ends_on_the_wall(window: Window, where: str, now: int) -> None:
    wall = datetime.fromtimestamp(now, ZoneInfo(where)).replace(tzinfo=None)
    length = timedelta(minutes=(window.end - window.start) % 1440 or 1440)
    begins = [wall.replace(hour=0, minute=0, second=0) + timedelta(days=back, minutes=window.start) for back in (0, -1)]
    expected = any(begin.weekday() in window.days and begin <= wall < begin + length for begin in begins)
    assert is_open([window], where, now) is expected
