"""The update state machine and the owner: hooks that have their say, and the schema of the data."""

import pytest
from beamfleet_agent import moves
from beamfleet_agent.course import MAX_PUT_OFF
from beamfleet_agent.journal import Ledger, decode, encode
from beamfleet_agent.update import step
from beamfleet_agent.update_state import Ground, Release, State, Update

from tests.agent.update_steps import (
    ASSIGNED,
    FRESH,
    MAY_SWAP,
    NEW,
    OLD,
    OLD_RUNS,
    SLOTS,
    STAGED,
    TRIAL,
    through,
)  # fmt: skip


@pytest.mark.parametrize("tried", [ASSIGNED[:2], (*STAGED, moves.Sound(OLD))])
class TestHooks:
    """The owner's scripts before anything is fetched, and before the swap."""

    def answer(self, state: State, status: int, **more: str) -> moves.Hooked:
        return moves.Hooked(state.job, NEW.slot, 1, status, **more)

    def test_any_other_end_than_go_on_or_later_fails_the_attempt_with_what_was_said(
        self, tried: tuple[moves.Event, ...]
    ) -> None:
        state, _ = through(FRESH, *tried)
        point = state.job
        state, _ = step(state, self.answer(state, 3, name="10-full", output="no room"))
        assert (state.update.phase, state.update.reason, state.job) == ("failed", "update.hook", "")
        assert state.update.detail == f"the hook 10-full of {point} ended with 3: no room"
        assert state.spent == ((NEW.slot, 1),)

    def test_hooks_that_give_no_answer_fail_the_attempt(self, tried: tuple[moves.Event, ...]) -> None:
        state, _ = through(FRESH, *tried)
        point = state.job
        state, _ = step(state, self.answer(state, -1))
        assert (state.update.phase, state.update.reason) == ("failed", "update.hook")
        assert state.update.detail == f"the hooks of {point} gave no answer"

    def test_a_launcher_that_refuses_to_run_them_fails_the_attempt(self, tried: tuple[moves.Event, ...]) -> None:
        state, _ = through(FRESH, *tried, moves.Refused("unknown_verb"))
        assert (state.update.phase, state.update.reason) == ("failed", "update.hook")
        assert "unknown_verb" in state.update.detail

    def test_later_is_later_ever_more_rarely_and_not_for_ever_whatever_restarts(
        self, tried: tuple[moves.Event, ...]
    ) -> None:
        state, _ = through(FRESH, *tried)
        delays = []
        while state.update.phase != "failed":
            state, actions = step(state, self.answer(state, 21, name="window"))
            if state.update.phase == "failed":
                break
            assert isinstance(actions[-1], moves.Retry)
            delays.append(actions[-1].after_s)
            if len(delays) == 5:
                state = decode(encode(state, Ledger()))[0]  # type: ignore[index]
                state, _ = step(state, moves.Started(OLD_RUNS, SLOTS))
            else:
                state, _ = step(state, moves.RetryDue())
            further = moves.Sound(OLD) if state.job == "verify" else moves.Checked(10, 1, NEW)
            state, _ = step(state, further)
        assert len(delays) == MAX_PUT_OFF
        assert delays[-1] > 100 * delays[0]
        assert (state.update.reason, state.spent) == ("update.hook", ((NEW.slot, 1),))

    def test_a_forced_assignment_calls_them_and_is_not_put_off_but_may_be_refused(
        self, tried: tuple[moves.Event, ...]
    ) -> None:
        forced = tuple(event._replace(forced=True) if isinstance(event, moves.Checked) else event for event in tried)
        state, asked = through(FRESH, *forced)
        assert moves.Hook(state.job, NEW.slot, 1) in asked
        went_on, _ = step(state, self.answer(state, 0))
        assert step(state, self.answer(state, 21))[0] == went_on
        assert step(state, self.answer(state, 3))[0].update.phase == "failed"

    def test_the_reason_of_the_wait_stays_while_it_is_tried_again(self, tried: tuple[moves.Event, ...]) -> None:
        state, _ = through(FRESH, *tried)
        state, _ = step(state, self.answer(state, 21, name="window", output="not at night"))
        waits = (state.update.phase, "update.hook", state.update.detail)
        state, _ = step(state, moves.RetryDue())
        state, _ = step(state, moves.Sound(OLD) if state.job == "verify" else moves.Checked(10, 1, NEW))
        assert (state.update.phase, state.update.reason, state.update.detail) == waits
        assert "not at night" in state.update.detail
        state, _ = step(state, self.answer(state, 0))
        assert (state.update.reason, state.update.detail) == ("", "")

    def test_an_answer_to_another_question_is_none(self, tried: tuple[moves.Event, ...]) -> None:
        state, _ = through(FRESH, *tried)
        for other in (
            self.answer(state, 0)._replace(attempt=2),
            self.answer(state, 0)._replace(slot=OLD.slot),
            self.answer(state, 0)._replace(point="post-swap"),
        ):
            assert step(state, other) == (state, ())
        after, _ = step(state, self.answer(state, 0))
        assert step(after, self.answer(state, 1)) == (after, ())


def test_a_ground_that_changed_while_hooks_ran_is_looked_at_again_before_the_swap() -> None:
    other = Release("c" * 64, "gateway", "0.9.0")
    fallen = Ground(other.slot, OLD.slot, "fallback", 1, "fallback", OLD.slot, 1, "crash")
    state, _ = through(FRESH, *STAGED, moves.Sound(OLD), moves.BootChanged(fallen))
    state, actions = step(state, MAY_SWAP)
    assert (state.update.phase, actions) == ("staged", (moves.Verify(other.slot),))


class TestTheSchemaOfTheData:
    """What a person who goes back is asked; the device's own reverts ask nobody."""

    OLD, NEW = OLD._replace(data_schema=1), NEW._replace(data_schema=2)
    GROUND = Ground(NEW.slot, OLD.slot, "committed", 1, "update")

    def back(self, old: Release, new: Release, forced: bool) -> Update:
        state, _ = through(State(ground=self.GROUND, releases=(new,)), moves.Rollback(forced), moves.Sound(old))
        return state.update

    @pytest.mark.parametrize("old", [OLD, OLD._replace(data_schema=-1), OLD._replace(data_schema=0)])
    def test_a_rollback_to_a_lower_one_is_refused_unless_it_is_forced(self, old: Release) -> None:
        update = self.back(old, self.NEW, forced=False)
        assert (update.phase, update.reason) == ("failed", "update.lower_schema")
        assert "the running 1.1.0 has 2" in update.detail
        assert self.back(old, self.NEW, forced=True).phase == "staged"

    @pytest.mark.parametrize(("before", "now"), [(2, 2), (3, 2), (5, -1), (-1, -1)])
    def test_a_rollback_to_the_same_or_a_higher_one_is_not(self, before: int, now: int) -> None:
        old, new = OLD._replace(data_schema=before), NEW._replace(data_schema=now)
        assert self.back(old, new, forced=False).phase == "staged"

    def test_a_refused_rollback_spends_nothing_and_may_be_forced_next(self) -> None:
        state, _ = through(State(ground=self.GROUND, releases=(self.NEW,)), moves.Rollback(), moves.Sound(self.OLD))
        assert state.spent == ()
        state, actions = through(state, moves.Rollback(forced=True), moves.Sound(self.OLD))
        assert actions == (moves.Hook("pre-swap", OLD.slot, 0),)

    def test_a_trial_is_ended_and_a_revert_followed_whatever_the_numbers(self) -> None:
        state, actions = through(FRESH._replace(releases=(self.OLD, self.NEW)), *TRIAL, moves.Rollback())
        assert actions == (moves.Request("rollback"),)
        gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "crash")
        state, _ = step(state, moves.BootChanged(gone_back))
        assert state.update.phase == "reverted"
