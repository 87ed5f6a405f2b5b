"""What the answers of probes come to: Kubernetes' semantics, and the back-off of restarts."""

from itertools import pairwise

import pytest
from beamfleet_agent.probes import (
    BACKOFF_MOST_S,
    WELL_S,
    Patience,
    Probe,
    Round,
    Standing,
    backoff_s,
    failure,
    judge,
    observe,
)
from hypothesis import given
from hypothesis import strategies as st

PROBE = Probe("readiness", "http", "80/", success_threshold=2, failure_threshold=3)
PROBES = st.builds(
    Probe,
    kind=st.sampled_from(["startup", "readiness", "liveness"]),
    handler=st.just("tcp"),
    initial_delay_s=st.integers(0, 30),
    period_s=st.integers(1, 20),
    success_threshold=st.integers(1, 3),
    failure_threshold=st.integers(1, 4),
)
ROUNDS = st.lists(PROBES, min_size=1, max_size=3, unique_by=lambda probe: probe.kind)
GOOD, BAD = "", "503"


def after(probe: Probe, *answers: str) -> Standing:
    standing = Standing()
    for answer in answers:
        standing = observe(probe, standing, answer)
    return standing


def test_so_many_answers_in_a_row_are_a_success_or_a_failure_and_in_between_stands_what_was() -> None:
    assert after(PROBE, GOOD).outcome == "waiting"
    assert after(PROBE, GOOD, GOOD).outcome == "ok"
    assert after(PROBE, GOOD, BAD, GOOD).outcome == "waiting"
    assert after(PROBE, GOOD, GOOD, BAD, BAD).outcome == "ok"
    assert after(PROBE, GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD).outcome == "ok"
    assert after(PROBE, GOOD, GOOD, BAD, BAD, BAD) == Standing("failed", "503", -3)
    assert after(PROBE, BAD, BAD, BAD, GOOD).outcome == "failed"
    assert after(PROBE, BAD, BAD, BAD, GOOD, GOOD) == Standing("ok", "", 2)


def test_who_waits_says_for_what_and_who_is_well_says_nothing() -> None:
    assert after(PROBE, BAD).detail == "503"
    assert after(PROBE, GOOD, GOOD, BAD).detail == ""


@given(PROBES, st.lists(st.booleans(), max_size=30))
def test_the_outcome_is_that_of_the_newest_row_that_was_long_enough(probe: Probe, answers: list[bool]) -> None:
    expected, row = "waiting", 0
    for good in answers:
        row = (max(row, 0) + 1) if good else (min(row, 0) - 1)
        if row >= probe.success_threshold:
            expected = "ok"
        if -row >= probe.failure_threshold:
            expected = "failed"
    standing = after(probe, *(GOOD if good else BAD for good in answers))
    assert standing.outcome == expected
    assert -probe.failure_threshold <= standing.row <= probe.success_threshold


def kinds(probes: list[Probe]) -> list[str]:
    return [probe.kind for probe in probes]


def test_the_other_two_wait_for_the_startup_probe_which_is_asked_no_more_after_it() -> None:
    running = Round([Probe("startup", "tcp"), Probe("readiness", "tcp"), Probe("liveness", "tcp")], 0)
    assert kinds(running.take(0)) == ["startup"]
    running.observe("liveness", BAD)
    running.observe("startup", BAD)
    assert kinds(running.take(10)) == ["startup"]
    running.observe("startup", GOOD)
    assert kinds(running.take(10)) == ["readiness", "liveness"]
    assert running.outcomes == {"startup": ("ok", ""), "readiness": ("waiting", ""), "liveness": ("waiting", "")}
    assert kinds(running.take(20)) == ["readiness", "liveness"]
    running.observe("startup", BAD)
    assert running.outcomes["startup"] == ("ok", "")


def test_nobody_is_asked_before_his_delay_and_then_once_in_each_period() -> None:
    running = Round([Probe("liveness", "tcp", initial_delay_s=5, period_s=10)], 100)
    assert running.next() == 105
    asked = [now for now in range(100, 141) if running.take(now)]
    assert asked == [105, 115, 125, 135]


def test_who_was_held_up_does_not_ask_for_what_he_missed() -> None:
    running = Round([Probe("liveness", "tcp", period_s=10)], 0)
    assert running.take(0)
    assert running.take(95)
    assert not running.take(96)
    assert running.next() == 105


@given(ROUNDS, st.integers(0, 5))
def test_there_is_no_timer_more_often_than_the_shortest_period_and_each_is_asked_at_its_rate(
    probes: list[Probe], succeeds_after: int
) -> None:
    running, now = Round(probes, 0), 0.0
    ticks: list[float] = []
    asked: dict[str, list[float]] = {}
    while (now := running.next()) < 600:
        ticks.append(now)
        for probe in running.take(now, running.shortest_s / 2):
            asked.setdefault(probe.kind, []).append(now)
            good = probe.kind != "startup" or len(asked[probe.kind]) > succeeds_after
            running.observe(probe.kind, GOOD if good else BAD)
    shortest = min(probe.period_s for probe in probes)
    assert all(later - sooner >= shortest for sooner, later in pairwise(ticks))
    for probe in probes:
        times = asked.get(probe.kind, [])
        assert not times or times[0] >= probe.initial_delay_s
        if probe.kind != "startup" and times:
            assert len(times) >= (600 - times[0]) // probe.period_s - 1
            assert len(times) <= (600 - times[0]) // probe.period_s + 2


def test_a_failed_startup_or_liveness_probe_wants_a_restart_and_readiness_none() -> None:
    ok, failed = ("ok", ""), ("failed", "503")
    assert failure({"readiness": failed, "liveness": ok}) == ""
    assert failure({"readiness": ok, "liveness": failed}) == "liveness: 503"
    assert failure({"startup": failed, "liveness": ("waiting", "")}) == "startup: 503"
    assert failure({}) == ""


def restarts(patience: Patience, start: int, end: int) -> tuple[Patience, list[int]]:
    """When a release that fails all the time is restarted, if it is so at once after each restart."""
    times = []
    for now in range(start, end):
        patience, restart = judge(patience, now, failing=True, well=False)
        if restart:
            times.append(now)
    return patience, times


def test_the_first_restart_comes_at_once_and_the_next_ones_later_and_later() -> None:
    _, times = restarts(Patience(), 0, 1300)
    assert times == [0, 10, 30, 70, 150, 310, 610, 910, 1210]
    assert backoff_s(10**6) == BACKOFF_MOST_S


def test_a_failure_that_passes_before_its_restart_is_due_wants_none() -> None:
    patience, _ = restarts(Patience(), 0, 1)
    patience, restart = judge(patience, 30, failing=False, well=True)
    assert (patience.due, restart) == (None, False)
    patience, restart = judge(patience, 40, failing=True, well=False)
    assert (patience.due, restart) == (50, False), "the back-off is still remembered"


@pytest.mark.parametrize(("well_s", "at_once"), [(WELL_S - 1, False), (WELL_S, True)])
def test_ten_minutes_without_a_failure_begin_anew(well_s: float, at_once: bool) -> None:
    patience, _ = restarts(Patience(), 0, 40)
    patience, _ = judge(patience, 100, failing=False, well=False)
    patience, _ = judge(patience, 200, failing=False, well=True)
    patience, _ = judge(patience, 300, failing=False, well=True)
    _, restart = judge(patience, 200 + well_s, failing=True, well=False)
    assert restart is at_once
