"""The table of update.py is whole; that it is true is held at each step of test_update_properties.py."""

from beamfleet_agent import moves
from beamfleet_agent.update_state import PHASES

from tests.agent import update_table


def test_the_table_tells_every_event_in_every_phase() -> None:
    events = {kind.__name__ for kind in moves.Event.__args__}
    assert set(update_table.TABLE) == {(event, phase) for event in events for phase in PHASES}
    for after, _ in update_table.TABLE.values():
        assert after <= set(PHASES)
