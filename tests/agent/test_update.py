"""The update state machine, row by row: what each event leads to, and what a restart in each phase leads to."""

import pytest
from beamfleet_agent import moves
from beamfleet_agent.course import MAX_PUT_OFF, retry_after
from beamfleet_agent.journal import Ledger, decode, encode
from beamfleet_agent.update import step
from beamfleet_agent.update_state import Ground, Release, State, Update

OLD = Release("a" * 64, "gateway", "1.0.0", ("kernel", "gateway"))
NEW = Release("b" * 64, "gateway", "1.1.0", ("kernel", "gateway"), floor=7)
OLD_RUNS = Ground(OLD.slot, "", "committed", 1, "update")
NEW_ON_TRIAL = Ground(NEW.slot, OLD.slot, "trial", 1, "update")
FRESH = State(ground=OLD_RUNS, releases=(OLD,))
SLOTS = frozenset({OLD.slot, NEW.slot})


def through(state: State, *events: moves.Event) -> tuple[State, tuple[moves.Action, ...]]:
    """The state after these events, and the actions of the last."""
    actions: tuple[moves.Action, ...] = ()
    for event in events:
        state, actions = step(state, event)
    return state, actions


def kinds(actions: tuple[moves.Action, ...]) -> list[type]:
    return [type(action) for action in actions]


MAY_FETCH = moves.Hooked("pre-download", NEW.slot, 1, 0)
MAY_SWAP = moves.Hooked("pre-swap", NEW.slot, 1, 0)
ASSIGNED = (moves.Assigned("new"), moves.Checked(10, 1, NEW), MAY_FETCH)
STAGED = (*ASSIGNED, moves.Verified(NEW), moves.Staged(NEW))
SWAPPING = (*STAGED, moves.Sound(OLD), MAY_SWAP)
TRIAL = (*SWAPPING, moves.BootChanged(NEW_ON_TRIAL))


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
    assert (state.update.phase, actions, state.sequence, state.floor) == ("committed", (), 10, 7)


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


@pytest.mark.parametrize("reason", ["no_such_slot", "malformed", "reverted", "no_previous"])
def test_a_swap_that_is_refused_for_good_fails(reason: str) -> None:
    state, _ = through(FRESH, *SWAPPING, moves.Refused(reason))
    assert (state.update.phase, state.update.reason) == ("failed", "update.refused")
    assert reason in state.update.detail


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
