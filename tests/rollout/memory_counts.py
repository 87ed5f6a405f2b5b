"""Counts the rows of the reference, one after the other."""

from collections.abc import Mapping
from typing import Protocol

from beamfleet_server.fleet.decision import Counts, Tally
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import NOT_SWAPPED, State

from tests.rollout.memory_rows import Device, Kept, Row

IN_FLIGHT, NOT_YET, COMMITTED, BAD, LOST, RETRYING = range(6)
"""Where a `Tally` has what."""


class Readiness(Protocol):
    """Who knows devices, and whom something may be offered now."""

    @property
    def devices(self) -> Mapping[str, Device]:
        """By name."""

    def ready(self, kept: Kept, row: Row, now: int) -> bool:
        """Whether a pending member may be offered what it shall run."""

    def open(self, plan: Plan, zone: str, now: int) -> bool:
        """Whether a window is open in this zone."""


def counted(world: Readiness, kept: Kept, now: int) -> Counts:
    """The members of a rollout in numbers."""
    phases = [[0] * 6 for _ in kept.plan.phases]
    loose = [0] * 6
    numbers = dict.fromkeys(("pending", "pending_ready", "retry_ready", "skipped", "superseded", "closed", "barred"), 0)
    for row in kept.rows.values():
        member = row.member
        tally = loose if member.phase is None else phases[member.phase]
        match member.state:
            case State.SKIPPED | State.SUPERSEDED:
                numbers[str(member.state)] += 1
            case State.PENDING if member.phase is None:
                numbers["pending"] += 1
                numbers["pending_ready"] += world.ready(kept, row, now)
            case State.PENDING:
                tally[RETRYING] += 1
                numbers["retry_ready"] += world.ready(kept, row, now)
            case State.COMMITTED:
                tally[COMMITTED] += 1
            case State.REVERTED | State.FAILED:
                tally[BAD if member.evidence else LOST] += 1
            case _:
                tally[IN_FLIGHT] += 1
                if member.state in NOT_SWAPPED:
                    tally[NOT_YET] += 1
                    device = world.devices[row.device]
                    shut = not world.open(kept.plan, device.zone, now)
                    numbers["closed"] += shut
                    numbers["barred"] += not shut and device.network not in kept.plan.network
    return Counts(len(kept.rows), tuple(Tally(*tally) for tally in phases), Tally(*loose), **numbers)
