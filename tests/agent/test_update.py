"""The update state machine, row by row: what each event leads to."""

import pytest
from beamfleet_agent import moves
from beamfleet_agent.course import retry_after
from beamfleet_agent.journal import Ledger, decode, encode
from beamfleet_agent.update import step
from beamfleet_agent.update_state import Ground, Release, State, commit_floor

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


def test_an_assignment_is_checked_fetched_staged_swapped_watched_and_committed() -> None:
    state, actions = through(FRESH, moves.Assigned("new"))
    assert (state.update.phase, actions) == ("idle", (moves.Check("new"),))
    state, actions = step(state, moves.Checked(10, 1, NEW))
    assert (state.update.phase, actions) == ("downloading", (moves.Hook("pre-download", NEW.slot, 1),))
    state, actions = step(state, MAY_FETCH)
    assert (state.update.phase, kinds(actions)) == ("downloading", [moves.Proceed])
    state, actions = step(state, moves.Verified(NEW))
    assert (state.update.phase, actions) == ("verified", ())
    state, actions = step(state, moves.Staged(NEW))
    assert (state.update.phase, actions) == ("staged", (moves.Verify(OLD.slot),))
    state, actions = step(state, moves.Sound(OLD))
    assert (state.update.phase, actions) == ("staged", (moves.Hook("pre-swap", NEW.slot, 1),))
    state, actions = step(state, MAY_SWAP)
    assert (state.update.phase, actions) == ("swapping", (moves.Request(f"swap {NEW.slot} 1"),))
    state, actions = step(state, moves.BootChanged(NEW_ON_TRIAL))
    assert (state.update.phase, actions) == ("trial", (moves.Watch(NEW.slot, 1, NEW),))
    state, actions = step(state, moves.Proven())
    assert (state.update.phase, actions) == ("trial", (moves.Request(f"confirm {NEW.slot} 1"),))
    state, actions = step(state, moves.BootChanged(NEW_ON_TRIAL._replace(phase="committed")))
    assert (state.update.phase, actions, state.sequence, state.floors) == ("committed", (), 10, (("gateway", 7),))


def test_the_first_release_needs_no_ground_to_go_back_to() -> None:
    state, actions = through(State(), *STAGED)
    assert (state.update.phase, actions) == ("staged", (moves.Hook("pre-swap", NEW.slot, 1),))
    state, actions = step(state, MAY_SWAP)
    assert (state.update.phase, actions) == ("swapping", (moves.Request(f"swap {NEW.slot} 1"),))


def test_a_release_that_runs_already_counts_as_committed_without_a_swap() -> None:
    state, actions = through(FRESH, moves.Assigned("old"), moves.Checked(3, 2, OLD))
    assert (state.update.phase, state.update.version, kinds(actions)) == ("committed", "1.0.0", [moves.Cancel])


def test_an_assignment_that_comes_again_is_not_looked_at_again() -> None:
    state, _ = through(FRESH, *TRIAL, moves.BootChanged(NEW_ON_TRIAL._replace(phase="committed")))
    assert step(state, moves.Assigned("new")) == (state, ())


def test_an_older_assignment_is_refused_aloud_and_changes_nothing() -> None:
    before, _ = through(FRESH, *TRIAL, moves.BootChanged(NEW_ON_TRIAL._replace(phase="committed")))
    state, actions = through(before, moves.Assigned("older"), moves.Checked(9, 1, OLD))
    assert (state.update, state.sequence) == (before.update, 10)
    assert kinds(actions) == [moves.Cancel, moves.Tell]


def test_a_hold_drops_what_has_not_swapped() -> None:
    state, actions = through(FRESH, *STAGED, moves.Assigned("hold"), moves.Checked(11, 1, None))
    assert (state.update.phase, state.update.reason, kinds(actions)) == ("idle", "hold", [moves.Cancel])


def test_a_hold_comes_too_late_for_a_trial() -> None:
    state, actions = through(FRESH, *TRIAL, moves.Assigned("hold"))
    assert (state.update.phase, actions) == ("trial", ())
    state, actions = step(state, moves.BootChanged(NEW_ON_TRIAL._replace(phase="committed")))
    assert (state.update.phase, actions) == ("committed", (moves.Check("hold"),))
    state, _ = step(state, moves.Checked(11, 1, None))
    assert state.update.phase == "committed"


@pytest.mark.parametrize("cause", ["crash", "hang", "oom", "hook", "deadline", "probe", "operator"])
def test_a_reverted_attempt_is_not_tried_again_but_the_next_attempt_is(cause: str) -> None:
    gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, cause)
    state, _ = through(FRESH, *TRIAL, moves.BootChanged(gone_back))
    assert (state.update.phase, state.update.reason, state.spent) == ("reverted", cause, ((NEW.slot, 1),))
    again, actions = through(state, moves.Assigned("signed again"), moves.Checked(11, 1, NEW))
    assert (again.update, kinds(actions)) == (state.update, [moves.Cancel])
    state, actions = through(again, moves.Assigned("another attempt"), moves.Checked(12, 2, NEW))
    assert (state.update.phase, state.update.attempt, kinds(actions)) == ("downloading", 2, [moves.Hook])


def test_a_quarantined_release_that_is_assigned_after_another_one_fails_by_name() -> None:
    state, actions = through(FRESH._replace(spent=((NEW.slot, 1),)), *ASSIGNED[:2])
    assert (state.update.phase, state.update.reason) == ("failed", "update.quarantined")
    assert kinds(actions) == [moves.Cancel]


@pytest.mark.parametrize("cause", ["unconfirmed", "power", "uncounted"])
def test_a_revert_that_nobody_watched_or_that_the_power_made_is_no_evidence_against_the_release(cause: str) -> None:
    gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, cause)
    down, _ = through(FRESH, *TRIAL, moves.Observed("health", "it starts"))
    state, _ = step(down, moves.Started(gone_back, SLOTS))
    assert (state.update.phase, state.update.reason, state.spent) == ("reverted", cause, ())
    assert state.update.detail


def test_a_revert_tells_how_the_release_ended_in_the_launchers_words() -> None:
    said = "crash: status 1, Kernel pid terminated (application_controller)"
    gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "crash", said)
    state, _ = through(FRESH, *TRIAL, moves.Observed("health", "it does not answer"), moves.BootChanged(gone_back))
    assert (state.update.reason, state.update.detail) == ("crash", said)


@pytest.mark.parametrize(("cause", "spent"), [("crash", ((NEW.slot, 3),)), ("unconfirmed", ()), ("power", ())])
def test_a_lost_journal_learns_from_the_launcher_what_is_in_quarantine(
    cause: str, spent: tuple[tuple[str, int], ...]
) -> None:
    gone_back = Ground(OLD.slot, "", "reverted", 3, "revert", NEW.slot, 3, cause)
    state, _ = through(State(), moves.Started(gone_back, SLOTS))
    assert state.spent == spent
    assert step(state, moves.Started(gone_back, SLOTS))[0].spent == spent


def test_the_quarantine_survives_a_reboot_and_names_the_release() -> None:
    gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "crash")
    state, _ = through(FRESH, *TRIAL, moves.BootChanged(gone_back))
    state, _ = through(state, moves.Assigned("other"), moves.Checked(11, 1, OLD))
    remembered = decode(encode(state, Ledger()))
    assert remembered is not None
    state, _ = through(remembered[0], moves.Started(gone_back, SLOTS), moves.Assigned("the same again"))
    state, actions = step(state, moves.Checked(12, 1, NEW))
    assert (state.update.phase, state.update.reason, kinds(actions)) == (
        "failed", "update.quarantined", [moves.Cancel],
    )  # fmt: skip


def test_a_revert_that_we_watched_names_what_we_saw() -> None:
    gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "unconfirmed")
    state, _ = through(FRESH, *TRIAL, moves.Observed("probe", "GET :80/: 500"), moves.BootChanged(gone_back))
    assert (state.update.phase, state.update.reason, state.update.detail) == ("reverted", "probe", "GET :80/: 500")
    assert state.spent == ((NEW.slot, 1),)


def test_a_damaged_slot_to_go_back_to_stops_the_update_before_the_swap() -> None:
    state, actions = through(FRESH, *STAGED, moves.Failed("slot.damaged", "slot a is damaged"))
    assert (state.update.phase, state.update.reason, actions) == ("failed", "slot.damaged", ())


def test_what_cannot_be_mended_fails_at_once_and_is_spent() -> None:
    state, actions = through(FRESH, *ASSIGNED, moves.Failed("slot.no_space", "no room"))
    assert (state.update.phase, state.update.reason, actions) == ("failed", "slot.no_space", ())
    assert state.spent == ((NEW.slot, 1),)


def test_a_broken_line_is_tried_again_ever_more_rarely() -> None:
    state, delays = FRESH, []
    for _ in range(12):
        state, _ = through(state, *ASSIGNED) if not state.job and not state.offered else (state, ())
        state, actions = step(state, moves.Failed("worker.network", "cut", 1 << 30))
        (retry,) = actions
        assert isinstance(retry, moves.Retry)
        delays.append(retry.after_s)
        state, actions = step(state, moves.RetryDue())
        assert kinds(actions) == [moves.Check]
        state, _ = step(state, moves.Checked(10, 1, NEW))
    assert delays == sorted(delays)
    assert delays[0] <= 1
    assert 300 <= delays[-1] <= 600


def test_a_pack_that_is_altered_again_and_again_fails_in_the_end() -> None:
    state, tries = through(FRESH, *ASSIGNED)[0], 0
    while state.update.phase == "downloading":
        state, actions = step(state, moves.Failed("slot.altered", "not what was signed", 5))
        tries += 1
        if actions:
            state, _ = through(state, moves.RetryDue(), moves.Checked(10, 1, NEW))
    assert (state.update.phase, state.update.reason, tries) == ("failed", "slot.altered", 6)


def test_the_jitter_of_two_devices_differs_and_stays_below_the_limit() -> None:
    assert retry_after(5, "gw-1") != retry_after(5, "gw-2")
    assert all(8 <= retry_after(5, f"gw-{n}") <= 16 for n in range(50))


def test_garbage_in_the_middle_of_a_download_does_not_end_it() -> None:
    state, actions = through(FRESH, *ASSIGNED, moves.Assigned("garbage"))
    assert kinds(actions) == [moves.Cancel, moves.Check]
    state, actions = step(state, moves.Failed("assignment.signature", "not the director's"))
    assert actions == (moves.Tell("assignment.signature", "not the director's"), moves.Check("new"))
    state, actions = through(state, moves.Checked(10, 1, NEW), MAY_FETCH)
    assert (state.update.phase, kinds(actions)) == ("downloading", [moves.Proceed])
    assert step(state, moves.Assigned("garbage")) == (state, ())


def test_an_accepted_assignment_that_can_no_longer_be_verified_fails_but_is_not_spent() -> None:
    state, _ = through(FRESH, *ASSIGNED, moves.Started(OLD_RUNS, SLOTS))
    state, _ = step(state, moves.Failed("trust.signature", "the director's key is gone"))
    assert (state.update.phase, state.spent) == ("failed", ())


def test_a_rollback_verifies_the_previous_slot_and_swaps_to_it_on_trial() -> None:
    ground = Ground(NEW.slot, OLD.slot, "committed", 1, "update")
    state, actions = through(State(ground=ground, releases=(OLD, NEW)), moves.Rollback())
    assert actions == (moves.Verify(OLD.slot),)
    state, actions = through(state, moves.Sound(OLD), moves.Hooked("pre-swap", OLD.slot, 0, 0))
    assert actions == (moves.Request("rollback"),)
    state, actions = step(state, moves.BootChanged(Ground(OLD.slot, NEW.slot, "trial", 0, "rollback")))
    assert actions == (moves.Watch(OLD.slot, 0, OLD),)
    state, _ = step(state, moves.BootChanged(Ground(OLD.slot, NEW.slot, "committed", 0, "rollback")))
    assert (state.update.phase, state.update.version) == ("committed", "1.0.0")


def test_a_rollback_during_a_trial_ends_it_against_the_new_release() -> None:
    state, actions = through(FRESH, *TRIAL, moves.Rollback())
    assert actions == (moves.Request("rollback"),)
    gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "operator")
    state, _ = step(state, moves.BootChanged(gone_back))
    assert (state.update.phase, state.update.reason) == ("reverted", "operator")


def test_an_older_failed_rollback_is_not_taken_for_the_outcome_of_this_one() -> None:
    ground = Ground(NEW.slot, OLD.slot, "committed", 1, "update", OLD.slot, 0, "crash")
    state, _ = through(State(ground=ground, releases=(OLD, NEW)), moves.Rollback(), moves.Sound(OLD))
    state, _ = step(state, moves.Hooked("pre-swap", OLD.slot, 0, 0))
    state, _ = step(state, moves.BootChanged(ground._replace(cause="operator")))
    assert state.update.phase == "swapping"


def test_an_assignment_waits_while_a_release_from_a_file_is_installed() -> None:
    state, actions = through(FRESH, moves.Install("/stick/new.bundle"), moves.Assigned("other"))
    assert actions == ()
    state, actions = step(state, moves.Failed("trust.signature", "not signed"))
    assert (state.update.phase, actions) == ("failed", (moves.Check("other"),))


def test_a_file_with_the_release_that_runs_is_done_at_once() -> None:
    state, actions = through(FRESH, moves.Install("/stick/old.bundle"), moves.Staged(OLD))
    assert (state.update.phase, actions) == ("committed", ())


def test_a_file_that_failed_before_gets_a_new_attempt_because_a_person_asks() -> None:
    state = FRESH._replace(spent=((NEW.slot, 3),))
    state, actions = through(state, moves.Install("/stick/new.bundle"), moves.Checked(0, 0, NEW))
    assert (state.update.version, actions) == ("1.1.0", (moves.Hook("pre-download", NEW.slot, 4),))
    state, actions = step(state, moves.Hooked("pre-download", NEW.slot, 4, 0))
    assert actions == (moves.Proceed(),)
    state, actions = through(state, moves.Staged(NEW), moves.Sound(OLD))
    assert (state.update.phase, actions) == ("staged", (moves.Hook("pre-swap", NEW.slot, 4),))


def test_a_committed_release_that_falls_back_no_longer_counts_as_committed() -> None:
    fallen = Ground(OLD.slot, NEW.slot, "fallback", 1, "fallback", NEW.slot, 1, "crash")
    state, _ = through(
        FRESH, *TRIAL, moves.BootChanged(NEW_ON_TRIAL._replace(phase="committed")), moves.BootChanged(fallen)
    )
    assert (state.update.phase, state.update.reason) == ("reverted", "fallback")


def test_a_trial_that_nobody_here_asked_for_is_followed_and_unfinished_work_is_taken_up_later() -> None:
    other = Release("c" * 64, "gateway", "0.9.0")
    trial = Ground(other.slot, OLD.slot, "trial", 0, "rollback")
    state, actions = through(FRESH._replace(releases=(OLD, other)), *ASSIGNED, moves.BootChanged(trial))
    assert (state.update.phase, state.update.origin) == ("trial", "rollback")
    assert actions == (moves.Cancel(), moves.Watch(other.slot, 0, other))
    state, actions = step(state, moves.BootChanged(trial._replace(phase="committed")))
    assert (state.update.phase, actions) == ("committed", (moves.Check("new"),))


def test_a_damaged_slot_on_trial_is_not_hashed_again_and_again_because_an_assignment_waits() -> None:
    """The launcher ends that trial; then the assignment is looked at."""
    state, actions = through(State(), moves.Started(NEW_ON_TRIAL, SLOTS), moves.Assigned("other"))
    state, actions = step(state, moves.Failed("slot.damaged", "slot b is damaged"))
    assert kinds(actions) == [moves.Tell]
    gone_back = Ground(OLD.slot, "", "reverted", 1, "revert", NEW.slot, 1, "unconfirmed")
    _, actions = step(state, moves.BootChanged(gone_back))
    assert actions == (moves.Check("other"),)


def test_a_confirmation_that_came_too_early_leads_to_watching_again() -> None:
    _, actions = through(FRESH, *TRIAL, moves.Proven(), moves.Refused("not_started"))
    assert actions == (moves.Watch(NEW.slot, 1, NEW),)


def test_a_swap_that_is_refused_because_of_another_trial_is_asked_for_again() -> None:
    state, actions = through(FRESH, *SWAPPING, moves.Refused("trial_running"))
    assert (state.update.phase, kinds(actions)) == ("staged", [moves.Retry])
    state, actions = step(state, moves.RetryDue())
    assert actions == (moves.Verify(OLD.slot),)


@pytest.mark.parametrize("reason", ["no_such_slot", "malformed", "reverted", "no_previous"])
def test_a_swap_that_is_refused_for_good_fails(reason: str) -> None:
    state, _ = through(FRESH, *SWAPPING, moves.Refused(reason))
    assert (state.update.phase, state.update.reason) == ("failed", "update.refused")
    assert reason in state.update.detail


class TestOrder:
    """A thief of the director's key may have signed the highest sequence there is."""

    HIGHEST = moves.Checked(2**53 - 1, 1, NEW, "stolen")

    def test_it_begins_anew_with_keys_that_replaced_all_others(self) -> None:
        state, _ = through(FRESH, moves.Assigned("thief's"), self.HIGHEST)
        state, _ = through(state, moves.Assigned("owner's"), moves.Checked(20, 1, OLD, "new"))
        assert (state.sequence, state.director, state.accepted) == (20, "new", "owner's")

    @pytest.mark.parametrize("keys", ["stolen", "new stolen", ""])
    def test_it_binds_while_one_of_the_keys_is_still_good_or_nobody_knows_them(self, keys: str) -> None:
        state, _ = through(FRESH, moves.Assigned("thief's"), self.HIGHEST)
        state, actions = through(state, moves.Assigned("replayed"), moves.Checked(20, 1, OLD, keys))
        assert (state.sequence, state.director, state.accepted) == (2**53 - 1, "stolen", "thief's")
        assert "update.stale" in [action.code for action in actions if isinstance(action, moves.Tell)]


def test_a_floor_binds_its_own_product_alone_and_never_sinks() -> None:
    lower, other = NEW._replace(floor=3), NEW._replace(product="camera", floor=2)
    state = commit_floor(commit_floor(commit_floor(State(), NEW), lower), other)
    assert state.floors == (("camera", 2), ("gateway", 7))
