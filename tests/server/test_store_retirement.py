"""Devices that leave: decommissioned or replaced; what the next one gets, and who means them no longer."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from beamfleet_bundles import pki
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store.events import Wanted
from beamfleet_server.store.retirement import Replacement
from beamfleet_server.store.silence import SERVER, Ear
from beamfleet_server.store.tokens import NewToken

from tests.support.fleet_store import FleetStore
from tests.support.postgres import Place
from tests.support.refusal import refusal

EVERYONE = Selector()


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    yield opened
    opened.close()


def replace(fleet: FleetStore, old: str, new: str) -> Replacement:
    return fleet.store.retirement.replace(old, new, "anna", fleet.now)


def decommission(fleet: FleetStore, name: str) -> None:
    fleet.store.retirement.decommission(name, "anna", fleet.now)


def listed(fleet: FleetStore, selector: str = "", *, retired: bool = False) -> list[str]:
    rows = fleet.store.devices.page(Selector.parse(selector), "", 99, retired=retired)
    return [row.name for row in rows]


def told_of(fleet: FleetStore, name: str) -> list[tuple[str, str, str]]:
    events = fleet.store.events.newest(99, Wanted(name))
    return [(each.kind, each.cause, each.detail) for each in events if each.kind in ("retired", "succeeded")]


def test_what_is_decommissioned_is_kept_and_meant_by_nobody(fleet: FleetStore) -> None:
    fleet.enrol("cam-1", "cam-2", site="berlin")
    fleet.online("cam-1", "cam-2")
    serial = fleet.store.enrolment.newest_certificate("cam-1")
    fleet.store.tokens.create(NewToken("again", "cam-1", fleet.now + 60, replace=True), fleet.now)
    decommission(fleet, "cam-1")
    assert serial is not None
    assert fleet.store.gate.serials(fleet.now) == {serial.serial: fleet.now}
    assert [token.device for token in fleet.store.tokens.page(None, 9) if token.uses_left] == []
    device = fleet.store.devices.find("cam-1")
    assert (device.retired, device.retired_by, device.replaced_by, device.online) == (fleet.now, "anna", "", False)
    assert told_of(fleet, "cam-1") == [("retired", "decommissioned", "by anna")]
    assert listed(fleet) == listed(fleet, "site=berlin") == ["cam-2"]
    assert listed(fleet, retired=True) == listed(fleet, "site=berlin", retired=True) == ["cam-1", "cam-2"]
    assert fleet.store.devices.counts() == (1, 1)
    counts = fleet.store.health.counts(EVERYONE, fleet.now)
    assert (sum(counts.values()), counts["offline"]) == (1, 0)
    assert [each.name for each in fleet.store.figures.devices(fleet.now)] == ["cam-2"]
    assert fleet.store.figures.at(fleet.now).profiles["wired"] == (1, 1)
    standing = fleet.store.silence.stand(Ear(hears=True, since=0, away=SERVER), fleet.now)
    assert (standing.online, standing.lost) == (1, 0)


def test_decommissioning_again_changes_nothing(fleet: FleetStore) -> None:
    fleet.enrol("cam-1")
    decommission(fleet, "cam-1")
    since = fleet.now
    fleet.now += 60
    decommission(fleet, "cam-1")
    assert fleet.store.devices.find("cam-1").retired == since
    assert len(told_of(fleet, "cam-1")) == 1
    assert refusal(decommission, fleet, "nobody") == "device.unknown"


def test_a_rollout_goes_on_without_a_decommissioned_device(fleet: FleetStore) -> None:
    fleet.enrol("cam-1", "cam-2")
    fleet.publish("1.1.0")
    fleet.report("cam-1")
    fleet.report("cam-2")
    rollout = fleet.roll_out("1.1.0", canary=0)
    assert fleet.told("cam-1") is not None
    decommission(fleet, "cam-1")
    left = fleet.member(rollout, "cam-1")
    assert (left.state, left.reason) == ("skipped", "decommissioned")
    assert fleet.told("cam-1") is None
    fleet.commits("cam-2", "1.1.0")
    assert fleet.store.rollouts.find(rollout).state == "completed"
    fleet.publish("1.2.0")
    assert set(fleet.states(fleet.roll_out("1.2.0"))) == {"cam-2"}


def test_an_undo_leaves_out_who_has_left(fleet: FleetStore) -> None:
    fleet.enrol("cam-1", "cam-2")
    fleet.publish("1.0.0")
    fleet.publish("1.1.0")
    for name in ("cam-1", "cam-2"):
        fleet.commits(name, "1.0.0")
    rollout = fleet.roll_out("1.1.0", canary=0)
    for name in ("cam-1", "cam-2"):
        fleet.commits(name, "1.1.0")
    decommission(fleet, "cam-1")
    undo, _ = fleet.store.advancing.undo(rollout, "anna", None, fleet.now)
    assert set(fleet.states(undo)) == {"cam-2"}
    decommission(fleet, "cam-2")
    assert refusal(fleet.store.advancing.undo, undo, "anna", None, fleet.now) == "rollout.nothing_to_undo"


def test_a_decommissioned_device_comes_back_with_a_new_token(fleet: FleetStore) -> None:
    fleet.enrol("cam-1", site="berlin")
    decommission(fleet, "cam-1")
    assert refusal(fleet.store.tokens.create, NewToken("x", "cam-1", fleet.now + 60), fleet.now) == "device.exists"
    fleet.enrol_again("cam-1")
    assert listed(fleet, "site=berlin") == ["cam-1"]
    assert fleet.store.devices.find("cam-1").retired is None


def test_an_enrolled_board_takes_over_labels_pin_and_identity_of_the_place(fleet: FleetStore) -> None:
    fleet.enrol("old-1", site="berlin", ring="a")
    fleet.enrol("new-1", ring="b", line="4")
    fleet.store.devices.pin("old-1", "on the bench", "ben", fleet.now)
    done = replace(fleet, "old-1", "new-1")
    assert done == Replacement(fleet.now, fleet.now, waits=False)
    new, old = fleet.store.devices.find("new-1"), fleet.store.devices.find("old-1")
    assert new.labels == {"site": "berlin", "ring": "a", "line": "4"}
    assert (new.pinned, new.pinned_by, new.replaces) == ("on the bench", "ben", "old-1")
    assert (old.replaced_by, old.labels) == ("new-1", {"site": "berlin", "ring": "a"})
    assert listed(fleet, "site=berlin") == ["new-1"]
    assert told_of(fleet, "old-1") == [("retired", "replaced", "by new-1")]
    assert told_of(fleet, "new-1") == [("succeeded", "replaced", "it has the place of old-1")]
    certificate = fleet.store.enrolment.newest_certificate("old-1")
    assert certificate is not None
    assert certificate.revoked == fleet.now


def test_replacing_again_changes_nothing(fleet: FleetStore) -> None:
    fleet.enrol("old-1", site="berlin")
    fleet.enrol("new-1")
    first = replace(fleet, "old-1", "new-1")
    fleet.store.devices.set_labels("new-1", {"site": "hamburg"})
    fleet.now += 60
    assert replace(fleet, "old-1", "new-1") == first
    assert fleet.store.devices.find("new-1").labels == {"site": "hamburg"}
    decommission(fleet, "new-1")
    assert replace(fleet, "old-1", "new-1") == first


def test_a_board_that_is_not_there_yet_gets_the_place_when_it_enrols(fleet: FleetStore) -> None:
    fleet.enrol("old-1", site="berlin")
    fleet.publish("1.1.0")
    fleet.report("old-1")
    rollout = fleet.roll_out("1.1.0")
    assert fleet.member(rollout, "old-1").phase == 0
    assert replace(fleet, "old-1", "new-1").handed_over is None
    assert replace(fleet, "old-1", "new-1").handed_over is None
    fleet.now += 60
    fleet.enrol("new-1")
    new = fleet.store.devices.find("new-1")
    assert (new.labels, new.replaces) == ({"site": "berlin"}, "old-1")
    assert replace(fleet, "old-1", "new-1").handed_over == fleet.now
    place = fleet.member(rollout, "new-1")
    assert (place.state, place.phase) == ("pending", 0)
    fleet.report("new-1")
    fleet.store.advancing.look(fleet.now)
    assert fleet.member(rollout, "new-1").state == "offered"
    assert fleet.told("new-1") is not None
    fleet.commits("new-1", "1.1.0")
    assert fleet.store.rollouts.find(rollout).state == "completed"


def test_a_board_that_waits_for_approval_is_told_of_and_takes_over_when_it_is_let_in(fleet: FleetStore) -> None:
    fleet.enrol("old-1", site="berlin")

    def issue(name: str) -> object:
        raise AssertionError(name)

    fleet.store.requests.ask("new-1", "k" * 64, "::1", issue, fleet.now)  # type: ignore[arg-type]
    assert replace(fleet, "old-1", "new-1") == Replacement(fleet.now, None, waits=True)
    fleet.store.requests.accept("new-1", None, "anna", fleet.now, replace=False)
    key = pki.create_key(fleet.work / "new-1.key").public_key()
    fleet.store.requests.ask("new-1", "k" * 64, "::1", partial(fleet.authority.issue_device, public_key=key), fleet.now)
    assert fleet.store.devices.find("new-1").labels == {"site": "berlin"}
    assert replace(fleet, "old-1", "new-1") == Replacement(fleet.now, fleet.now, waits=False)


def test_until_it_is_there_the_successor_may_be_another_or_none(fleet: FleetStore) -> None:
    fleet.enrol("old-1", site="berlin")
    replace(fleet, "old-1", "new-1")
    replace(fleet, "old-1", "new-2")
    fleet.enrol("new-1")
    assert fleet.store.devices.find("new-1").labels == {}
    decommission(fleet, "old-1")
    assert fleet.store.devices.find("old-1").replaced_by == ""
    fleet.enrol("new-2")
    assert fleet.store.devices.find("new-2").labels == {}
    replace(fleet, "old-1", "new-2")
    assert fleet.store.devices.find("new-2").labels == {"site": "berlin"}


def test_the_place_of_one_that_has_committed_is_pending_for_the_next_one(fleet: FleetStore) -> None:
    fleet.enrol("old-1", "cam-2")
    fleet.enrol("new-1")
    fleet.publish("1.0.0")
    fleet.publish("1.1.0")
    for name in ("old-1", "cam-2", "new-1"):
        fleet.commits(name, "1.0.0")
    fleet.store.devices.set_labels("old-1", {"site": "berlin"})
    fleet.store.devices.set_labels("cam-2", {"site": "berlin"})
    rollout = fleet.roll_out("1.1.0", selector="site=berlin", canary=0)
    fleet.commits("old-1", "1.1.0")
    replace(fleet, "old-1", "new-1")
    assert fleet.states(rollout)["old-1"] == "committed"
    fleet.store.advancing.look(fleet.now)
    assert fleet.states(rollout)["new-1"] == "offered"
    fleet.commits("cam-2", "1.1.0")
    fleet.commits("new-1", "1.1.0")
    assert fleet.store.rollouts.find(rollout).state == "completed"


def test_a_board_with_a_place_of_its_own_in_the_rollout_keeps_its_course(fleet: FleetStore) -> None:
    fleet.enrol("old-1", "new-1")
    fleet.publish("1.1.0")
    fleet.report("old-1")
    fleet.report("new-1")
    rollout = fleet.roll_out("1.1.0", canary=0)
    fleet.commits("new-1", "1.1.0")
    replace(fleet, "old-1", "new-1")
    assert fleet.states(rollout) == {"old-1": "skipped", "new-1": "committed"}
    assert fleet.store.rollouts.find(rollout).state == "running"
    fleet.store.advancing.look(fleet.now)
    assert fleet.store.rollouts.find(rollout).state == "completed"


def test_an_older_rollout_does_not_take_a_board_from_a_newer_one(fleet: FleetStore) -> None:
    fleet.enrol("old-1", site="a")
    fleet.enrol("new-1", site="b")
    fleet.publish("1.1.0")
    fleet.publish("1.2.0")
    fleet.report("old-1")
    fleet.report("new-1")
    older = fleet.roll_out("1.1.0", selector="site=a", canary=0)
    newer = fleet.roll_out("1.2.0", selector="site=b", canary=0)
    replace(fleet, "old-1", "new-1")
    assert set(fleet.states(older)) == {"old-1"}
    assert fleet.states(newer) == {"new-1": "offered"}


def test_a_newer_rollout_takes_the_board_with_the_place(fleet: FleetStore) -> None:
    fleet.enrol("new-1", site="b")
    fleet.enrol("old-1", site="a")
    fleet.publish("1.1.0")
    fleet.publish("1.2.0")
    fleet.report("old-1")
    fleet.report("new-1")
    older = fleet.roll_out("1.1.0", selector="site=b", canary=0)
    newer = fleet.roll_out("1.2.0", selector="site=a", canary=0)
    replace(fleet, "old-1", "new-1")
    fleet.store.advancing.look(fleet.now)
    assert fleet.states(older) == {"new-1": "superseded"}
    assert fleet.states(newer) == {"old-1": "skipped", "new-1": "offered"}


def test_what_a_pin_withholds_is_withdrawn_from_the_new_board(fleet: FleetStore) -> None:
    fleet.enrol("old-1", "new-1")
    fleet.publish("1.1.0")
    fleet.report("new-1")
    rollout = fleet.roll_out("1.1.0", canary=0)
    fleet.store.devices.pin("old-1", "bench", "ben", fleet.now)
    replace(fleet, "old-1", "new-1")
    assert fleet.member(rollout, "new-1").reason == "pinned"
    assert fleet.told("new-1") == (None, 1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("nobody", "new-1", "device.unknown"),
        ("old-1", "old-1", "device.itself"),
        ("old-1", "gone", "device.retired"),
        ("old-1", "has-1", "device.successor"),
        ("was-1", "new-1", "device.replaced"),
        ("old-1", "../x", "name.device"),
    ],
)
def test_what_is_no_replacement_is_refused(fleet: FleetStore, old: str, new: str, expected: str) -> None:
    fleet.enrol("old-1", "new-1", "gone", "was-1", "has-1")
    decommission(fleet, "gone")
    replace(fleet, "was-1", "has-1")
    assert refusal(replace, fleet, old, new) == expected
    assert fleet.store.devices.find("old-1").retired is None
    assert fleet.store.devices.find("new-1").replaces == ""
