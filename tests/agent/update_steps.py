"""Two releases and the events of an update from one to the other, for tests of the update state machine."""

from beamfleet_agent import moves
from beamfleet_agent.update import step
from beamfleet_agent.update_state import Ground, Release, State

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
