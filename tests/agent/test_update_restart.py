"""The update state machine after a power cut or kill -9: what a restart in each phase leads to."""

import pytest
from beamfleet_agent import moves
from beamfleet_agent.update import step
from beamfleet_agent.update_state import Ground, State, Update

from tests.agent.update_steps import (
    ASSIGNED,
    FRESH,
    MAY_FETCH,
    MAY_SWAP,
    NEW,
    NEW_ON_TRIAL,
    OLD,
    OLD_RUNS,
    SLOTS,
    STAGED,
    SWAPPING,
    TRIAL,
    kinds,
    through,
)  # fmt: skip


class TestARestart:
    """What a power cut or kill -9 in each phase leads to."""

    @pytest.mark.parametrize("events", [ASSIGNED, (*ASSIGNED, moves.Verified(NEW))])
    def test_in_a_download_checks_and_fetches_again(self, events: tuple[moves.Event, ...]) -> None:
        state, actions = through(FRESH, *events, moves.Started(OLD_RUNS, frozenset({OLD.slot})))
        assert actions == (moves.Check("new"),)
        state, actions = through(state, moves.Checked(10, 1, NEW), MAY_FETCH)
        assert (state.update.phase, kinds(actions)) == ("downloading", [moves.Proceed])

    def test_before_an_assignment_was_checked_checks_it(self) -> None:
        _, actions = through(FRESH, moves.Assigned("new"), moves.Started(OLD_RUNS, frozenset({OLD.slot})))
        assert actions == (moves.Check("new"),)

    def test_with_a_whole_slot_verifies_the_ground_and_swaps(self) -> None:
        state, actions = through(FRESH, *STAGED, moves.Started(OLD_RUNS, SLOTS))
        assert actions == (moves.Verify(OLD.slot),)
        state, actions = through(state, moves.Sound(OLD), MAY_SWAP)
        assert actions == (moves.Request(f"swap {NEW.slot} 1"),)

    def test_with_a_slot_that_is_gone_fetches_again(self) -> None:
        state, actions = through(FRESH, *STAGED, moves.Started(OLD_RUNS, frozenset({OLD.slot})))
        assert (state.update.phase, actions) == ("downloading", (moves.Check("new"),))

    def test_before_the_launcher_took_the_swap_verifies_the_ground_and_asks_again(self) -> None:
        state, actions = through(FRESH, *SWAPPING, moves.Started(OLD_RUNS, SLOTS))
        assert actions == (moves.Verify(OLD.slot),)
        _, actions = through(state, moves.Sound(OLD), MAY_SWAP)
        assert actions == (moves.Request(f"swap {NEW.slot} 1"),)

    def test_with_a_swap_that_is_taken_while_the_ground_is_verified_follows_the_trial(self) -> None:
        state, _ = through(FRESH, *SWAPPING, moves.Started(OLD_RUNS, SLOTS))
        state, actions = step(state, moves.BootChanged(NEW_ON_TRIAL))
        assert (state.update.phase, state.update.origin) == ("trial", "assignment")
        assert actions == (moves.Cancel(), moves.Watch(NEW.slot, 1, NEW))

    def test_after_the_launcher_took_the_swap_watches_the_trial(self) -> None:
        state, actions = through(FRESH, *SWAPPING, moves.Started(NEW_ON_TRIAL, SLOTS))
        assert (state.update.phase, actions) == ("trial", (moves.Watch(NEW.slot, 1, NEW),))

    def test_in_a_trial_watches_from_its_beginning(self) -> None:
        _, actions = through(FRESH, *TRIAL, moves.Started(NEW_ON_TRIAL, SLOTS))
        assert actions == (moves.Watch(NEW.slot, 1, NEW),)

    def test_after_the_commit_was_written_reports_it(self) -> None:
        committed = NEW_ON_TRIAL._replace(phase="committed")
        state, _ = through(FRESH, *TRIAL, moves.Proven(), moves.Started(committed, SLOTS))
        assert state.update.phase == "committed"

    @pytest.mark.parametrize("events", [SWAPPING, TRIAL])
    def test_after_the_revert_was_written_reports_it(self, events: tuple[moves.Event, ...]) -> None:
        gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "crash")
        state, _ = through(FRESH, *events, moves.Started(gone_back, SLOTS))
        assert (state.update.phase, state.update.reason) == ("reverted", "crash")

    @pytest.mark.parametrize("slots", [SLOTS, frozenset({OLD.slot})])
    def test_after_a_trial_that_came_and_went_while_nobody_watched_does_not_try_again(
        self, slots: frozenset[str]
    ) -> None:
        """The agent asked, died, came back (staged again), died; the launcher tried meanwhile and went back."""
        gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "crash")
        state, _ = through(FRESH, *SWAPPING, moves.Started(OLD_RUNS, SLOTS))
        state, actions = step(state, moves.Started(gone_back, slots))
        if actions:
            state, _ = step(state, moves.Checked(10, 1, NEW))
        assert (state.update.phase, state.spent) in (
            ("reverted", ((NEW.slot, 1),)), ("failed", ((NEW.slot, 1),)),
        )  # fmt: skip

    def test_with_boot_state_remade_from_damage_does_not_count_a_lost_trial_as_success(self) -> None:
        remade = Ground(OLD.slot, "", "committed", 0, "crash")
        state, _ = through(FRESH, *TRIAL, moves.Started(remade, SLOTS))
        assert (state.update.phase, state.update.reason) == ("reverted", "crash")

    def test_without_a_journal_learns_from_the_slot_what_is_on_trial(self) -> None:
        state, actions = through(State(), moves.Started(NEW_ON_TRIAL, SLOTS))
        assert (state.update.phase, actions) == ("trial", (moves.Verify(NEW.slot),))
        state, actions = step(state, moves.Sound(NEW))
        assert (state.update.version, actions) == ("1.1.0", (moves.Watch(NEW.slot, 1, NEW),))

    def test_without_a_journal_learns_from_the_slot_what_runs(self) -> None:
        state, actions = through(State(), moves.Started(OLD_RUNS, SLOTS))
        assert actions == (moves.Verify(OLD.slot),)
        state, actions = step(state, moves.Sound(OLD))
        assert (state.releases, state.update, actions) == ((OLD,), Update(), ())
