"""The table of update.py, as its docstring has it: what each event may lead to in each phase."""

import re

from beamfleet_agent import update
from beamfleet_agent.update_state import FINAL, PENDING, PHASES, SWAPPED

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
