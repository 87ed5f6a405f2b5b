from datetime import UTC, datetime
from time import tzset
from zoneinfo import ZoneInfo

import pytest
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.quantities import (
    parse_duration,
    show_bytes,
    show_duration,
    show_share,
    show_since,
    show_time,
    show_times,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800), (" 5m ", 300)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "1.5h", "h", "5 minutes", "1h30m", "9" * 12])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse_duration(text)
    assert refused.value.code == "usage.duration"
    assert "15m" in refused.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (45, "45s"),
        (60, "1m"),
        (200, "3m 20s"),
        (3600, "1h"),
        (7500, "2h 5m"),
        (86_401, "1d"),
        (788_400, "9d 3h"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: int, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("2026-11-23T11:59:15Z", "45s ago"),
        ("2026-11-23T13:00:00+02:00", "1h ago"),
        ("2026-11-23T12:00:09Z", "0s ago"),
        (None, "never"),
        ("yesterday", "never"),
    ],
)
def test_a_time_is_shown_as_how_long_ago_it_was(time: str | None, text: str) -> None:
    assert show_since(time, NOW) == text


@pytest.mark.parametrize(
    ("time", "zone", "text"),
    [
        ("2026-01-15T08:00:00Z", "Europe/Berlin", "2026-01-15 09:00:00 CET"),
        ("2026-07-15T08:00:00Z", "Europe/Berlin", "2026-07-15 10:00:00 CEST"),
        ("2026-01-15T08:00:00Z", "America/New_York", "2026-01-15 03:00:00 EST"),
        ("2026-01-15T08:00:00+02:00", "UTC", "2026-01-15 06:00:00 UTC"),
        (None, "UTC", ""),
        ("yesterday", "UTC", "yesterday"),
    ],
)
def test_a_time_is_shown_on_the_clock_of_the_viewer(time: str | None, zone: str, text: str) -> None:
    assert show_time(time, ZoneInfo(zone)) == text


def test_times_within_a_text_are_shown_so_too_and_nothing_else() -> None:
    told = "since 2026-01-15T08:00:00Z: nothing was heard; heard last 2026-01-15T07:58:00Z, serial 2026-01-15"
    assert show_times(told, ZoneInfo("Europe/Berlin")) == (
        "since 2026-01-15 09:00:00 CET: nothing was heard; heard last 2026-01-15 08:58:00 CET, serial 2026-01-15"
    )


def test_the_viewers_clock_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "EST5")
            tzset()
            assert show_time("2026-01-15T08:00:00Z") == "2026-01-15 03:00:00 EST"
    finally:
        tzset()


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 10, "0 %"), (1, 3, "33 %"), (3, 1000, "0.3 %"), (10, 10, "100 %"), (1, 0, "0 %")]
)
def test_a_share_is_a_percentage_also_of_nothing(part: int, whole: int, text: str) -> None:
    assert show_share(part, whole) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_340_000, "12.3 MB"),
        (5 * 10**9, "5.0 GB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_bytes_are_shown_in_decimal_units(count: int, text: str) -> None:
    assert show_bytes(count) == text
