"""What a rollout does next: an example of each rule, and what holds for any counts."""

from dataclasses import replace
from typing import Any

import pytest
from beamfleet_server.fleet.decision import (
    BATCH,
    AskGate,
    Counts,
    Drop,
    Enter,
    Finish,
    Halt,
    Hold,
    Offer,
    Order,
    Prove,
    Reopen,
    Retry,
    Rollout,
    Tally,
    Unprove,
    decide,
    may_join,
    owns,
)
from beamfleet_server.fleet.plan import CANARY, REST, Phase, Plan, Size
from beamfleet_server.fleet.selection import Selection
from beamfleet_server.fleet.states import Progress
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_800_000_000
NOTHING = Tally()


def plan(*phases: Phase, **facts: Any) -> Plan:
    return Plan("sensor-gateway", "2.0.0", Selection(all=True), phases or (CANARY, REST), **facts)


def rollout(*phases: Phase, max_parallel: int = 0, expires: int = NOW + 1000, **facts: Any) -> Rollout:
    return Rollout(plan(*phases, max_parallel=max_parallel), expires, **facts)


def counts(
    *phases: Tally,
    pending: int = 0,
    ready: int | None = None,
    loose: Tally = NOTHING,
    skipped: int = 0,
    superseded: int = 0,
    **more: int,
) -> Counts:
    """Of a rollout whose members are all counted in `phases`, `loose`, `pending`, `skipped` and `superseded`."""
    tallies = (*phases, NOTHING)[: max(2, len(phases))]
    known = sum(tallies, loose)
    total = known.started + known.lost + pending + skipped + superseded
    offered = pending if ready is None else ready
    return Counts(total, tallies, loose, pending, offered, skipped=skipped, superseded=superseded, **more)


def flying(number: int, not_swapped: int | None = None, **more: int) -> Tally:
    return Tally(in_flight=number, not_swapped=number if not_swapped is None else not_swapped, **more)


DONE = Tally(committed=1)


def test_the_canary_goes_first_and_nobody_else() -> None:
    assert decide(rollout(), counts(pending=10), NOW) == [Offer(1, 0)]
    assert decide(rollout(), counts(flying(1), pending=9), NOW) == []


def test_everyone_follows_when_the_canary_is_committed() -> None:
    assert decide(rollout(), counts(DONE, pending=9), NOW) == [Prove(), Enter(1), Offer(9, 1)]


def test_it_soaks_first() -> None:
    soaking = replace(CANARY, soak=600)
    assert decide(rollout(soaking, REST), counts(DONE, pending=9), NOW) == [Prove()]
    since = rollout(soaking, REST, proved_since=NOW - 599)
    assert decide(since, counts(DONE, pending=9), NOW) == []
    assert decide(since, counts(DONE, pending=9), NOW + 1) == [Enter(1), Offer(9, 1)]


def test_then_a_person_has_to_approve() -> None:
    gate = replace(CANARY, gate=True)
    assert decide(rollout(gate, REST), counts(DONE, pending=9), NOW) == [Prove(), AskGate()]
    waiting = rollout(gate, REST, proved_since=NOW, gate="waiting")
    assert decide(waiting, counts(DONE, pending=9), NOW) == []
    assert decide(replace(waiting, gate="approved"), counts(DONE, pending=9), NOW) == [Enter(1), Offer(9, 1)]


def test_a_phase_that_was_proven_and_is_not_any_more_soaks_anew() -> None:
    tenth = Phase("tenth", Size(10, percent=True), soak=600)
    since = rollout(tenth, REST, proved_since=NOW - 500)
    assert decide(since, counts(Tally(committed=1), pending=19), NOW) == [Offer(1, 0), Unprove()]


def test_one_bad_canary_halts_it_and_what_has_not_swapped_is_held() -> None:
    two = replace(CANARY, devices=Size(3))
    orders = decide(rollout(two, REST), counts(flying(2, 1, bad=1), pending=7), NOW)
    assert orders == [Halt("1 of 3 failed in phase canary, none is tolerated", 0), Hold(1, "halted")]


@pytest.mark.parametrize(
    ("bad", "total", "halts"),
    [(1, 40, True), (1, 60, False), (2, 60, True), (19, 1000, False), (20, 1000, True)],
)
def test_the_rest_tolerates_two_percent_of_its_places_rounded_down(bad: int, total: int, halts: bool) -> None:
    later = rollout(phase=1)
    orders = decide(later, counts(DONE, Tally(committed=total - bad - 2, bad=bad), pending=1, ready=0), NOW)
    assert isinstance(orders[0], Halt) is halts if orders else not halts


def test_a_canary_that_falls_back_later_still_halts() -> None:
    fallen = counts(Tally(bad=1), flying(5, 5), pending=100)
    assert decide(rollout(phase=1), fallen, NOW)[0] == Halt("1 of 1 failed in phase canary, none is tolerated", 0)


def test_what_a_person_has_forgiven_halts_no_more_and_gives_its_place_to_another() -> None:
    resumed = rollout(forgiven=1)
    assert decide(resumed, counts(Tally(bad=1), pending=9), NOW) == [Offer(1, 0)]
    again = decide(resumed, counts(Tally(bad=2), pending=8), NOW)
    assert again[0] == Halt("1 of 1 failed in phase canary, none is tolerated", 0)


def test_a_phase_in_which_all_failures_were_tolerated_proves_nothing() -> None:
    careless = replace(CANARY, failures=Size(1))
    assert decide(rollout(careless, REST), counts(Tally(bad=1), pending=9), NOW) == [
        Halt("phase canary cannot be proven: nobody in it committed", 0)
    ]


def test_tolerated_failures_are_not_waited_for() -> None:
    ten = Phase("ten", Size(10), failures=Size(1))
    assert decide(rollout(ten, REST), counts(Tally(committed=9, bad=1), pending=5), NOW)[:2] == [Prove(), Enter(1)]
    assert decide(rollout(ten, REST), counts(Tally(committed=8, bad=1, retrying=1), pending=5), NOW) == []


def test_a_share_of_the_places_may_suffice() -> None:
    most = Phase("most", Size(10), successes=80)
    assert decide(rollout(most, REST), counts(flying(2, 0, committed=8), pending=5), NOW)[:2] == [Prove(), Enter(1)]
    assert decide(rollout(most, REST), counts(flying(3, 0, committed=7), pending=5), NOW) == []


def test_who_ran_it_already_is_no_proof() -> None:
    already = counts(pending=5, loose=Tally(committed=20))
    assert decide(rollout(), already, NOW) == [Offer(1, 0)]


def test_a_fleet_that_runs_it_already_is_done() -> None:
    done = counts(loose=Tally(committed=20))
    assert decide(rollout(), done, NOW) == [Finish(Progress.COMPLETED, "20 of 20 committed")]


def test_a_lost_one_frees_its_place() -> None:
    assert decide(rollout(), counts(Tally(lost=1), pending=9), NOW) == [Offer(1, 0)]


def test_when_everyone_is_lost_it_ends_without_anybody_having_gone_further() -> None:
    orders = decide(rollout(), counts(Tally(lost=2)), NOW)
    assert orders == [Finish(Progress.COMPLETED, "0 of 2 committed, 2 did not answer")]


def test_max_parallel_bounds_what_is_in_flight() -> None:
    later = rollout(phase=1, max_parallel=5)
    assert decide(later, counts(DONE, flying(3, 0), pending=50), NOW) == [Offer(2, 1)]
    assert decide(later, counts(DONE, flying(5), pending=50), NOW) == []
    phase = rollout(CANARY, replace(REST, max_parallel=4), phase=1, max_parallel=5)
    assert decide(phase, counts(DONE, flying(3), pending=50), NOW) == [Offer(1, 1)]


def test_retries_come_before_new_ones_and_need_no_new_place() -> None:
    later = rollout(phase=1, max_parallel=3)
    due = counts(DONE, Tally(retrying=2), pending=50, retry_ready=2)
    assert decide(later, due, NOW) == [Retry(2), Offer(1, 1)]
    assert decide(rollout(), counts(Tally(retrying=1), pending=5, retry_ready=1), NOW) == [Retry(1)]
    assert decide(rollout(), counts(Tally(retrying=1), pending=5), NOW) == [], "its place is taken"


def test_only_those_who_are_ready_are_offered_anything() -> None:
    assert decide(rollout(phase=1), counts(DONE, pending=50, ready=3), NOW) == [Offer(3, 1)]
    assert decide(rollout(), counts(pending=50, ready=0), NOW) == []


def test_large_fleets_go_in_batches() -> None:
    assert decide(rollout(phase=1), counts(DONE, pending=100_000), NOW) == [Offer(BATCH, 1)]
    assert decide(rollout(phase=1), counts(DONE, Tally(retrying=400), pending=900, retry_ready=400), NOW) == [
        Retry(400), Offer(100, 1),
    ]  # fmt: skip
    many = counts(flying(3000), pending=10, closed=2000)
    assert decide(rollout(Phase("all")), many, NOW)[0] == Hold(BATCH, "window")


def test_a_window_that_closes_holds_what_has_not_swapped() -> None:
    shut = counts(DONE, flying(5, 4), pending=50, ready=0, closed=3, barred=1)
    assert decide(rollout(phase=1), shut, NOW) == [Hold(3, "window"), Hold(1, "network")]


@pytest.mark.parametrize("progress", [Progress.PAUSED, Progress.HALTED])
def test_one_that_stands_still_holds_and_keeps_its_members(progress: Progress) -> None:
    still = rollout(progress=progress)
    assert decide(still, counts(flying(2, 1), pending=50), NOW) == [Hold(1, str(progress))]
    assert decide(still, counts(flying(1, 0), pending=50), NOW) == []


def test_one_that_was_aborted_drops_who_is_pending() -> None:
    ended = rollout(progress=Progress.ABORTED)
    assert decide(ended, counts(flying(2, 1), pending=50), NOW) == [Hold(1, "aborted"), Drop("aborted")]
    assert decide(ended, counts(flying(1, 0), DONE), NOW) == []


@pytest.mark.parametrize("progress", [Progress.RUNNING, Progress.PAUSED])
def test_it_expires(progress: Progress) -> None:
    over = rollout(progress=progress, expires=NOW)
    orders = decide(over, counts(DONE, flying(2, 1), pending=50), NOW)
    assert orders == [Finish(Progress.EXPIRED, "1 of 53 committed"), Hold(1, "expired"), Drop("expired")]


def test_a_halted_one_stays_halted_when_it_expires_but_keeps_nobody_waiting() -> None:
    over = rollout(progress=Progress.HALTED, expires=NOW)
    assert decide(over, counts(Tally(bad=1), pending=50), NOW) == [Drop("expired")]


def test_it_is_complete_when_nobody_is_left() -> None:
    later = rollout(phase=1)
    ended = counts(DONE, Tally(committed=98, bad=1, lost=1))
    assert decide(later, ended, NOW) == [
        Prove(), Finish(Progress.COMPLETED, "99 of 101 committed, 1 failed, 1 did not answer"),
    ]  # fmt: skip
    assert decide(later, counts(DONE, flying(1, 0, committed=98)), NOW) == []


def test_the_last_phase_may_soak_too() -> None:
    soaking = rollout(CANARY, replace(REST, soak=600), phase=1)
    assert decide(soaking, counts(DONE, Tally(committed=5)), NOW) == [Prove()]
    assert decide(replace(soaking, proved_since=NOW - 600), counts(DONE, Tally(committed=5)), NOW) == [
        Finish(Progress.COMPLETED, "6 of 6 committed")
    ]


def test_one_whose_members_all_went_to_a_newer_one_is_aborted() -> None:
    assert decide(rollout(), counts(superseded=3, skipped=1), NOW) == [Finish(Progress.ABORTED, "superseded")]


def test_a_late_joiner_reopens_a_completed_one_until_it_expires() -> None:
    completed = rollout(phase=1, progress=Progress.COMPLETED)
    assert decide(completed, counts(DONE, DONE), NOW) == []
    assert decide(completed, counts(DONE, DONE, pending=1), NOW) == [Reopen(), Offer(1, 1)]
    assert decide(completed, counts(DONE, DONE, pending=1), NOW + 1000) == [Drop("expired")]


def test_a_completed_one_whose_devices_fall_back_is_halted() -> None:
    completed = rollout(phase=1, progress=Progress.COMPLETED)
    orders = decide(completed, counts(DONE, Tally(committed=8, bad=1)), NOW)
    assert orders == [Reopen(), Halt("1 of 9 failed in phase rest, none is tolerated", 1)]


def test_the_highest_rank_owns_a_device() -> None:
    assert may_join((0, 2), None, [])
    assert may_join((0, 2), (0, 1), [1])
    assert not may_join((0, 2), (5, 1), [])
    assert may_join((5, 1), (0, 2), [])
    assert not may_join((5, 1), (0, 2), [2]), "it was offered something by a newer one: no going back"
    assert owns(Progress.COMPLETED, NOW + 1, NOW)
    assert not owns(Progress.COMPLETED, NOW, NOW)
    assert not owns(Progress.ABORTED, NOW + 1, NOW)


# Any counts

SMALL = st.integers(0, 4)
PAIR = replace(CANARY, devices=Size(3), failures=Size(1), successes=50, max_parallel=2)
PHASES = st.sampled_from((
    (CANARY, REST),
    (REST,),
    (PAIR, Phase("half", Size(50, percent=True)), REST),
    (replace(CANARY, soak=60, gate=True), replace(REST, soak=60, failures=Size(2))),
))  # fmt: skip


@st.composite
def situations(draw: st.DrawFn) -> tuple[Rollout, Counts]:
    chosen = draw(PHASES)
    tallies = []
    for _ in chosen:
        in_flight, others = draw(SMALL), [draw(SMALL) for _ in range(4)]
        tallies.append(Tally(in_flight, draw(st.integers(0, in_flight)), *others))
    everyone = sum(tallies, NOTHING)
    pending, skipped, superseded = draw(SMALL), draw(st.integers(0, 1)), draw(st.integers(0, 1))
    closed = draw(st.integers(0, everyone.not_swapped))
    known = Counts(
        everyone.started + everyone.lost + pending + skipped + superseded,
        tuple(tallies),
        pending=pending,
        pending_ready=draw(st.integers(0, pending)),
        retry_ready=draw(st.integers(0, everyone.retrying)),
        skipped=skipped,
        superseded=superseded,
        closed=closed,
        barred=draw(st.integers(0, everyone.not_swapped - closed)),
    )
    facts = Rollout(
        plan(*chosen, max_parallel=draw(SMALL)),
        NOW + draw(st.sampled_from((-1, 0, 1000))),
        draw(st.sampled_from(Progress)),
        draw(st.integers(0, len(chosen) - 1)),
        draw(st.sampled_from((None, NOW - 100, NOW))),
        draw(st.sampled_from(("", "waiting", "approved"))),
        draw(st.integers(0, 2)),
    )
    return facts, known


@settings(max_examples=400)
@given(situations())
def test_what_holds_for_any_counts(situation: tuple[Rollout, Counts]) -> None:
    facts, known = situation
    orders = decide(facts, known, NOW)
    kinds = [type(order) for order in orders]
    offers = [order.limit for order in orders if isinstance(order, Retry | Offer)]
    runs = facts.progress is Progress.RUNNING or Reopen in kinds
    if offers:
        assert runs
        assert facts.expires > NOW
        assert Halt not in kinds
        assert Finish not in kinds
        assert sum(offers) <= BATCH
    phase, in_flight = facts.phase, known.all.in_flight
    for order in orders:
        if isinstance(order, Enter):
            phase = order.phase
        if isinstance(order, Retry | Offer):
            in_flight += order.limit
            assert in_flight <= (facts.plan.parallel(phase) or in_flight)
    assert all(number > 0 for number in offers)
    assert sum(order.limit for order in orders if isinstance(order, Offer)) <= known.pending_ready
    assert sum(order.limit for order in orders if isinstance(order, Retry)) <= known.retry_ready
    for order in orders:
        if isinstance(order, Enter):
            assert order.phase > facts.phase
            assert any(tally.committed for tally in known.phases), "nothing is proven by nobody"
        if order == Finish(Progress.COMPLETED):
            assert not known.pending + known.all.in_flight + known.all.retrying
    assert kinds.count(Halt) <= 1
    tolerated = sum(phase.failures.down(known.counting) for phase in facts.plan.phases)
    if known.all.bad - facts.forgiven > tolerated and facts.phase == len(known.phases) - 1:
        assert not runs or Halt in kinds or facts.expires <= NOW


@settings(max_examples=200)
@given(situations())
def test_the_same_again_gives_nothing_new(situation: tuple[Rollout, Counts]) -> None:
    facts, known = situation
    orders = decide(facts, known, NOW)
    for _ in range(3):
        for order in orders:
            facts, known = applied(facts, known, order)
        orders = decide(facts, known, NOW)
    assert not orders, "it is never at rest"


def applied(facts: Rollout, known: Counts, order: Order) -> tuple[Rollout, Counts]:
    """What a store makes of it, in numbers."""
    match order:
        case Finish(progress):
            facts = replace(facts, progress=progress)
        case Halt():
            facts = replace(facts, progress=Progress.HALTED)
        case Reopen():
            facts = replace(facts, progress=Progress.RUNNING)
        case Prove():
            facts = replace(facts, proved_since=NOW)
        case Unprove():
            facts = replace(facts, proved_since=None)
        case AskGate():
            facts = replace(facts, gate="waiting")
        case Enter(phase):
            facts = replace(facts, phase=phase, proved_since=None, gate="")
        case Drop():
            gone = known.skipped + known.pending + known.all.retrying
            phases = tuple(replace(tally, retrying=0) for tally in known.phases)
            known = replace(known, phases=phases, pending=0, pending_ready=0, retry_ready=0, skipped=gone)
        case Hold(limit, why):
            known = moved(known, limit, Tally(-1, -1, retrying=1), lambda tally: tally.not_swapped)
            if why in ("window", "network"):
                shut, barred = (limit, 0) if why == "window" else (0, limit)
                known = replace(known, closed=known.closed - shut, barred=known.barred - barred)
            else:
                known = replace(known, closed=0, barred=0)
        case Retry(limit):
            known = moved(known, limit, Tally(1, 1, retrying=-1), lambda tally: tally.retrying)
            known = replace(known, retry_ready=known.retry_ready - limit)
        case Offer(limit, phase):
            phases = tuple(
                tally + Tally(limit, limit) if index == phase else tally for index, tally in enumerate(known.phases)
            )
            pending, ready = known.pending - limit, known.pending_ready - limit
            known = replace(known, phases=phases, pending=pending, pending_ready=ready)
    return facts, known


def moved(known: Counts, limit: int, change: Tally, of: Any) -> Counts:
    phases = list(known.phases)
    for _ in range(limit):
        index = next(index for index, tally in enumerate(phases) if of(tally))
        phases[index] += change
    return replace(known, phases=tuple(phases))
