import io
from typing import Any

import pytest
from beamfleet_server.cli.pace import WINDOW_S, Pace
from beamfleet_server.cli.progress import (
    BARS,
    Bars,
    Lines,
    describe,
    percent,
    progress_on,
    rows,
    share,
    standing,
    summary,
    watched,
)
from beamfleet_server.cli.quantities import show_time

from tests.server.cli.terminal import Screen, lines

SOAKED = "2026-01-01T00:00:00Z"


def device(name: str = "gw-1", state: str = "pending", **facts: Any) -> dict[str, Any]:
    return {"id": name, "state": state, "canary": False, "reason": "", "done": 0, "total": 0, **facts}


def rollout(*devices: dict[str, Any], state: str = "running", phase: str = "canary") -> dict[str, Any]:
    counts: dict[str, int] = {}
    for one in devices:
        counts[one["state"]] = counts.get(one["state"], 0) + 1
    return {
        "id": 7, "product": "sensor-gateway", "version": "1.1.0", "state": state, "phase": phase, "counts": counts,
        "devices": list(devices), "reason": "",
    }  # fmt: skip


def test_a_device_only_moves_forward_on_its_way_to_committed() -> None:
    way = [
        device(),
        device(state="offered"),
        device(state="downloading", done=0, total=100),
        device(state="downloading", done=50, total=100),
        device(state="downloading", done=100, total=100),
        device(state="verifying"),
        device(state="staged"),
        device(state="swapping"),
        device(state="trial"),
        device(state="committed"),
    ]
    steps = [percent(one) for one in way]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 100)
    assert len(set(steps)) >= len(steps) - 1


def test_a_device_that_claims_more_bytes_than_there_are_does_not_pass_the_next_step() -> None:
    assert percent(device(state="downloading", done=10**12, total=1)) <= percent(device(state="verifying"))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"state": "downloading", "done": 1_200_000, "total": 3_400_000}, "downloading 1.2 MB of 3.4 MB"),
        ({"state": "downloading"}, "downloading"),
        ({"state": "reverted", "reason": "crash"}, "reverted: crash"),
        ({"state": "trial"}, "trial"),
    ],
)
def test_a_state_is_told_in_words(facts: dict[str, Any], words: str) -> None:
    assert describe(device(**facts)) == words


def test_a_rollout_is_summed_up_in_one_line() -> None:
    running = rollout(device("a", "committed"), device("b"), device("c"))
    assert summary(running) == "rollout 7: sensor-gateway 1.1.0, canary, 1 committed, 2 pending"
    assert "halted" in summary(rollout(device("a", "reverted"), state="halted"))


def test_lines_are_written_for_changes_only() -> None:
    stream = io.StringIO()
    shown = Lines(stream)
    shown.show(rollout(device("a", "offered", canary=True), device("b")))
    shown.show(rollout(device("a", "offered", canary=True), device("b")))
    shown.show(rollout(device("a", "downloading", canary=True, done=10, total=100), device("b")))
    shown.show(rollout(device("a", "downloading", canary=True, done=20, total=100), device("b")))
    shown.show(rollout(device("a", "downloading", canary=True, done=30, total=100), device("b")))
    assert lines(stream) == [
        "rollout 7: sensor-gateway 1.1.0, canary, 1 offered, 1 pending",
        "a (canary): offered",
        "a (canary): downloading 10 B of 100 B",
        "a (canary): downloading 30 B of 100 B",
    ]


def test_a_new_phase_is_a_line_of_its_own() -> None:
    stream = io.StringIO()
    shown = Lines(stream)
    shown.show(rollout(device("a", "trial"), device("b")))
    shown.show(rollout(device("a", "committed"), device("b", "offered"), phase="rest"))
    assert "rollout 7: sensor-gateway 1.1.0, rest, 1 committed, 1 offered" in lines(stream)


@pytest.mark.parametrize("stream", [io.StringIO, Screen])
def test_what_a_device_gives_as_its_reason_cannot_drive_a_terminal(stream: type[io.StringIO]) -> None:
    out = stream()
    shown = progress_on(out)
    shown.show(rollout(device("a", "reverted", reason="\x1b]0;owned\x07[red]\u202e")))
    shown.close()
    assert "\x1b]0;" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "[red]" in out.getvalue()


def test_bars_name_every_device_and_its_state() -> None:
    out = Screen()
    shown = Bars(out)
    shown.show(rollout(device("gw-1", "trial"), device("gw-2", "reverted", reason="crash")))
    shown.close()
    for word in ("gw-1", "trial", "gw-2", "reverted: crash", "rollout 7"):
        assert word in out.getvalue()


def test_of_a_large_fleet_those_on_their_way_and_those_that_failed_are_watched() -> None:
    fleet = [device(f"done-{number}", "committed") for number in range(500)]
    fleet += [device(f"waits-{number}") for number in range(500)]
    fleet += [device("late", "downloading"), device("broken", "reverted")]
    names = {one["id"] for one in watched(fleet, 24)}
    assert len(names) == 24
    assert {"late", "broken"} <= names


class Clock:
    """Stands until somebody moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def large(committed: int, total: int = 100_000, **facts: Any) -> dict[str, Any]:
    """A large rollout as the API gives it: all of the counts, some of the devices."""
    shown = [device(f"gw-{number:05}", "downloading", done=1, total=9) for number in range(100)]
    counts = {"pending": total - committed - 100, "downloading": 100, "committed": committed}
    phases = [
        {"name": "canary", "size": 10, "state": "done", "counts": {"committed": 10}},
        {"name": "rest", "size": total - 10, "state": "current", "counts": {"downloading": 100}},
    ]
    return {**rollout(*shown, phase="rest"), "counts": counts, "phases": phases, **facts}


def test_a_large_rollout_is_a_line_each_ten_seconds_with_its_pace_and_what_is_left() -> None:
    stream, clock = io.StringIO(), Clock()
    shown = Lines(stream, clock)
    for second in range(61):
        clock.now = float(second)
        shown.show(large(committed=100 * second))
    assert len(lines(stream)) == 7
    assert lines(stream)[-1].endswith("6000 committed, 6000 a minute, about 15m 40s to go")


def test_each_reason_for_what_went_wrong_is_a_line_once() -> None:
    stream, clock = io.StringIO(), Clock()
    shown = Lines(stream, clock)
    crash = {"state": "reverted", "reason": "crash", "count": 3, "example": "gw-7"}
    held = {"state": "pending", "reason": "held", "count": 9, "example": "gw-9"}
    for count in range(3, 6):
        shown.show(large(committed=10, reasons=[{**crash, "count": count}, held]))
    assert lines(stream)[1:] == ["3 reverted: crash, for example gw-7"]


def test_bars_of_a_large_rollout_are_few_and_name_phases_reasons_and_a_sum() -> None:
    drawn = rows(large(committed=40_000))
    assert len(drawn) <= 10
    assert [name for name, _, _ in drawn][:2] == ["  canary", "> rest"]
    assert drawn[-1][0] == "and 99994 more"
    assert 40 <= drawn[-1][1] <= 41
    out = Screen()
    bars = Bars(out)
    bars.show(large(committed=5, reasons=[{"state": "failed", "reason": "disk", "count": 3, "example": "gw-7"}]))
    bars.close()
    for word in ("canary", "rest", "3 failed: disk, for example gw-7"):
        assert word in out.getvalue()


def test_of_a_large_rollout_no_device_has_a_bar_that_is_where_it_should_be() -> None:
    dull = [device(f"gw-{number}", "committed") for number in range(50)]
    names = [name for name, _, _ in rows({**large(committed=5), "devices": [*dull, device("bad", "reverted")]})]
    assert names[2:] == ["bad", "and 99999 more"]


def test_every_device_of_a_small_fleet_has_a_bar() -> None:
    assert len(rows(rollout(*[device(f"gw-{number}") for number in range(BARS)]))) == BARS


def test_a_phase_is_as_far_as_its_devices_are_together() -> None:
    assert share({"committed": 5, "trial": 5}, 10) == 97.5
    assert share({}, 10) == 0
    assert share({"committed": 20}, 10) == 100


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"state": "paused", "reason": "lunch"}, "paused (lunch); beamfleet rollout resume 7"),
        ({"gate": "waiting"}, "canary is proven; beamfleet rollout approve 7"),
        (
            {"soak_until": SOAKED},
            f"canary is committed and soaks until {show_time(SOAKED)}",
        ),
        ({}, ""),
        ({"state": "halted", "gate": "waiting"}, ""),
    ],
)
def test_what_a_rollout_waits_for_is_told_with_what_ends_it(facts: dict[str, Any], words: str) -> None:
    told = standing({**rollout(device()), **facts})
    assert told.startswith(words)
    assert bool(told) == bool(words)


def test_the_pace_is_that_of_the_last_minutes() -> None:
    pace = Pace()
    assert (pace.per_minute, pace.left_s(5)) == (0, None)
    pace.add(0, 0)
    pace.add(5, 50)
    assert pace.per_minute == 0, "too early to say"
    pace.add(60, 60)
    assert pace.per_minute == 60
    assert pace.left_s(30) == 30
    for second in range(60, 60 + int(WINDOW_S) + 60, 10):
        pace.add(second, 60)
    assert pace.per_minute == 0, "it stands"
    pace.add(1000, 10)
    assert pace.per_minute == 0, "somebody tried devices again"
