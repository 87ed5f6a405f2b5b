"""Rollouts as they are kept: offers and their signed assignments, in one transaction with what the rules decided."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from beamfleet_bundles import assignment, repository
from beamfleet_bundles.chain import parse_targets
from beamfleet_bundles.repository import RoleKeys
from beamfleet_server.fleet.selector import Selector
from securesystemslib.signer import CryptoSigner

from tests.support.fleet_store import PRODUCT, TARGET, FleetStore, manifest_of, path_of, plan_of
from tests.support.mqtt_device import committed, update
from tests.support.postgres import Place
from tests.support.refusal import refusal


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    opened.publish("1.0.0")
    opened.publish("1.1.0")
    yield opened
    opened.close()


def three(fleet: FleetStore) -> None:
    fleet.enrol("cam-1", "cam-2", "cam-3", site="berlin")
    for name in ("cam-1", "cam-2", "cam-3"):
        fleet.report(name)


def test_a_rollout_of_what_is_not_there_or_to_nobody_is_refused(fleet: FleetStore) -> None:
    assert refusal(fleet.roll_out, "9.9.9") == "release.unknown"
    assert refusal(fleet.roll_out, "1.0.0", selector="site=paris") == "rollout.no_devices"
    fleet.enrol("arm-1")
    fleet.report("arm-1", inventory={"arch": "aarch64"})
    with pytest.raises(Exception, match=r"there is no cam-8, cam-9 \("):
        fleet.store.advancing.preview(plan_of("1.0.0", devices={"ids": ["cam-8", "cam-9"]}), fleet.now)
    with pytest.raises(Exception, match="arm-1") as caught:
        fleet.roll_out("1.0.0")
    assert getattr(caught.value, "code", "") == "rollout.no_target"
    assert TARGET in getattr(caught.value, "hint", "")
    assert fleet.store.rollouts.page(None, 10) == [], "nothing is left of what was refused"


def test_the_canary_is_offered_it_with_an_assignment_that_the_device_accepts(fleet: FleetStore) -> None:
    three(fleet)
    rollout = fleet.roll_out("1.0.0", selector="site=berlin")
    assert fleet.states(rollout) == {"cam-1": "offered", "cam-2": "pending", "cam-3": "pending"}
    told = fleet.store.assignments.find("cam-1", "main")
    assert told is not None
    keys = CryptoSigner.generate_ed25519()
    director = RoleKeys((fleet.keys.public["director"],))
    now = datetime.fromtimestamp(fleet.now, UTC)
    targets = parse_targets(repository.new_targets(director, [keys], now), "targets").signed
    accepted = assignment.verify(told.body, targets, device="cam-1", app="main", last=0, now=now)
    assert (accepted.path, accepted.sha256) == (path_of("1.0.0"), manifest_of("1.0.0"))
    assert (accepted.attempt, accepted.sequence, accepted.length) == (1, fleet.now, 1000)
    assert fleet.told("cam-2") is None


def test_the_rest_follows_the_canary_and_the_rollout_ends(fleet: FleetStore) -> None:
    three(fleet)
    rollout = fleet.roll_out("1.0.0")
    fleet.commits("cam-1", "1.0.0")
    assert fleet.states(rollout) == {"cam-1": "committed", "cam-2": "offered", "cam-3": "offered"}
    fleet.commits("cam-2", "1.0.0")
    fleet.commits("cam-3", "1.0.0")
    facts = fleet.store.rollouts.find(rollout)
    assert (facts.state, facts.phase_name, facts.counts["committed"]) == ("completed", "done", 3)
    assert facts.finished == fleet.now
    told = [(event.cause, event.rollout) for event in fleet.store.events.after(0, 100) if event.kind == "rollout"]
    assert told == [("started", rollout), ("entered", rollout), ("completed", rollout)]


def test_a_revert_halts_it_and_holds_who_has_not_swapped(fleet: FleetStore) -> None:
    three(fleet)
    rollout = fleet.roll_out("1.0.0", canary=2)
    fleet.report("cam-2", update=update("reverted", manifest_of("1.0.0"), reason="crash"))
    facts = fleet.store.rollouts.find(rollout)
    why = "1 of 2 failed in phase canary, none is tolerated: cam-2 reverted: crash"
    assert (facts.state, facts.reason) == ("halted", why)
    assert fleet.states(rollout) == {"cam-1": "pending", "cam-2": "reverted", "cam-3": "pending"}
    held = fleet.member(rollout, "cam-1")
    assert (held.reason, held.detail) == ("held", "halted")
    assert fleet.told("cam-1") == (None, 1)
    assert fleet.told("cam-2") == (path_of("1.0.0"), 1)
    assert fleet.told("cam-3") is None


def test_the_same_release_again_is_a_further_attempt_only_for_who_was_offered_it(fleet: FleetStore) -> None:
    three(fleet)
    fleet.roll_out("1.0.0")
    fleet.report("cam-1", update=update("reverted", manifest_of("1.0.0"), reason="crash"))
    assert refusal(fleet.roll_out, "1.0.0") == "release.quarantined"
    assert fleet.store.quarantine.lift("anna", fleet.now, product=PRODUCT, version="1.0.0") == [manifest_of("1.0.0")]
    second = fleet.roll_out("1.0.0")
    assert fleet.states(second)["cam-1"] == "offered", "the old revert is no evidence against the new attempt"
    assert fleet.told("cam-1") == (path_of("1.0.0"), 2)
    fleet.report("cam-1", **committed(manifest_of("1.0.0"), attempt=2))
    assert fleet.told("cam-2") == (path_of("1.0.0"), 1)


def test_what_a_newer_rollout_achieves_is_not_told_of_an_older_one(fleet: FleetStore) -> None:
    three(fleet)
    older = fleet.roll_out("1.0.0", canary=2)
    fleet.report("cam-2", update=update("reverted", manifest_of("1.0.0"), reason="crash"))
    fleet.store.quarantine.lift("anna", fleet.now, manifest=manifest_of("1.0.0"))
    newer = fleet.roll_out("1.0.0")
    fleet.report("cam-1", **committed(manifest_of("1.0.0"), attempt=2))
    assert (fleet.states(older)["cam-1"], fleet.states(newer)["cam-1"]) == ("superseded", "committed")


def test_devices_that_run_it_already_are_committed_at_once(fleet: FleetStore) -> None:
    three(fleet)
    for name in ("cam-1", "cam-2", "cam-3"):
        fleet.commits(name, "1.0.0")
    rollout = fleet.roll_out("1.0.0")
    assert fleet.store.rollouts.find(rollout).state == "completed"
    assert fleet.told("cam-1") is None


def test_the_same_key_again_is_the_same_rollout(fleet: FleetStore) -> None:
    three(fleet)
    start = fleet.store.advancing.start
    plan = plan_of("1.0.0")
    first = start(plan, "anna", "the only one", fleet.now)
    assert start(plan, "anna", "the only one", fleet.now) == (first[0], False)
    assert start(plan, "anna", "another one", fleet.now) == (first[0] + 1, True)
    assert len(fleet.store.rollouts.page(None, 10)) == 2


def test_a_device_without_a_bundle_is_skipped_with_the_reason(fleet: FleetStore) -> None:
    three(fleet)
    fleet.enrol("arm-1")
    fleet.report("arm-1", inventory={"arch": "aarch64"})
    rollout = fleet.roll_out("1.0.0")
    (arm,) = [member for member in fleet.store.rollouts.members(rollout) if member.device == "arm-1"]
    assert (arm.state, arm.reason) == ("skipped", "target")


def test_each_device_gets_the_bundle_of_its_target(fleet: FleetStore) -> None:
    fleet.publish("2.0.0", (TARGET, "aarch64-glibc-otp25", "aarch64-glibc-otp26"))
    fleet.enrol("arm-1", "pc-1")
    fleet.report("arm-1", inventory={"arch": "aarch64"})
    fleet.report("pc-1")
    fleet.roll_out("2.0.0", canary=0)
    assert fleet.told("arm-1") == (path_of("2.0.0", "aarch64-glibc-otp26"), 1)
    assert fleet.told("pc-1") == (path_of("2.0.0"), 1)


def test_a_device_that_has_not_spoken_yet_is_offered_it_when_it_does(fleet: FleetStore) -> None:
    fleet.enrol("cam-1", "arm-1")
    rollout = fleet.roll_out("1.0.0", canary=0)
    assert fleet.states(rollout) == {"arm-1": "pending", "cam-1": "pending"}
    fleet.report("cam-1")
    fleet.report("arm-1", inventory={"arch": "aarch64"})
    assert fleet.states(rollout) == {"arm-1": "skipped", "cam-1": "offered"}
    fleet.commits("cam-1", "1.0.0")
    assert fleet.store.rollouts.find(rollout).state == "completed"


def test_a_newer_rollout_takes_its_devices_over(fleet: FleetStore) -> None:
    three(fleet)
    older = fleet.roll_out("1.0.0")
    newer = fleet.roll_out("1.1.0")
    facts = fleet.store.rollouts.find(older)
    assert (facts.state, facts.reason) == ("aborted", "superseded")
    assert {member.reason for member in fleet.store.rollouts.members(older)} == {f"rollout {newer}"}
    assert fleet.states(older) == dict.fromkeys(("cam-1", "cam-2", "cam-3"), "superseded")
    assert fleet.told("cam-1") == (path_of("1.1.0"), 1)
    fleet.commits("cam-1", "1.0.0")
    assert fleet.states(older)["cam-1"] == "superseded", "the newest rollout alone is told by its device"
    assert fleet.states(newer)["cam-1"] == "offered"


def test_a_newer_rollout_for_some_leaves_the_older_one_to_the_others(fleet: FleetStore) -> None:
    three(fleet)
    fleet.store.devices.set_labels("cam-1", {"ring": "first"})
    older = fleet.roll_out("1.0.0")
    fleet.roll_out("1.1.0", selector="ring=first")
    assert fleet.states(older) == {"cam-1": "superseded", "cam-2": "offered", "cam-3": "pending"}, "another canary"


def test_aborting_holds_and_is_no_error_twice(fleet: FleetStore) -> None:
    three(fleet)
    rollout = fleet.roll_out("1.0.0")
    abort = fleet.store.advancing.abort
    abort(rollout, "anna", "enough", fleet.now)
    abort(rollout, "anna", "enough", fleet.now)
    assert fleet.store.rollouts.find(rollout).state == "aborted"
    assert fleet.told("cam-1") == (None, 1)
    assert refusal(abort, 99, "anna", "enough", fleet.now) == "rollout.unknown"
    for name in ("cam-1", "cam-2", "cam-3"):
        fleet.commits(name, "1.1.0")
    assert refusal(abort, fleet.roll_out("1.1.0"), "anna", "enough", fleet.now) == "rollout.finished"


def test_sequences_never_go_back_whatever_clock_or_device_say(fleet: FleetStore) -> None:
    fleet.enrol("cam-1")
    ahead = fleet.now + 1_000_000
    fleet.report("cam-1", sequence=ahead)

    def sequence() -> int:
        told = fleet.store.assignments.find("cam-1", "main")
        assert told is not None
        return told.wanted.sequence

    fleet.roll_out("1.0.0")
    assert sequence() == ahead + 1
    fleet.now -= 5000
    fleet.roll_out("1.1.0")
    assert sequence() > ahead + 1
    fleet.report("cam-1", sequence=2**63 - 1)
    fleet.roll_out("1.0.0")
    assert sequence() < 2**53, "what no server can have given is not believed"


def test_an_assignment_is_signed_again_when_it_is_old_or_the_device_knows_a_higher_one(fleet: FleetStore) -> None:
    three(fleet)
    fleet.online("cam-1", "cam-2")
    fleet.roll_out("1.0.0", canary=0)
    assert fleet.store.assignments.stale(fleet.now) == []
    assert fleet.store.assignments.stale(fleet.now + 1) == ["cam-1", "cam-2"]
    fleet.report("cam-3", sequence=fleet.now + 50)
    assert fleet.store.assignments.stale(fleet.now) == ["cam-3"]
    fleet.store.assignments.renew(["cam-3"], fleet.keys.sign_assignment, fleet.now)
    told = fleet.store.assignments.find("cam-3", "main")
    assert told is not None
    assert (told.wanted.sequence, told.wanted.attempt, told.wanted.path) == (fleet.now + 51, 1, path_of("1.0.0"))
    assert fleet.store.assignments.stale(fleet.now) == []


def test_publications_grow_with_each_signature(fleet: FleetStore) -> None:
    three(fleet)
    fleet.roll_out("1.0.0", canary=0)
    first = [told.publication for told in fleet.store.assignments.after(0, 10)]
    assert first == [1, 2, 3]
    fleet.roll_out("1.1.0", canary=1)
    newer = fleet.store.assignments.after(3, 10)
    assert [told.publication for told in newer] == sorted({told.publication for told in newer})
    assert min(told.publication for told in newer) > 3
    assert {told.wanted.device for told in newer} == {"cam-1", "cam-2", "cam-3"}, "one offer, two holds"


def test_only_what_devices_online_have_not_seen_is_repeated(fleet: FleetStore) -> None:
    three(fleet)
    fleet.online("cam-1", "cam-2")
    fleet.roll_out("1.0.0", canary=0)
    fleet.report("cam-1", sequence=fleet.now)
    assert [told.wanted.device for told in fleet.store.assignments.unseen()] == ["cam-2"]


def test_labels_choose_and_pages_are_complete(fleet: FleetStore) -> None:
    fleet.enrol("a-1", "a-2", site="berlin")
    fleet.enrol("b-1", site="paris")
    page = fleet.store.devices.page
    assert [device.name for device in page(Selector(), "", 2)] == ["a-1", "a-2"]
    assert [device.name for device in page(Selector(), "a-2", 2)] == ["b-1"]
    fleet.store.devices.set_labels("a-1", {"site": "paris", "rack": "7"})
    assert [device.name for device in page(Selector.parse("site=paris"), "", 9)] == ["a-1", "b-1"]
    assert [device.name for device in page(Selector.parse("rack=7,site=paris"), "", 9)] == ["a-1"]
    fleet.store.devices.set_labels("a-1", {"rack": None})
    assert fleet.store.devices.find("a-1").labels == {"site": "paris"}
    assert refusal(fleet.store.devices.set_labels, "nobody", {}) == "device.unknown"
