import io
from typing import Any

import pytest
from beamfleet_server.cli.progress import Bars, Lines, describe, percent, progress_on, summary, watched

from tests.server.cli.terminal import Screen, lines


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
        device(state="verified"),
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
    assert percent(device(state="downloading", done=10**12, total=1)) <= percent(device(state="verified"))


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
