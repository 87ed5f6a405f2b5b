"""The update state machine between what is ordered from far away and what a person chooses at the device."""

import pytest
from beamfleet_agent import moves
from beamfleet_agent.journal import Ledger, decode, encode
from beamfleet_agent.update import step
from beamfleet_agent.update_state import Ground, Release, State

from tests.agent.update_steps import ASSIGNED, FRESH, NEW, OLD, OLD_RUNS, STAGED, TRIAL, kinds, through

STICK = Release("c" * 64, "gateway", "1.2.0", ("kernel", "gateway"))
NEW_RUNS = Ground(NEW.slot, OLD.slot, "committed", 1, "update")
STICK_RUNS = Ground(STICK.slot, NEW.slot, "committed", 1, "update")
ALL = frozenset({OLD.slot, NEW.slot, STICK.slot})
CARRIED_OUT = (*TRIAL, moves.BootChanged(NEW_RUNS))


def from_a_file(release: Release, ground: Ground) -> tuple[moves.Event, ...]:
    """What happens when a person installs this release over that ground."""
    trial = Ground(release.slot, ground.slot, "trial", 1, "update")
    return (
        moves.Install("/stick"), moves.Checked(0, 0, release), moves.Hooked("pre-download", release.slot, 1, 0),
        moves.Staged(release), moves.Sound(NEW if ground.slot == NEW.slot else OLD),
        moves.Hooked("pre-swap", release.slot, 1, 0), moves.BootChanged(trial),
        moves.BootChanged(trial._replace(phase="committed")),
    )  # fmt: skip


def restarted(state: State) -> State:
    remembered = decode(encode(state, Ledger()))
    assert remembered is not None
    return step(remembered[0], moves.Started(state.ground, ALL))[0]


class TestAStickAgainstTheRetainedOrder:
    """The broker keeps the newest order and gives it again at each session; the server signs it again now and then."""

    def chosen(self) -> State:
        state, _ = through(FRESH, *CARRIED_OUT, *from_a_file(STICK, NEW_RUNS))
        assert (state.update.phase, state.update.origin, state.ground.slot) == ("committed", "file", STICK.slot)
        return state

    @pytest.mark.parametrize("restart", [False, True])
    def test_the_same_order_is_not_even_looked_at(self, restart: bool) -> None:
        state = restarted(self.chosen()) if restart else self.chosen()
        assert step(state, moves.Assigned("new")) == (state, ())

    @pytest.mark.parametrize("restart", [False, True])
    def test_an_order_that_was_carried_out_is_not_carried_out_again_when_it_is_signed_again(
        self, restart: bool
    ) -> None:
        state = restarted(self.chosen()) if restart else self.chosen()
        state, actions = through(state, moves.Assigned("newer"), moves.Checked(11, 1, NEW))
        assert (actions, state.sequence, state.accepted) == ((moves.Cancel(),), 11, "newer")
        assert (state.update.phase, state.update.origin, state.update.slot) == ("committed", "file", STICK.slot)
        assert restarted(state).update == state.update

    def test_neither_is_one_after_a_person_went_back(self) -> None:
        back = Ground(OLD.slot, NEW.slot, "trial", 0, "rollback")
        state, _ = through(
            FRESH, *CARRIED_OUT, moves.Rollback(), moves.Sound(OLD), moves.Hooked("pre-swap", OLD.slot, 0, 0),
            moves.BootChanged(back), moves.BootChanged(back._replace(phase="committed")),
            moves.Assigned("newer"), moves.Checked(11, 1, NEW),
        )  # fmt: skip
        assert (state.update.phase, state.update.origin, state.job) == ("committed", "rollback", "")

    def test_a_new_attempt_of_it_is_a_new_order(self) -> None:
        state, actions = through(self.chosen(), moves.Assigned("newer"), moves.Checked(11, 2, NEW))
        assert actions == (moves.Hook("pre-download", NEW.slot, 2),)
        assert state.update.origin == "assignment"

    def test_another_release_is_a_new_order_and_after_it_the_first_may_come_again(self) -> None:
        state, actions = through(self.chosen(), moves.Assigned("other"), moves.Checked(11, 1, OLD))
        assert kinds(actions) == [moves.Hook]
        ground = Ground(OLD.slot, STICK.slot, "committed", 1, "update")
        state, _ = through(
            state, moves.Hooked("pre-download", OLD.slot, 1, 0), moves.Verified(OLD), moves.Staged(OLD),
            moves.Sound(STICK), moves.Hooked("pre-swap", OLD.slot, 1, 0),
            moves.BootChanged(ground._replace(phase="trial")), moves.BootChanged(ground),
        )  # fmt: skip
        _, actions = through(state, moves.Assigned("newest"), moves.Checked(12, 1, NEW))
        assert kinds(actions) == [moves.Hook]

    def test_an_order_that_was_not_carried_out_is_still_owed(self) -> None:
        state, _ = through(FRESH, *ASSIGNED, *from_a_file(STICK, OLD_RUNS))
        assert state.ground.slot == STICK.slot
        assert step(state, moves.Assigned("new")) == (state, ())
        _, actions = through(state, moves.Assigned("newer"), moves.Checked(11, 1, NEW))
        assert kinds(actions) == [moves.Hook]

    def test_it_takes_the_place_of_another_that_has_not_swapped(self) -> None:
        state, _ = through(self.chosen(), moves.Assigned("other"), moves.Checked(11, 1, OLD))
        state, actions = through(state, moves.Assigned("newest"), moves.Checked(12, 1, NEW))
        assert (state.update.phase, state.update.reason, actions) == ("idle", "update.done", (moves.Cancel(),))


class TestALowerSchemaThatIsAssigned:
    """An order goes to a release that may not understand the data only when it is forced."""

    HERE = OLD._replace(data_schema=2)
    RUNS = FRESH._replace(releases=(HERE,))

    @pytest.mark.parametrize("schema", [1, 0, -1])
    def test_it_is_refused_before_anything_is_fetched_if_it_is_known(self, schema: int) -> None:
        state = self.RUNS._replace(releases=(self.HERE, NEW._replace(data_schema=schema)))
        state, actions = through(state, *ASSIGNED[:2])
        assert (state.update.phase, state.update.reason, actions) == (
            "failed", "update.lower_schema", (moves.Cancel(),),
        )  # fmt: skip
        assert "the running 1.0.0 has 2" in state.update.detail

    @pytest.mark.parametrize("schema", [1, 0, -1])
    def test_it_is_refused_before_the_swap_if_it_is_known_only_then(self, schema: int) -> None:
        lower = NEW._replace(data_schema=schema)
        state, actions = through(self.RUNS, *ASSIGNED, moves.Verified(lower), moves.Staged(lower))
        assert actions == (moves.Verify(OLD.slot),)
        state, actions = step(state, moves.Sound(self.HERE))
        assert (state.update.phase, state.update.reason, actions) == ("failed", "update.lower_schema", ())

    def test_it_spends_nothing_and_goes_when_it_is_forced_in_the_same_attempt(self) -> None:
        lower = NEW._replace(data_schema=1)
        state, _ = through(self.RUNS, *ASSIGNED, moves.Verified(lower), moves.Staged(lower), moves.Sound(self.HERE))
        assert state.spent == ()
        state, actions = through(
            state, moves.Assigned("forced"), moves.Checked(11, 1, NEW, forced=True),
            moves.Hooked("pre-download", NEW.slot, 1, 0), moves.Staged(lower), moves.Sound(self.HERE),
        )  # fmt: skip
        assert actions == (moves.Hook("pre-swap", NEW.slot, 1),)

    @pytest.mark.parametrize(("here", "there"), [(2, 2), (2, 3), (-1, -1), (-1, 4)])
    def test_the_same_and_a_higher_one_go(self, here: int, there: int) -> None:
        runs, wanted = OLD._replace(data_schema=here), NEW._replace(data_schema=there)
        _, actions = through(
            FRESH._replace(releases=(runs,)), *ASSIGNED, moves.Verified(wanted), moves.Staged(wanted), moves.Sound(runs)
        )
        assert kinds(actions) == [moves.Hook]

    def test_a_person_with_a_file_is_not_asked(self) -> None:
        lower = STICK._replace(data_schema=1)
        state, _ = through(self.RUNS, *from_a_file(lower, OLD_RUNS)[:4], moves.Sound(self.HERE))
        assert state.job == "pre-swap"

    def test_a_restart_asks_again(self) -> None:
        lower = NEW._replace(data_schema=1)
        state, _ = through(self.RUNS, *ASSIGNED, moves.Verified(lower), moves.Staged(lower))
        state, _ = step(restarted(state), moves.Sound(self.HERE))
        assert (state.update.phase, state.update.reason) == ("failed", "update.lower_schema")


def test_what_is_staged_from_older_steps_is_as_it_was() -> None:
    state, actions = through(FRESH, *STAGED, moves.Sound(OLD))
    assert (state.update.forced, kinds(actions)) == (False, [moves.Hook])
