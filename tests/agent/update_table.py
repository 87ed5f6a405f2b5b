"""The table of update.py, as its docstring has it: what each event may lead to in each phase."""

import re

from beamfleet_agent import moves, update
from beamfleet_agent.update_state import FINAL, PENDING, PHASES, SWAPPED, State

GROUPS = {"final": FINAL, "pending": PENDING, "swapped": SWAPPED, "any": frozenset(PHASES)}


def read() -> dict[tuple[str, str], tuple[set[str], set[str]]]:
    """(event, phase before) -> (phases after, actions that may be given), from the docstring of update.py."""
    rows = re.findall(
        r"^\| ([A-Z]\w+) +\| ([a-z ]+?) +\| ([a-z= ]+?) +\| ([A-Za-z -]+?) +\|$", str(update.__doc__), re.MULTILINE
    )
    told: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for event, before, after, actions in rows:
        for phase in [phase for word in before.split() for phase in GROUPS.get(word, {word})]:
            assert (event, phase) not in told, f"{event} in {phase} is told twice"
            told[event, phase] = {phase if word == "=" else word for word in after.split()}, set(actions.split())
    return told


TABLE = read()


def check(before: State, event: moves.Event, after: State, actions: tuple[moves.Action, ...]) -> None:
    """Hold one step to the table."""
    kind, phase = type(event).__name__, before.update.phase
    phases, may = TABLE[kind, phase]
    assert after.update.phase in phases, f"{kind} in {phase} led to {after.update.phase}"
    given = {type(action).__name__ for action in actions}
    assert given <= may, f"{kind} in {phase} gave {given - may}"
