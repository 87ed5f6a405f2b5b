"""What people and the clock do to rollouts in the store: pauses, gates, retries, undos, pins, windows, deadlines, late
devices, batches; and what a plan would come to before it begins."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from beamfleet_server.fleet.decision import BATCH
from beamfleet_server.fleet.draw import lot
from beamfleet_server.store.tables import applications, devices
from sqlalchemy import Connection, insert

from tests.support.fleet_store import PRODUCT, TARGET, FleetStore, manifest_of, path_of, plan_of
from tests.support.mqtt_device import committed, update
from tests.support.postgres import Place
from tests.support.refusal import refusal

FIRST, NEXT = "1.0.0", "1.1.0"


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    opened.publish(FIRST)
    opened.publish(NEXT)
    opened.enrol("cam-1", "cam-2", "cam-3")
    for name in ("cam-1", "cam-2", "cam-3"):
        opened.commits(name, FIRST)
    yield opened
    opened.close()


def causes(fleet: FleetStore) -> list[str]:
    return [event.cause for event in fleet.store.events.after(0, 100) if event.kind == "rollout"]


def works_on(fleet: FleetStore, name: str, phase: str, reason: str = "") -> None:
    """What a device says that works on the next release, and still runs the first."""
    runs = {"product": PRODUCT, "version": FIRST, "manifest": manifest_of(FIRST), "phase": "committed"}
    fleet.report(name, **runs, update=update(phase, manifest_of(NEXT), reason=reason))


def looks(fleet: FleetStore, later_s: int = 0) -> int | None:
    fleet.now += later_s
    return fleet.store.advancing.look(fleet.now).due


def test_a_paused_rollout_holds_and_goes_on_where_it_was(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT)
    works_on(fleet, "cam-1", "downloading")
    for _ in range(2):
        fleet.store.advancing.pause(rollout, "anna", "a call", fleet.now)
    assert fleet.store.rollouts.find(rollout).state == "paused"
    assert (fleet.states(rollout)["cam-1"], fleet.told("cam-1")) == ("pending", (None, 1))
    for _ in range(2):
        fleet.store.advancing.resume(rollout, "anna", fleet.now)
    assert (fleet.states(rollout)["cam-1"], fleet.told("cam-1")) == ("offered", (path_of(NEXT), 1))
    fleet.commits("cam-1", NEXT)
    assert set(fleet.states(rollout).values()) == {"committed", "offered"}
    assert causes(fleet) == ["started", "paused", "resumed", "entered"]


def begins(fleet: FleetStore) -> int:
    """A server begins to listen, as `serve` does it; for how long nobody was heard."""
    silence_s = fleet.store.advancing.silence(fleet.now)
    fleet.store.advancing.excuse(silence_s, 60, fleet.now)
    return silence_s


def test_deadlines_that_passed_while_the_server_was_away_are_not_held_against_the_devices(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT, deadline="1h", max_parallel=3)
    works_on(fleet, "cam-1", "trial")
    fleet.now += 7200
    assert begins(fleet) == 7200
    looks(fleet)
    assert fleet.states(rollout)["cam-1"] == "trial"
    fleet.commits("cam-1", NEXT)
    assert fleet.states(rollout) == {"cam-1": "committed", "cam-2": "offered", "cam-3": "offered"}
    works_on(fleet, "cam-2", "downloading")
    fleet.now += 3590
    works_on(fleet, "cam-3", "downloading")
    fleet.now += 5
    begins(fleet)
    looks(fleet, 30)
    assert fleet.states(rollout)["cam-2"] == "downloading", "ten seconds were left, and a minute is given"
    looks(fleet, 60)
    assert fleet.states(rollout)["cam-2"] == "failed"


def test_a_soak_in_which_nobody_could_be_heard_proves_nothing(fleet: FleetStore) -> None:
    phases = [{"name": "canary", "devices": 1, "soak": "10m"}, {"name": "rest", "devices": "all"}]
    rollout = fleet.roll_out(NEXT, phases=phases)
    fleet.commits("cam-1", NEXT)
    looks(fleet, 60)
    fleet.now += 3600
    assert begins(fleet) == 3660, "since the last word of a device"
    looks(fleet, 500)
    assert fleet.states(rollout)["cam-2"] == "pending"
    looks(fleet, 160)
    assert fleet.states(rollout)["cam-2"] == "offered"


def test_a_server_that_starts_again_and_again_gives_the_time_back_once(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT, deadline="1h")
    fleet.now += 7200
    assert [begins(fleet) for _ in range(3)] == [7200, 0, 0]
    fleet.now += 10
    assert begins(fleet) == 10
    looks(fleet, 3599)
    assert fleet.states(rollout)["cam-1"] == "offered"
    looks(fleet, 1)
    assert fleet.states(rollout)["cam-1"] == "failed"


def test_a_gate_waits_for_a_person_after_the_soak(fleet: FleetStore) -> None:
    phases = [{"name": "canary", "devices": 1, "soak": "10m", "gate": True}, {"name": "rest", "devices": "all"}]
    rollout = fleet.roll_out(NEXT, phases=phases)
    assert refusal(fleet.store.advancing.approve, rollout, "anna", fleet.now) == "rollout.no_gate"
    fleet.commits("cam-1", NEXT)
    assert looks(fleet) == fleet.now + 600, "the soak is what comes next"
    looks(fleet, 599)
    assert fleet.store.rollouts.find(rollout).gate == ""
    looks(fleet, 1)
    assert fleet.store.rollouts.find(rollout).gate == "waiting"
    looks(fleet, 3600)
    assert fleet.states(rollout)["cam-2"] == "pending"
    fleet.store.advancing.approve(rollout, "anna", fleet.now)
    assert fleet.states(rollout) == {"cam-1": "committed", "cam-2": "offered", "cam-3": "offered"}
    assert causes(fleet) == ["started", "gate", "gate", "entered"]


def test_a_release_that_falls_back_while_it_soaks_halts_the_rollout(fleet: FleetStore) -> None:
    phases = [{"name": "canary", "devices": 1, "soak": "10m"}, {"name": "rest", "devices": "all"}]
    rollout = fleet.roll_out(NEXT, phases=phases)
    fleet.commits("cam-1", NEXT)
    fallen = {"product": PRODUCT, "version": FIRST, "manifest": manifest_of(FIRST), "phase": "fallback"}
    fleet.report("cam-1", **fallen, failed=f"{manifest_of(NEXT)[:32]}:1:crash")
    assert fleet.store.rollouts.find(rollout).state == "halted"
    assert fleet.states(rollout) == {"cam-1": "reverted", "cam-2": "pending", "cam-3": "pending"}


def test_who_halted_it_is_tried_again_when_the_quarantine_is_lifted(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT)
    works_on(fleet, "cam-1", "reverted", "crash")
    retry = fleet.store.advancing.retry
    assert [held.manifest for held in fleet.store.quarantine.page(10)] == [manifest_of(NEXT)]
    assert refusal(retry, rollout, None, "anna", fleet.now) == "release.quarantined"
    assert refusal(fleet.store.advancing.resume, rollout, "anna", fleet.now) == "release.quarantined"
    fleet.store.quarantine.lift("anna", fleet.now, manifest=manifest_of(NEXT))
    assert fleet.store.quarantine.page(10) == []
    assert fleet.store.quarantine.page(10, lifted=True)[0].lifted_by == "anna"
    assert refusal(fleet.store.quarantine.lift, "anna", fleet.now, manifest="ff") == "quarantine.unknown"
    assert retry(rollout, ["cam-2"], "anna", fleet.now) == 0, "it has not failed"
    assert fleet.store.rollouts.find(rollout).state == "running"
    assert retry(rollout, ["cam-1"], "anna", fleet.now) == 1
    assert fleet.told("cam-1") == (path_of(NEXT), 2)
    assert causes(fleet)[:3] == ["started", "halted", "quarantined"]


def test_a_revert_for_want_of_power_is_tried_again_later_and_is_no_evidence(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT, backoff="10m", retries=1)
    works_on(fleet, "cam-1", "reverted", "power")
    member = fleet.member(rollout, "cam-1")
    assert (member.state, member.tries, member.next_try) == ("pending", 1, fleet.now + 600)
    assert fleet.told("cam-1") == (None, 2)
    assert looks(fleet) == fleet.now + 600
    looks(fleet, 600)
    assert fleet.told("cam-1") == (path_of(NEXT), 2)


def test_a_device_that_never_answers_gives_its_place_to_another_and_comes_back(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT, deadline="1h")
    looks(fleet, 3600)
    lost = fleet.member(rollout, "cam-1")
    assert (lost.state, lost.reason, lost.evidence) == ("failed", "deadline", False)
    assert (fleet.told("cam-1"), fleet.states(rollout)["cam-2"]) == ((None, 1), "offered")
    fleet.now += 10
    fleet.commits("cam-1", FIRST)
    assert fleet.states(rollout)["cam-1"] == "pending"
    fleet.commits("cam-2", NEXT)
    assert fleet.states(rollout)["cam-1"] == "offered"


def test_a_device_that_answered_and_is_late_counts(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT, deadline="1h")
    works_on(fleet, "cam-1", "staged")
    looks(fleet, 3600)
    assert fleet.store.rollouts.find(rollout).state == "halted"
    assert fleet.member(rollout, "cam-1").detail == "staged"


def test_an_undo_brings_back_what_ran_with_the_same_care(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT)
    undo = fleet.store.advancing.undo
    assert refusal(undo, rollout, "anna", None, fleet.now) == "rollout.nothing_to_undo"
    fleet.commits("cam-1", NEXT)
    fleet.commits("cam-2", NEXT)
    number, new = undo(rollout, "anna", "a key", fleet.now)
    assert (new, undo(rollout, "anna", "a key", fleet.now)) == (True, (number, False))
    facts = fleet.store.rollouts.find(number)
    assert (facts.kind, facts.of_id, facts.version, facts.by) == ("undo", rollout, FIRST, "anna")
    assert fleet.store.rollouts.find(rollout).state == "aborted"
    assert fleet.states(number) == {"cam-1": "offered", "cam-2": "pending"}, "a canary first, and nobody else"
    assert fleet.told("cam-3") == (None, 1)
    fleet.commits("cam-1", FIRST)
    fleet.commits("cam-2", FIRST)
    assert fleet.store.rollouts.find(number).state == "completed"
    assert "undone" in causes(fleet)


def test_a_pinned_device_is_left_alone(fleet: FleetStore) -> None:
    fleet.store.devices.pin("cam-1", "a demo runs on it", "anna", fleet.now)
    rollout = fleet.roll_out(NEXT, canary=0)
    assert fleet.states(rollout) == {"cam-1": "skipped", "cam-2": "offered", "cam-3": "offered"}
    fleet.store.devices.pin("cam-2", "", "anna", fleet.now)
    assert (fleet.states(rollout)["cam-2"], fleet.told("cam-2")) == ("skipped", (None, 1))
    assert fleet.store.devices.find("cam-1").pinned == "a demo runs on it"
    fleet.store.devices.unpin("cam-1")
    assert fleet.store.devices.find("cam-1").pinned == ""
    assert refusal(fleet.store.devices.unpin, "nobody") == "device.unknown"


def test_late_devices_join_and_reopen_what_was_completed(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT, canary=0)
    for name in ("cam-1", "cam-2", "cam-3"):
        fleet.commits(name, NEXT)
    assert fleet.store.rollouts.find(rollout).state == "completed"
    fleet.enrol("cam-4")
    fleet.commits("cam-4", FIRST)
    looks(fleet)
    assert fleet.store.rollouts.find(rollout).state == "running"
    assert fleet.told("cam-4") == (path_of(NEXT), 1)
    fleet.commits("cam-4", NEXT)
    assert fleet.store.rollouts.find(rollout).state == "completed"
    assert causes(fleet) == ["started", "completed", "reopened", "completed"]


def test_outside_the_window_nothing_is_offered_and_what_has_not_swapped_is_held(fleet: FleetStore) -> None:
    window = [{"days": ["fri"], "from": "08:30", "to": "09:00"}]
    rollout = fleet.roll_out(NEXT, canary=0, window=window)
    assert fleet.now == 1_800_000_000, "Friday, 08:00 in UTC"
    assert set(fleet.states(rollout).values()) == {"pending"}
    assert looks(fleet) == fleet.now + 1800
    looks(fleet, 1800)
    assert set(fleet.states(rollout).values()) == {"offered"}
    works_on(fleet, "cam-1", "trial")
    looks(fleet, 1800)
    assert fleet.states(rollout) == {"cam-1": "trial", "cam-2": "pending", "cam-3": "pending"}
    held = fleet.member(rollout, "cam-2")
    assert (held.reason, held.detail, fleet.told("cam-2")) == ("held", "window", (None, 1))


@pytest.mark.parametrize("shown", [0, 1_800_003_000, 2_208_988_800], ids=["1970", "an hour ahead", "2040"])
def test_a_device_with_a_wrong_clock_obeys_the_time_of_the_server(fleet: FleetStore, shown: int) -> None:
    def says() -> None:
        runs = committed(manifest_of(FIRST), FIRST)
        fleet.report("cam-1", **runs, inventory={"timezone": "Europe/Berlin"}, time=shown)

    says()
    rollout = fleet.roll_out(NEXT, canary=0, window=[{"days": ["fri"], "from": "10:00", "to": "11:00"}])
    says()
    assert fleet.states(rollout)["cam-1"] == "pending", "it is nine o'clock in Berlin, whatever the device says"
    assert looks(fleet) == fleet.now + 3600
    looks(fleet, 3600)
    assert fleet.states(rollout) == {"cam-1": "offered", "cam-2": "pending", "cam-3": "pending"}


def test_a_rollout_of_a_lower_priority_leaves_the_devices_to_the_other(fleet: FleetStore) -> None:
    higher = fleet.roll_out(NEXT, priority=5)
    assert refusal(fleet.roll_out, FIRST) == "rollout.no_devices"
    fleet.store.advancing.abort(higher, "anna", "", fleet.now)
    assert fleet.states(higher) == dict.fromkeys(("cam-1", "cam-2", "cam-3"), "skipped")
    assert fleet.store.rollouts.find(fleet.roll_out(FIRST)).state == "completed", "they run it already"


def test_an_expired_rollout_ends(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT, expires="1d", deadline="2d")
    looks(fleet, 86_400)
    facts = fleet.store.rollouts.find(rollout)
    assert (facts.state, facts.counts["skipped"]) == ("expired", 3)
    assert refusal(fleet.store.advancing.resume, rollout, "anna", fleet.now) == "rollout.finished"


def test_a_device_passes_the_stepping_stone_first(fleet: FleetStore) -> None:
    fleet.publish("2.0.0")
    rollout = fleet.roll_out("2.0.0", canary=0, steps=[{"below": NEXT, "through": NEXT}])
    assert fleet.told("cam-1") == (path_of(NEXT), 1)
    fleet.commits("cam-1", NEXT)
    assert (fleet.states(rollout)["cam-1"], fleet.told("cam-1")) == ("offered", (path_of("2.0.0"), 1))
    fleet.commits("cam-1", "2.0.0")
    assert fleet.states(rollout)["cam-1"] == "committed"


def test_the_network_decides_who_is_offered_it(fleet: FleetStore) -> None:
    runs = {"product": PRODUCT, "version": FIRST, "manifest": manifest_of(FIRST), "phase": "committed"}
    fleet.report("cam-1", **runs, inventory={"network": "cellular"})
    fleet.report("cam-2", **runs, inventory={"network": "wired"})
    rollout = fleet.roll_out(NEXT, canary=0, network=["wired"])
    assert fleet.states(rollout) == {"cam-1": "pending", "cam-2": "offered", "cam-3": "pending"}
    fleet.report("cam-2", **runs, inventory={"network": "cellular"})
    assert (fleet.member(rollout, "cam-2").detail, fleet.told("cam-2")) == ("network", (None, 1))


def test_a_large_rollout_goes_out_in_batches(fleet: FleetStore) -> None:
    def more(connection: Connection) -> None:
        names = {number: f"box-{number}" for number in range(100, 100 + 2 * BATCH)}
        rows = [{"id": number, "name": name, "lot": lot(name)} for number, name in names.items()]
        connection.execute(insert(devices), rows)
        said = {"app": "main", "state_seq": 1, "arch": "x86_64", "libc": "glibc"}
        connection.execute(insert(applications), [{"device_id": number} | said for number in names])

    fleet.store.database.write(more)
    rollout = fleet.roll_out(NEXT, canary=0)
    advancing = fleet.store.advancing
    assert fleet.store.rollouts.find(rollout).counts["offered"] == BATCH
    assert advancing.go_on(fleet.now)
    assert not advancing.go_on(fleet.now)
    assert fleet.store.rollouts.find(rollout).counts["offered"] == 2 * BATCH + 3
    advancing.abort(rollout, "anna", "", fleet.now)
    while advancing.go_on(fleet.now):
        pass
    assert fleet.store.rollouts.find(rollout).counts["skipped"] == 2 * BATCH + 3
    holds = [told for told in fleet.store.assignments.after(0, 9999) if told.wanted.path is None]
    assert len(holds) == 2 * BATCH + 3


def test_a_server_that_ended_before_it_advanced_takes_what_was_reported(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT)
    advance = fleet.store.advancing.reported
    fleet.store.advancing.reported = lambda *_: False  # type: ignore[method-assign]
    fleet.commits("cam-1", NEXT)
    fleet.store.advancing.reported = advance  # type: ignore[method-assign]
    assert fleet.states(rollout)["cam-1"] == "offered"
    looks(fleet)
    assert fleet.states(rollout)["cam-1"] == "committed"


def test_a_preview_says_who_gets_what_and_changes_nothing(fleet: FleetStore) -> None:
    older = fleet.roll_out(NEXT)
    fleet.enrol("arm-1", "new-1")
    fleet.report("arm-1", inventory={"arch": "aarch64"})
    fleet.store.devices.pin("cam-3", "", "anna", fleet.now)
    fleet.publish("2.0.0")
    window = [{"days": ["fri"], "from": "08:30", "to": "09:00"}]
    seen = fleet.store.advancing.preview(plan_of("2.0.0", window=window), fleet.now)
    assert (seen.devices, seen.already, seen.bytes, seen.superseded) == (3, 0, 10_000, (older,))
    assert [(phase.name, phase.size) for phase in seen.phases] == [("canary", 1), ("rest", 3)]
    assert [(share.target, share.devices) for share in seen.bundles] == [(TARGET, 2), ("", 1)]
    assert [(each.reason, each.devices, each.examples) for each in seen.excluded] == [
        ("pinned", 1, ("cam-3",)),
        ("target", 1, ("arm-1",)),
    ]
    assert [(zone.zone, zone.devices, zone.open, zone.next) for zone in seen.zones] == [
        ("UTC", 5, False, fleet.now + 1800)
    ]
    labelled = fleet.store.advancing.preview
    assert refusal(labelled, plan_of("2.0.0", selector="site=paris"), fleet.now) == "rollout.no_devices"
    assert refusal(labelled, plan_of("9.9.9"), fleet.now) == "release.unknown"
    fleet.store.devices.set_labels("cam-1", {"site": "paris"})
    chosen = labelled(plan_of("2.0.0", selector="site=paris"), fleet.now)
    assert [(each.reason, each.devices) for each in chosen.excluded] == [("labels.site", 4)]
    assert len(fleet.store.rollouts.page(None, 10)) == 1


def test_who_changed_what_is_read_in_groups(fleet: FleetStore) -> None:
    rollout = fleet.roll_out(NEXT)
    works_on(fleet, "cam-1", "failed", "pack.hash")
    read = partial(fleet.store.rollouts.members, rollout)
    assert [member.device for member in read(states=("failed",))] == ["cam-1"]
    assert [member.device for member in read(after="cam-1", limit=1)] == ["cam-2"]
    assert [member.device for member in read(phase=0)] == ["cam-1"]
    assert fleet.store.rollouts.reasons(rollout, 5) == [("failed", "pack.hash", 1, "cam-1")]
    assert fleet.store.rollouts.tally(rollout) == {0: {"failed": 1}, None: {"pending": 2}}
    (change,) = fleet.store.rollouts.changes(rollout)
    assert (change.before, change.version, change.devices, change.target) == (FIRST, NEXT, 3, TARGET)
