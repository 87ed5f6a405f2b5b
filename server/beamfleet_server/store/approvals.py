"""Owns rollouts that need two people: what one asked for, until another one approves or rejects it, or its time is
over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.store.advancing import Advancing
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.selecting import conditions, population
from beamfleet_server.store.tables import approvals, rollouts

PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"
LIFE_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Approval:
    """A rollout that was asked for: its plan as JSON; `devices`: how many matched then. Times in Unix seconds."""

    id: int
    plan: Mapping[str, Any]
    devices: int
    asked_by: str
    created: int
    expires: int
    state: str
    decided_by: str
    decided: int | None
    rollout_id: int | None


class Approvals:
    """What waits for a second operator."""

    def __init__(self, database: Database, advancing: Advancing) -> None:
        self._database = database
        self._advancing = advancing

    def needed(self, plan: Plan, key: str | None, above: int) -> bool:
        """True if the plan means more than `above` devices (0: never) and no rollout has this key yet."""
        if not above:
            return False

        def query(connection: Connection) -> bool:
            known = select(rollouts.c.id).where(rollouts.c.key == key)
            if key is not None and connection.scalar(known) is not None:
                return False
            return _count(connection, plan) > above

        return self._database.read(query)

    def ask(self, plan: Plan, key: str | None, by: str, now: int) -> int:
        """Keep the wish, once for its key; its number."""

        def change(connection: Connection) -> int:
            if key is not None:
                held = connection.scalar(select(approvals.c.id).where(approvals.c.key == key))
                if held is not None:
                    return int(held)
            row = {
                "plan": plan.as_dict(),
                "key": key,
                "devices": _count(connection, plan),
                "asked_by": by,
                "created": now,
                "expires": now + LIFE_S,
                "state": PENDING,
            }
            return inserted_id(connection.execute(insert(approvals).values(row)))

        return self._database.write(change)

    def approve(self, number: int, by: str, now: int) -> int:
        """Start what was asked for; the rollout's number. Errors `approval.*`, and those of starting a rollout."""

        def change(connection: Connection) -> int:
            row = _pending(connection, number, now)
            if row.asked_by == by:
                hint = f"another operator: beamfleet approval accept {number}"
                raise ServerError("approval.own", "nobody approves what they asked for themselves", hint)
            rollout, _ = self._advancing.begin(connection, Plan.parse(row.plan), row.asked_by, row.key, now)
            decided = {"state": APPROVED, "decided_by": by, "decided": now, "rollout_id": rollout}
            connection.execute(update(approvals).where(approvals.c.id == number).values(decided))
            return rollout

        return self._database.write(change)

    def reject(self, number: int, by: str, now: int) -> Approval:
        """End it without a rollout; the one who asked may do that, too. Errors `approval.*`."""

        def change(connection: Connection) -> Approval:
            _pending(connection, number, now)
            decided = {"state": REJECTED, "decided_by": by, "decided": now}
            connection.execute(update(approvals).where(approvals.c.id == number).values(decided))
            return _read(connection.execute(select(approvals).where(approvals.c.id == number)).one())

        return self._database.write(change)

    def page(self, before: int | None, limit: int) -> list[Approval]:
        """The newest, newest first, with a number below `before`."""
        query = select(approvals).order_by(approvals.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(approvals.c.id < before)
        return self._database.read(lambda connection: [_read(row) for row in connection.execute(query)])


def _pending(connection: Connection, number: int, now: int) -> Row[Any]:
    row = connection.execute(select(approvals).where(approvals.c.id == number)).one_or_none()
    if row is None:
        hint = "see: beamfleet approval list"
        raise ServerError("approval.unknown", f"nothing with the number {number} waits for approval", hint)
    if row.state != PENDING or row.expires <= now:
        state = row.state if row.state != PENDING else "expired"
        raise ServerError("approval.decided", f"{number} is {state} already", "see: beamfleet approval list")
    return row


def _count(connection: Connection, plan: Plan) -> int:
    meant = select(func.count()).select_from(population()).where(*conditions(connection, plan))
    return connection.scalar(meant) or 0


def _read(row: Row[Any]) -> Approval:
    return Approval(*(getattr(row, name) for name in Approval.__dataclass_fields__))
