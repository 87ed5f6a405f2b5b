"""The rules of a rollout: examples of each, and generated histories of whole fleets."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from beamfleet_server.fleet.rollout import (
    FINAL,
    NOT_SWAPPED,
    Elect,
    Enter,
    Finish,
    Hold,
    Member,
    Move,
    Offer,
    Order,
    Phase,
    Progress,
    Report,
    Rollout,
    State,
    abort,
    advance,
    observed,
    supersede,
)
from hypothesis import given
from hypothesis import strategies as st

OLD, NEW = "a" * 64, "b" * 64


def member(device: int, **facts: object) -> Member:
    return replace(Member(device, f"dev-{device}", NEW, 1), **facts)  # type: ignore[arg-type]


def offered(device: int, state: State = State.OFFERED, **facts: object) -> Member:
    return member(device, state=state, offered=True, **facts)


def working(phase: str, attempt: int = 1, reason: str = "") -> Report:
    return Report(OLD, "committed", "", phase, NEW, attempt, reason)


RUNS_NEW = Report(NEW, "committed", "", "committed", NEW, 1)


@pytest.mark.parametrize("phase", ["committed", "reverted", "fallback"])
def test_a_device_that_went_back_to_the_wanted_release_counts_as_committed(phase: str) -> None:
    back = Report(NEW, phase, f"{OLD[:32]}:1:crash", "reverted", OLD, 1, "crash")
    assert observed(offered(1, report=back)) == (State.COMMITTED, "")
    assert observed(offered(1, report=replace(back, manifest=OLD)))[0] is State.OFFERED


def test_the_first_canary_is_one_that_is_online() -> None:
    orders = advance(Rollout(1), [member(1), member(2, online=True), member(3, online=True)])
    assert orders == [Elect(2), Offer(2)]


def test_as_many_canaries_are_elected_as_were_asked_for() -> None:
    orders = advance(Rollout(2), [member(1), member(2), member(3)])
    assert [order for order in orders if isinstance(order, Offer)] == [Offer(1), Offer(2)]


def test_nobody_else_is_offered_anything_before_all_canaries_are_committed() -> None:
    canaries = [offered(1, State.COMMITTED, canary=True), offered(2, State.TRIAL, canary=True)]
    assert advance(Rollout(2), [*canaries, member(3)]) == []


def test_everyone_is_offered_it_when_all_canaries_are_committed() -> None:
    canary = offered(1, State.TRIAL, canary=True, report=RUNS_NEW)
    orders = advance(Rollout(1), [canary, member(2), member(3)])
    assert orders == [Move(1, State.COMMITTED), Enter(Phase.REST), Offer(2), Offer(3)]


def test_without_canaries_everyone_is_offered_it_at_once() -> None:
    assert advance(Rollout(0), [member(1), member(2)]) == [Enter(Phase.REST), Offer(1), Offer(2)]


def test_who_runs_it_already_is_committed_at_once_and_no_canary() -> None:
    orders = advance(Rollout(1), [member(1, report=RUNS_NEW, online=True), member(2)])
    assert orders == [Move(1, State.COMMITTED), Elect(2), Offer(2)]


def test_a_fleet_that_runs_it_already_is_done() -> None:
    orders = advance(Rollout(1), [member(1, report=RUNS_NEW)])
    assert orders == [Move(1, State.COMMITTED), Enter(Phase.REST), Finish(Progress.COMPLETED)]


@pytest.mark.parametrize("bad", ["reverted", "failed"])
def test_one_bad_device_halts_it_and_holds_those_that_have_not_swapped(bad: str) -> None:
    members = [
        offered(1, State.TRIAL, report=working(bad, reason="crash")),
        offered(2, State.STAGED),
        offered(3, State.TRIAL),
        member(4),
    ]
    reason = f"dev-1 {bad}: crash"
    assert advance(Rollout(1, phase=Phase.REST), members) == [
        Move(1, State(bad), "crash"),
        Move(2, State.SKIPPED, f"held: {reason}"),
        Hold(2),
        Finish(Progress.HALTED, reason),
    ]


def test_a_halted_rollout_offers_nothing_more_but_hears_how_it_ended() -> None:
    members = [offered(1, State.TRIAL, report=RUNS_NEW), member(2)]
    assert advance(Rollout(1, Progress.HALTED), members) == [Move(1, State.COMMITTED)]


def test_a_held_device_that_had_swapped_already_is_told_truly() -> None:
    held = offered(1, State.SKIPPED, reason="held: dev-2 reverted: crash")
    assert observed(replace(held, report=working("staged"))) == (State.SKIPPED, held.reason)
    assert observed(replace(held, report=working("trial"))) == (State.TRIAL, "")
    assert observed(replace(held, report=RUNS_NEW)) == (State.COMMITTED, "")


def test_a_trial_is_not_a_success() -> None:
    assert observed(offered(1, report=Report(NEW, "trial", "", "trial", NEW, 1)))[0] is State.TRIAL
    wished = Report(NEW, "trial", "", "committed", NEW, 1)
    assert observed(offered(1, State.TRIAL, report=wished))[0] is State.TRIAL


@pytest.mark.parametrize("phase", ["reverted", "fallback"])
def test_a_device_that_went_back_to_it_from_another_release_runs_it_committed(phase: str) -> None:
    back = Report(NEW, phase, f"{OLD[:32]}:1:crash", "reverted", OLD, 1, "crash")
    assert observed(offered(1, report=back)) == (State.COMMITTED, "")


def test_what_an_earlier_attempt_came_to_is_no_evidence() -> None:
    second = offered(1, attempt=2)
    for stale in (working("reverted", 1, "crash"), Report(OLD, "committed", f"{NEW[:32]}:1:crash")):
        assert observed(replace(second, report=stale)) == (State.OFFERED, "")


def test_the_launchers_word_alone_tells_of_a_revert() -> None:
    assert observed(offered(1, report=Report(OLD, "reverted", f"{NEW[:32]}:1:hang"))) == (State.REVERTED, "hang")


def test_a_member_that_has_not_said_what_it_is_waits_and_keeps_the_canary_phase_open() -> None:
    assert advance(Rollout(1), [member(1, manifest="")]) == []
    orders = advance(Rollout(1, phase=Phase.REST), [offered(1, State.COMMITTED, canary=True), member(2, manifest="")])
    assert orders == []


def test_a_canary_that_goes_to_a_newer_rollout_is_replaced() -> None:
    gone = offered(1, State.SUPERSEDED, canary=True)
    assert advance(Rollout(1), [gone, member(2)]) == [Elect(2), Offer(2)]


def test_members_without_a_bundle_are_no_obstacle() -> None:
    orders = advance(Rollout(1), [member(1, manifest="", state=State.SKIPPED), member(2, report=RUNS_NEW)])
    assert orders[-1] == Finish(Progress.COMPLETED)


def test_superseding_withdraws_what_has_not_swapped() -> None:
    members = [offered(1), offered(2, State.TRIAL), member(3), offered(4, State.COMMITTED)]
    assert supersede(members, "superseded by rollout 2") == [
        Move(1, State.SUPERSEDED, "superseded by rollout 2"),
        Hold(1),
        Move(2, State.SUPERSEDED, "superseded by rollout 2"),
        Move(3, State.SUPERSEDED, "superseded by rollout 2"),
    ]


def test_a_rollout_that_was_superseded_everywhere_is_aborted() -> None:
    orders = advance(Rollout(1), [member(1, state=State.SUPERSEDED), member(2, state=State.SUPERSEDED)])
    assert orders[-1] == Finish(Progress.ABORTED, "superseded by a newer rollout")


def test_aborting_holds_those_that_have_not_swapped() -> None:
    orders = abort([offered(1), offered(2, State.SWAPPING), member(3)], "enough")
    assert orders == [Move(1, State.SKIPPED, "held: enough"), Hold(1), Finish(Progress.ABORTED, "enough")]


# Generated histories: a fleet of devices that work through what they were told, in any order, some of them badly.

ENDS = ("committed", "reverted")
STEPS = ("downloading", "verified", "staged", "swapping", "trial")


@dataclass
class SimulatedDevice:
    """Walks through an update step by step; what it says is true."""

    good: bool
    told: str = ""
    step: int = -1
    report: Report = field(default_factory=lambda: Report(OLD, "committed"))
    was_offered: bool = False

    def act(self) -> None:
        if self.told == "hold" and self.step < STEPS.index("swapping"):
            self.step = -1
        elif self.told:
            self.step += 1
            if self.step < len(STEPS):
                phase = STEPS[self.step]
                on_trial = phase == "trial"
                self.report = Report(NEW if on_trial else OLD, "trial" if on_trial else "committed", "", phase, NEW, 1)
            elif self.good:
                self.report = RUNS_NEW
            else:
                self.report = Report(OLD, "reverted", f"{NEW[:32]}:1:crash", "reverted", NEW, 1, "crash")


class World:
    """A rollout, its members, and the devices behind them; applies orders as the store does."""

    def __init__(self, canary: int, devices: list[SimulatedDevice], online: list[bool]) -> None:
        self.rollout = Rollout(canary)
        self.devices = dict(enumerate(devices))
        self.members = {number: member(number, online=online[number]) for number in self.devices}

    def advance(self) -> None:
        for number, device in self.devices.items():
            self.members[number] = replace(self.members[number], report=device.report)
        orders = advance(self.rollout, list(self.members.values()))
        self.check(orders)
        self.apply(orders)
        assert advance(self.rollout, list(self.members.values())) == [], "the same again changes nothing"

    def check(self, orders: list[Order]) -> None:
        offers = [order.device for order in orders if isinstance(order, Offer)]
        if self.rollout.progress is not Progress.RUNNING:
            assert not offers, "no offer after the end"
        halted = any(isinstance(order, Finish) and order.progress is Progress.HALTED for order in orders)
        assert not (halted and offers), "no offer together with a halt"
        if any(device.report.update_phase == "reverted" for device in self.devices.values()):
            assert not offers, "no offer after a revert was reported"

    def apply(self, orders: Iterable[Order]) -> None:
        for order in orders:
            match order:
                case Move(number, state, reason):
                    if state is State.COMMITTED:
                        assert self.devices[number].report == RUNS_NEW, "committed only when boot/state says so"
                    self.members[number] = replace(self.members[number], state=state, reason=reason)
                case Elect(number):
                    self.members[number] = replace(self.members[number], canary=True)
                case Offer(number):
                    assert not self.devices[number].was_offered, "nobody is offered it twice"
                    self.devices[number].was_offered = True
                    self.devices[number].told = "new"
                    self.members[number] = replace(self.members[number], state=State.OFFERED, offered=True)
                case Hold(number):
                    self.devices[number].told = "hold"
                case Enter(phase):
                    canaries = [each for each in self.members.values() if each.canary]
                    assert all(each.state is State.COMMITTED for each in canaries), "the canaries prove it first"
                    self.rollout = replace(self.rollout, phase=phase)
                case Finish(progress, _):
                    self.rollout = replace(self.rollout, progress=progress)


@given(st.data())
def test_every_history_ends_in_the_truth_and_a_bad_release_stops_at_the_canaries(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8), label="devices")
    bad_release = data.draw(st.booleans(), label="bad release")
    devices = [SimulatedDevice(good=not bad_release) for _ in range(count)]
    if not bad_release and data.draw(st.booleans(), label="one is broken"):
        devices[data.draw(st.integers(0, count - 1))].good = False
    canary = data.draw(st.integers(0, count), label="canaries")
    world = World(canary, devices, data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    world.advance()
    while active := [device for device in devices if device.told and device.report.update_phase not in ENDS]:
        actors = [device for device in active if device.told == "new" or device.step >= STEPS.index("swapping")]
        if not actors:
            break
        for device in data.draw(st.lists(st.sampled_from(actors), min_size=1, max_size=4), label="who acts"):
            device.act()
        world.advance()
    if world.rollout.progress is Progress.RUNNING:
        assert all(each.state not in NOT_SWAPPED for each in world.members.values())
    for _ in STEPS:
        for device in devices:
            device.act()
        world.advance()
    states = [each.state for each in world.members.values()]
    if all(device.good for device in devices):
        assert world.rollout.progress is Progress.COMPLETED
        assert set(states) == {State.COMMITTED}
    elif bad_release:
        assert world.rollout.progress is Progress.HALTED
        exposed = sum(device.was_offered for device in devices)
        assert exposed == (canary or count), "nobody beyond the canaries was offered it"
    for number, device in enumerate(devices):
        state = world.members[number].state
        assert (state is State.COMMITTED) == (device.report == RUNS_NEW)
        assert (state is State.REVERTED) == (device.report.phase == "reverted")
        assert state in FINAL | {State.PENDING} or world.rollout.progress is Progress.HALTED
