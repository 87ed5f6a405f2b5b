"""Reading rollouts, on both databases: who is interesting, pages, reasons, and what a rollout changes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet_store import TARGET, FleetStore, manifest_of
from tests.support.mqtt_device import update
from tests.support.postgres import Place

ALL = [{"name": "all", "devices": "all", "failures": 5}]


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    """`old-1` to `old-4` run 1.0.0, `new` runs 1.1.0 already, `bare` nothing, and `pinned` is."""
    fleet = FleetStore(tmp_path, place)
    fleet.publish("1.0.0")
    fleet.publish("1.1.0")
    old = [f"old-{number}" for number in range(1, 5)]
    fleet.enrol("new", "bare", "pinned", *old)
    fleet.report("bare")
    fleet.report("pinned")
    fleet.commits("new", "1.1.0")
    for name in old:
        fleet.commits(name, "1.0.0")
    fleet.store.devices.pin("pinned", "bench", "anna", fleet.now)
    yield fleet
    fleet.close()


def test_what_went_wrong_comes_first_then_what_is_under_way_and_committed_last(fleet: FleetStore) -> None:
    rollout = fleet.roll_out("1.1.0", phases=ALL)
    fleet.report("old-4", update=update("failed", manifest_of("1.1.0"), reason="slot.full"))
    fleet.commits("bare", "1.1.0")

    def interesting(limit: int) -> list[tuple[str, str]]:
        return [(each.device, each.state) for each in fleet.store.rollouts.interesting(rollout, limit)]

    everyone = interesting(10)
    assert everyone[0] == ("old-4", "failed")
    assert everyone[1:4] == [(f"old-{number}", "offered") for number in (1, 2, 3)]
    assert everyone[4:] == [("pinned", "skipped"), ("bare", "committed"), ("new", "committed")]
    assert interesting(1) == everyone[:1]
    assert {each for each, _ in interesting(3)} - {"old-1", "old-2", "old-3"} == {"old-4"}
    assert interesting(0) == []


def test_members_come_by_name_of_the_states_and_the_phase_that_are_asked_for(fleet: FleetStore) -> None:
    rollout = fleet.roll_out("1.1.0", canary=1)

    def members(**asked: object) -> list[str]:
        return [each.device for each in fleet.store.rollouts.members(rollout, **asked)]  # type: ignore[arg-type]

    assert members() == ["bare", "new", "old-1", "old-2", "old-3", "old-4", "pinned"]
    assert members(after="new", limit=2) == ["old-1", "old-2"]
    assert members(states=("skipped", "committed")) == ["new", "pinned"]
    assert len(members(phase=0, states=("offered",))) == 1
    assert members(phase=7) == members(after="z") == []


def test_reasons_are_counted_with_an_example_the_bad_ones_first(fleet: FleetStore) -> None:
    rollout = fleet.roll_out("1.1.0", phases=ALL)
    for name in ("old-2", "old-3"):
        fleet.report(name, update=update("failed", manifest_of("1.1.0"), reason="slot.full"))
    found = fleet.store.rollouts.reasons(rollout, 10)
    assert found[0] == ("failed", "slot.full", 2, "old-2")
    assert set(found[1:]) == {("committed", "already", 1, "new"), ("skipped", "pinned", 1, "pinned")}
    assert fleet.store.rollouts.reasons(rollout, 1) == found[:1]


def test_a_rollout_changes_what_ran_before_also_when_it_is_over(fleet: FleetStore) -> None:
    rollout = fleet.roll_out("1.1.0", phases=ALL)

    def changes() -> list[tuple[str, str, str, int, int]]:
        found = fleet.store.rollouts.changes(rollout)
        assert all((each.target, each.manifest) == (TARGET, manifest_of("1.1.0")) for each in found)
        return [(each.before, each.before_manifest, each.version, each.pack_size, each.devices) for each in found]

    expected = [("1.0.0", manifest_of("1.0.0"), "1.1.0", 5000, 4), ("", "", "1.1.0", 5000, 1)]
    assert changes() == expected
    for name in ("bare", "old-1", "old-2"):
        fleet.commits(name, "1.1.0")
    assert changes() == expected
    assert fleet.store.rollouts.changes(rollout)[0].examples == ("old-1", "old-4")
