"""Owns rollouts: what was asked for, and who is where. Reading; `advancing` has the changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.rollout import State
from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.tables import applications, bundles, devices, rollout_devices, rollouts


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """A rollout as it is kept, with the number of its members by state."""

    id: int
    product: str
    version: str
    selector: str
    canary: int
    note: str
    state: str
    phase: str
    reason: str
    created: int
    finished: int | None
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A device in a rollout; `progress` as it came, if it is about this rollout's manifest; `updated` in Unix
    seconds."""

    device: str
    state: str
    canary: bool
    reason: str
    updated: int
    progress: Mapping[str, Any] | None


class Rollouts:
    """The rollouts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, rollout_id: int) -> RolloutFacts:
        """The rollout of this number; error `rollout.unknown`."""
        found = self._database.read(
            lambda connection: _read(connection, _rollouts().where(rollouts.c.id == rollout_id))
        )
        if not found:
            raise unknown(rollout_id)
        return found[0]

    def page(self, before: int | None, limit: int) -> list[RolloutFacts]:
        """At most `limit` rollouts, newest first, with an id below `before`."""
        query = _rollouts().order_by(rollouts.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(rollouts.c.id < before)
        return self._database.read(lambda connection: _read(connection, query))

    def members(self, rollout_id: int) -> list[MemberFacts]:
        """The members of a rollout by name."""
        query = (
            select(
                devices.c.name,
                rollout_devices.c.state,
                rollout_devices.c.canary,
                rollout_devices.c.reason,
                rollout_devices.c.updated,
                bundles.c.manifest,
                applications.c.progress,
            )
            .join_from(rollout_devices, devices)
            .join(applications, and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN))
            .join(bundles, bundles.c.id == rollout_devices.c.bundle_id, isouter=True)
            .where(rollout_devices.c.rollout_id == rollout_id)
            .order_by(devices.c.name)
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [
            MemberFacts(
                row.name,
                _told(row.state),
                row.canary,
                row.reason,
                row.updated,
                row.progress if row.progress and row.progress["manifest"] == row.manifest else None,
            )
            for row in rows
        ]


def unknown(rollout_id: int) -> ServerError:
    """The error for a rollout that is not there."""
    return ServerError("rollout.unknown", f"there is no rollout {rollout_id}", "see: beamfleet rollout history")


def _told(state: str) -> str:
    """Superseded members are told as skipped, with the reason."""
    return State.SKIPPED if state == State.SUPERSEDED else state


def _rollouts() -> Select[Any]:
    return select(*(column for column in rollouts.c if column is not rollouts.c.key))


def _read(connection: Connection, query: Select[Any]) -> list[RolloutFacts]:
    rows = connection.execute(query).mappings().all()
    counts = {
        row["id"]: dict.fromkeys((str(state) for state in State if state is not State.SUPERSEDED), 0) for row in rows
    }
    grouped = (
        select(rollout_devices.c.rollout_id, rollout_devices.c.state, func.count())
        .where(rollout_devices.c.rollout_id.in_(list(counts)))
        .group_by(rollout_devices.c.rollout_id, rollout_devices.c.state)
    )
    for rollout_id, state, number in connection.execute(grouped):
        counts[rollout_id][_told(state)] += number
    return [RolloutFacts(**row, counts=counts[row["id"]]) for row in rows]
