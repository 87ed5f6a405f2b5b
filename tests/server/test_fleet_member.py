"""What a member comes to by the word of its device and by the clock: examples of each rule, and what always holds."""

from dataclasses import replace
from typing import Any

import pytest
from beamfleet_server.fleet.member import Member, Report, observed, withdrawn
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.selection import Selection
from beamfleet_server.fleet.states import (
    FINAL,
    IN_FLIGHT,
    NO_EVIDENCE_CAUSES,
    NO_EVIDENCE_CODES,
    NOT_SWAPPED,
    SWAPPED,
    State,
    is_evidence,
)
from hypothesis import given, settings
from hypothesis import strategies as st

OLD, NEW = "a" * 64, "b" * 64
NOW, DAY = 1_800_000_000, 86_400
PLAN = Plan("sensor-gateway", "2.0.0", Selection(all=True), retries=2, backoff=600, deadline=3600)


def offered(state: State = State.OFFERED, **facts: Any) -> Member:
    return replace(Member(NEW, state=state, phase=0, offered=True, deadline=NOW + 3600, updated=NOW - 100), **facts)


def ended(state: State, **facts: Any) -> Member:
    return offered(state, **{"deadline": None, "evidence": True} | facts)


def working(phase: str, attempt: int = 1, reason: str = "", **more: Any) -> Report:
    return Report(OLD, "committed", update_phase=phase, update_manifest=NEW, update_attempt=attempt,
                  update_reason=reason, seen=NOW, **more)  # fmt: skip


RUNS_NEW = Report(NEW, "committed", seen=NOW)


def after(member: Member, report: Report, now: int = NOW) -> Member:
    return observed(member, report, PLAN, now)


WORDS = {
    "downloading": State.DOWNLOADING,
    "verified": State.VERIFYING,
    "staged": State.STAGED,
    "swapping": State.SWAPPING,
    "trial": State.TRIAL,
}


@pytest.mark.parametrize(("word", "state"), WORDS.items())
def test_a_member_is_where_its_device_says_that_it_is(word: str, state: State) -> None:
    assert after(offered(), working(word)).state is state


@pytest.mark.parametrize("word", ["downloading", "staged"])
def test_what_a_hook_put_off_waits(word: str) -> None:
    waiting = after(offered(), working(word, reason="update.hook"))
    assert (waiting.state, waiting.reason) == (State.WAITING, "update.hook")
    assert after(waiting, working("swapping")).state is State.SWAPPING


@pytest.mark.parametrize("phase", ["committed", "reverted", "fallback"])
def test_it_is_committed_when_boot_state_is_settled_on_it_and_not_before(phase: str) -> None:
    back = Report(NEW, phase, OLD[:32], 1, "crash", "reverted", OLD, 1, "crash")
    assert after(offered(State.TRIAL), back).state is State.COMMITTED
    assert after(offered(State.TRIAL), replace(back, manifest=OLD)).state is State.TRIAL


def test_a_trial_is_no_success_whatever_the_update_says() -> None:
    wished = Report(NEW, "trial", update_phase="committed", update_manifest=NEW, update_attempt=1)
    assert after(offered(State.TRIAL), wished).state is State.TRIAL


def test_who_runs_it_already_counts_at_once_without_an_offer() -> None:
    member = after(Member(NEW), RUNS_NEW)
    assert (member.state, member.reason, member.phase) == (State.COMMITTED, "already", None)


def test_a_bad_end_counts_with_its_reason() -> None:
    bad = after(offered(State.TRIAL), working("reverted", reason="crash", update_detail="exit 3"))
    assert (bad.state, bad.reason, bad.detail, bad.evidence, bad.deadline) == (
        State.REVERTED, "crash", "exit 3", True, None,
    )  # fmt: skip
    assert after(offered(State.DOWNLOADING), working("failed", reason="slot.no_space")).evidence


def test_the_launchers_word_alone_tells_of_a_revert() -> None:
    bad = after(offered(), Report(OLD, "reverted", NEW[:32], 1, "hang"))
    assert (bad.state, bad.reason) == (State.REVERTED, "hang")


@pytest.mark.parametrize("report", [working("reverted", 1, "crash"), Report(OLD, "committed", NEW[:32], 1, "crash")])
def test_what_an_earlier_attempt_came_to_says_nothing_about_a_new_one(report: Report) -> None:
    assert after(offered(attempt=2), report) == offered(attempt=2)


@pytest.mark.parametrize("cause", NO_EVIDENCE_CAUSES)
def test_a_revert_without_evidence_is_tried_again_later_with_the_next_attempt(cause: str) -> None:
    member = after(offered(State.TRIAL), working("reverted", reason=cause))
    assert (member.state, member.reason, member.attempt, member.tries) == (State.PENDING, cause, 2, 1)
    assert (member.next_try, member.phase, member.evidence) == (NOW + 600, 0, False)
    second = after(offered(State.TRIAL, attempt=2, tries=1), working("reverted", 2, cause))
    assert second.next_try == NOW + 1200
    third = after(offered(State.TRIAL, attempt=3, tries=2), working("reverted", 3, cause))
    assert (third.state, third.evidence) == (State.REVERTED, False)


@pytest.mark.parametrize("code", [*NO_EVIDENCE_CODES, "enrol.pending", "certificate.refused"])
def test_a_failure_that_is_not_the_releases_is_no_evidence(code: str) -> None:
    member = after(offered(State.DOWNLOADING), working("failed", reason=code))
    assert (member.state, member.attempt) == (State.PENDING, 2)


@pytest.mark.parametrize("code", ["slot.no_space", "trust.expired", "pack.altered", "update.hook", "", "deadline"])
def test_any_other_failure_is(code: str) -> None:
    assert is_evidence(State.FAILED, code)
    assert is_evidence(State.REVERTED, "worker.network")


def test_who_never_answers_is_lost_at_the_deadline() -> None:
    assert after(offered(), Report(), NOW + 3599).state is State.OFFERED
    lost = after(offered(), Report(), NOW + 3600)
    assert (lost.state, lost.reason, lost.evidence, lost.lost) == (State.FAILED, "deadline", False, True)
    assert withdrawn(offered(), lost)


@pytest.mark.parametrize("state", [each for each in IN_FLIGHT if each is not State.OFFERED])
def test_who_answered_and_went_no_further_is_bad_at_the_deadline(state: State) -> None:
    late = after(offered(state), Report(), NOW + 3600)
    assert (late.state, late.reason, late.detail, late.evidence) == (State.FAILED, "deadline", state, True)
    assert withdrawn(offered(state), late)


def lost_at(time: int, **facts: Any) -> Member:
    return ended(
        State.FAILED, **{"reason": "deadline", "detail": "offered", "evidence": False, "updated": time} | facts
    )


def test_a_lost_one_that_speaks_is_pending_again_without_a_place() -> None:
    back = after(lost_at(NOW - 5), Report(OLD, "committed", seen=NOW))
    assert (back.state, back.phase, back.tries, back.attempt) == (State.PENDING, None, 1, 1)
    assert after(lost_at(NOW), Report(OLD, "committed", seen=NOW)).state is State.FAILED
    assert after(lost_at(NOW - 5, tries=2), Report(OLD, "committed", seen=NOW)).state is State.FAILED


@pytest.mark.parametrize(("word", "state"), [("swapping", State.SWAPPING), ("trial", State.TRIAL)])
def test_a_late_word_heals_what_failed_at_the_deadline(word: str, state: State) -> None:
    healed = after(lost_at(NOW - 5), working(word))
    assert (healed.state, healed.deadline, healed.phase) == (state, NOW + 3600, 0)
    stuck = ended(State.FAILED, reason="deadline", detail="downloading")
    assert after(stuck, RUNS_NEW).state is State.COMMITTED
    assert after(stuck, working("reverted", reason="crash")).reason == "crash"
    assert after(stuck, working("reverted", reason="power")).state is State.PENDING


@pytest.mark.parametrize("word", ["swapping", "trial"])
def test_the_same_word_again_heals_nothing(word: str) -> None:
    stuck = ended(State.FAILED, reason="deadline", detail=word)
    assert after(stuck, working(word)) == stuck


def test_a_device_that_says_deadline_itself_heals_nothing() -> None:
    hostile = after(offered(State.DOWNLOADING), working("failed", reason="deadline", update_detail="nonsense"))
    assert (hostile.evidence, hostile.lost) == (True, False)
    assert after(hostile, working("trial")) == hostile


def test_a_held_one_that_had_swapped_meanwhile_is_told_truly() -> None:
    held = offered(State.PENDING, reason="held", deadline=None)
    assert after(held, working("staged")) == held
    swapped = after(held, working("trial"))
    assert (swapped.state, swapped.deadline, swapped.phase) == (State.TRIAL, NOW + 3600, 0)
    assert after(held, RUNS_NEW).state is State.COMMITTED
    assert after(held, working("reverted", reason="crash")).evidence


def test_the_same_is_true_of_one_that_was_skipped_after_its_offer() -> None:
    skipped = offered(State.SKIPPED, reason="aborted", deadline=None)
    assert after(skipped, working("trial")).state is State.TRIAL
    never = Member(NEW, state=State.SKIPPED, reason="pinned")
    assert after(never, RUNS_NEW) == never


def test_a_real_revert_stays_whatever_comes_later() -> None:
    bad = ended(State.REVERTED, reason="crash")
    assert after(bad, RUNS_NEW) == bad
    assert after(ended(State.REVERTED, reason="power", evidence=False), RUNS_NEW).state is State.COMMITTED


def test_a_committed_release_that_falls_back_has_reverted() -> None:
    committed = ended(State.COMMITTED, evidence=False)
    fallen = after(committed, Report(OLD, "fallback", NEW[:32], 1, "crash"))
    assert (fallen.state, fallen.reason, fallen.evidence) == (State.REVERTED, "crash", True)
    assert after(committed, Report(OLD, "committed")) == committed, "somebody installed another one with a stick"
    assert after(committed, Report(OLD, "fallback", NEW[:32], 2, "crash")) == committed
    assert (
        after(replace(committed, offered=False), Report(OLD, "fallback", NEW[:32], 1, "crash")).state is State.COMMITTED
    )


def test_a_stone_that_is_committed_makes_way_for_the_next() -> None:
    stone = after(offered(State.TRIAL, step=True, tries=1), RUNS_NEW)
    assert (stone.state, stone.reason, stone.phase, stone.offered, stone.tries) == (State.PENDING, "step", 0, False, 0)
    assert not withdrawn(offered(State.TRIAL, step=True), stone)


def test_who_is_superseded_or_unknown_is_left_alone() -> None:
    for member in (offered(State.SUPERSEDED), Member("")):
        assert after(member, RUNS_NEW, NOW + DAY) == member


def test_what_is_withdrawn_gets_an_assignment_with_no_target() -> None:
    pending = replace(offered(State.PENDING), deadline=None)
    assert withdrawn(offered(State.TRIAL), pending)
    assert not withdrawn(offered(State.TRIAL), ended(State.REVERTED))
    assert not withdrawn(offered(State.TRIAL), ended(State.COMMITTED))
    assert not withdrawn(pending, pending)


MEMBERS = st.builds(
    Member,
    manifest=st.sampled_from((NEW, NEW, NEW, "")),
    attempt=st.integers(1, 3),
    state=st.sampled_from(State),
    reason=st.sampled_from(("", "deadline", "held", "crash", "power")),
    detail=st.sampled_from(("", "offered", "downloading", "staged", "trial", "nonsense")),
    phase=st.none() | st.integers(0, 1),
    offered=st.booleans(),
    step=st.booleans(),
    tries=st.integers(0, 2),
    next_try=st.sampled_from((0, NOW)),
    evidence=st.booleans(),
    updated=st.sampled_from((NOW - 100, NOW)),
).map(
    lambda member: replace(
        member,
        deadline=NOW + (member.attempt - 2) * 50 if member.state in IN_FLIGHT else None,
        offered=member.offered or member.state in IN_FLIGHT,
        manifest=member.manifest if member.state is State.PENDING else NEW,
    )
)
REPORTS = st.builds(
    Report,
    manifest=st.sampled_from((OLD, NEW, "")),
    phase=st.sampled_from(("none", "trial", "committed", "reverted", "fallback")),
    failed_slot=st.sampled_from(("", OLD[:32], NEW[:32])),
    failed_attempt=st.integers(0, 3),
    failed_cause=st.sampled_from(("crash", "power", "")),
    update_phase=st.sampled_from(("", "idle", *WORDS, "committed", "reverted", "failed")),
    update_manifest=st.sampled_from((OLD, NEW, NEW, NEW)),
    update_attempt=st.integers(0, 3),
    update_reason=st.sampled_from(("", "crash", "power", "worker.network", "update.hook", "deadline", "slot.no_space")),
    update_detail=st.sampled_from(("", "offered", "trial", "nonsense")),
    seen=st.sampled_from((0, NOW - 50, NOW)),
)


@settings(max_examples=300)
@given(MEMBERS, REPORTS)
def test_what_holds_for_any_member_and_any_word(member: Member, report: Report) -> None:
    changed = after(member, report)
    if max(report.update_attempt, report.failed_attempt) <= member.attempt:  # else it speaks of what is to come
        assert after(changed, report) == changed, "the same again changes nothing"
    assert (changed.state in IN_FLIGHT) == (changed.deadline is not None), "what is in flight has a deadline, no other"
    assert changed.tries <= PLAN.retries
    assert changed.attempt >= member.attempt
    if changed.state is State.COMMITTED and member.state is not State.COMMITTED:
        assert report.manifest == NEW
        assert report.phase in ("committed", "reverted", "fallback")
    if changed.state in SWAPPED and member.state not in IN_FLIGHT:
        assert report.update_phase in ("swapping", "trial")
    if changed.attempt > member.attempt:
        assert changed.state is State.PENDING
        assert changed.phase == member.phase, "it keeps its place"
    if member.state in FINAL and changed.state in NOT_SWAPPED:
        raise AssertionError("nobody who came to an end begins to download without a new offer")


@given(MEMBERS, st.lists(REPORTS, min_size=1, max_size=12))
def test_no_words_of_a_device_keep_a_member_in_flight_for_ever(member: Member, words: list[Report]) -> None:
    now, turns = NOW, 0
    for word in words:
        now += PLAN.deadline
        before, member = member, observed(member, replace(word, seen=now), PLAN, now)
        turns += before.state in FINAL and member.state not in FINAL
    for _ in range(3):
        now += PLAN.deadline + 1
        member = observed(member, words[-1], PLAN, now)
    assert member.state not in IN_FLIGHT
    assert turns <= PLAN.retries * 2 + 5, "it went in and out again and again"
