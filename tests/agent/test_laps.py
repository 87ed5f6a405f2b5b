"""How long the phases of an update took, as its last event tells it."""

from collections.abc import Iterator

import pytest
from beamfleet_agent.laps import Laps
from beamfleet_agent.update_state import Update

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
UPDATE = Update("downloading", "c" * 32, attempt=1, trace=TRACE)
IDS = {"trace_id": "a" * 32, "span_id": "b" * 16}


@pytest.fixture
def ticks() -> Iterator[float]:
    """A clock of which each look is a second later."""
    return (float(second) for second in range(100))


def after(laps: Laps, *phases: str, update: Update = UPDATE) -> dict[str, str | int]:
    for phase in phases:
        laps.enter(update._replace(phase=phase))
    return laps.of(update)


def test_each_phase_has_its_time_and_the_end_has_none(ticks: Iterator[float]) -> None:
    told = after(Laps(lambda: next(ticks)), "downloading", "verified", "staged", "swapping", "trial", "committed")
    assert told == IDS | dict.fromkeys(
        ("downloading_ms", "verified_ms", "staged_ms", "swapping_ms", "trial_ms"), 1000
    )  # fmt: skip


def test_a_phase_that_comes_again_goes_on(ticks: Iterator[float]) -> None:
    laps = Laps(lambda: next(ticks))
    assert after(laps, "downloading", "downloading", "staged", "downloading", "failed")["downloading_ms"] == 3000


def test_another_update_begins_anew(ticks: Iterator[float]) -> None:
    laps = Laps(lambda: next(ticks))
    after(laps, "downloading", "staged", "failed")
    assert after(laps, "downloading", "failed", update=UPDATE._replace(attempt=2)) == IDS | {"downloading_ms": 1000}


def test_an_update_that_nobody_traces_tells_nothing(ticks: Iterator[float]) -> None:
    assert after(Laps(lambda: next(ticks)), "downloading", "staged", update=UPDATE._replace(trace="")) == {}
