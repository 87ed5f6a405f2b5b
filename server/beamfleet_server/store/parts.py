"""Owns reading what traces tell of: rollouts that have ended, and the parts that devices have in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select

from beamfleet_server.fleet.states import DEADLINE, State
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import devices, rollout_devices, rollouts

NEWEST = 5
"""A device tells of one of its newest rollouts."""
MEMBERS = rollout_devices.c


@dataclass(frozen=True, slots=True)
class Part:
    """A device's part in a rollout; times in Unix seconds."""

    rollout: int
    product: str
    version: str
    device: str
    attempt: int
    state: str
    reason: str
    offered_at: int
    updated: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A rollout that has ended; its members by state."""

    id: int
    product: str
    version: str
    state: str
    reason: str
    created: int
    finished: int
    members: Mapping[str, int]


class Parts:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, device: str) -> list[Part]:
        """The device's parts in its newest rollouts, newest first."""
        return self._read(_parts().where(devices.c.name == device).order_by(MEMBERS.rollout_id.desc()).limit(NEWEST))

    def silent(self, rollout: int, limit: int) -> list[Part]:
        """At most `limit` of those that were told something and never told how it ended."""
        lost = (MEMBERS.rollout_id == rollout, MEMBERS.state == State.FAILED, MEMBERS.reason == DEADLINE)
        return self._read(_parts().where(*lost).order_by(devices.c.name).limit(limit))

    def whole(self, rollout: int) -> Whole | None:
        """The rollout, if it has ended."""
        row = rollouts.c
        query = select(row.id, row.product, row.version, row.state, row.reason, row.created, row.finished)
        states = select(MEMBERS.state, func.count()).where(MEMBERS.rollout_id == rollout).group_by(MEMBERS.state)

        def read(connection: Any) -> Whole | None:
            found = connection.execute(query.where(row.id == rollout, row.finished.is_not(None))).first()
            if found is None:
                return None
            members = {state: number for state, number in connection.execute(states)}  # noqa: C416 (rows are no pairs)
            return Whole(
                id=found.id,
                product=found.product,
                version=found.version,
                state=found.state,
                reason=found.reason,
                created=found.created,
                finished=found.finished,
                members=members,
            )

        return self._database.read(read)

    def _read(self, query: Select[Any]) -> list[Part]:
        return self._database.read(lambda connection: [Part(*row) for row in connection.execute(query)])


def _parts() -> Select[Any]:
    return (
        select(
            MEMBERS.rollout_id,
            rollouts.c.product,
            rollouts.c.version,
            devices.c.name,
            MEMBERS.attempt,
            MEMBERS.state,
            MEMBERS.reason,
            MEMBERS.offered_at,
            MEMBERS.updated,
        )
        .join_from(rollout_devices, rollouts, rollouts.c.id == MEMBERS.rollout_id)
        .join(devices, devices.c.id == MEMBERS.device_id)
        .where(MEMBERS.offered_at.is_not(None))
    )
