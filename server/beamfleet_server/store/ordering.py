"""Owns carrying out what `fleet.decision` orders: members change, assignments are signed for exactly these, and events
say what happened.

Every function works inside a change of `advancing`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select, update

from beamfleet_server.fleet import decision
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import HELD, NOT_SWAPPED, Progress, State
from beamfleet_server.store import quarantine
from beamfleet_server.store.assignments import Sign, Task, assign
from beamfleet_server.store.bundles import by_id, of_release
from beamfleet_server.store.counting import Gate, bounded, waiting
from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import MAIN, TOUCHED
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import applications, assignments, bundles, devices, rollout_devices, rollouts

MEMBERS = rollout_devices.c


class Ordering:
    """Carries out orders for one rollout in one change; `close` signs and tells what has come together."""

    def __init__(
        self, database: Database, connection: Connection, sign: Sign, row: Row[Any], plan: Plan, now: int
    ) -> None:
        self._database = database
        self._connection = connection
        self._sign = sign
        self._row = row
        self._plan = plan
        self._through = Gate(plan)
        self._now = now
        self._tasks: list[Task] = []
        self._events: list[NewEvent] = []
        self._changed: dict[str, Any] = {}
        self.more = False
        """Whether a batch was full."""

    def carry_out(self, orders: Iterable[decision.Order], row: Row[Any], through: Gate) -> None:
        """Apply the orders, in this order; `row`: the rollout as it is now."""
        self._row, self._through = row, through
        offered = 0
        for order in orders:
            match order:
                case decision.Retry(limit):
                    offered += self._retry(limit)
                case decision.Offer(limit, phase):
                    offered += self._offer(limit, phase)
                case decision.Hold(limit, why):
                    self.more |= self._hold(limit, why) >= decision.BATCH
                case decision.Drop(why):
                    self._drop(why)
                case decision.Prove():
                    self._changed["proved_since"] = self._now
                    self._database.touch(TOUCHED)
                case decision.Unprove():
                    self._changed["proved_since"] = None
                case decision.AskGate():
                    self._changed["gate"] = "waiting"
                    self._tell("gate", f"phase {self._phase_name()} is proven; the next one waits for approval")
                case decision.Enter(phase):
                    self._changed |= {"phase": phase, "phase_since": self._now, "proved_since": None, "gate": ""}
                    self._tell("entered", self._phase_name())
                case decision.Halt(reason, _):
                    self._halt(reason)
                case decision.Reopen():
                    self._changed |= {"state": Progress.RUNNING, "finished": None, "reason": ""}
                    self._tell("reopened", "")
                case decision.Finish(progress, reason):
                    self._changed |= {"state": progress, "reason": reason, "finished": self._now}
                    self._tell(str(progress), reason)
                case _:
                    assert_never(order)
        self.more |= offered >= decision.BATCH
        if self._changed:
            change = update(rollouts).where(rollouts.c.id == self._row.id)
            self._connection.execute(change.values(self._changed))
            self._changed = {}

    def withdraw(self, device_attempts: Iterable[Row[Any]]) -> None:
        """Sign an assignment with no target for these (device_id, attempt)."""
        self._tasks += (Task(row.device_id, None, row.attempt, self._row.id) for row in device_attempts)

    def close(self) -> None:
        """Sign, and tell."""
        assign(self._database, self._connection, self._tasks, self._sign, self._now)
        append(self._database, self._connection, self._events)

    def _tell(self, cause: str, detail: str) -> None:
        self._events.append(NewEvent(self._now, "rollout", cause, detail, rollout_id=self._row.id))

    def _phase_name(self) -> str:
        index: int = self._changed.get("phase", self._row.phase)
        return self._plan.phases[index].name

    def _retry(self, limit: int) -> int:
        return self._give(waiting(self._row.id, self._through, self._now, placed=True), (MEMBERS.phase,), limit, {})

    def _offer(self, limit: int, phase: int) -> int:
        ready = waiting(self._row.id, self._through, self._now, placed=False)
        place = {"phase": phase}
        first = self._give([*ready, devices.c.online], (), limit, place)
        return first + (self._give(ready, (), limit - first, place) if first < limit else 0)

    def _give(
        self,
        ready: Sequence[ColumnElement[bool]],
        order: Sequence[ColumnElement[Any]],
        limit: int,
        more: dict[str, Any],
    ) -> int:
        """Offer at most `limit` of those that are ready what they shall run: by `order`, the draw, the name."""
        chosen = bounded(select(MEMBERS.device_id)).where(*ready).order_by(*order, MEMBERS.draw, devices.c.name)
        runs = (
            select(bundles.c.id)
            .join_from(applications, bundles, bundles.c.manifest == applications.c.manifest)
            .where(applications.c.device_id == MEMBERS.device_id, applications.c.app == MAIN)
            .correlate(rollout_devices)
            .scalar_subquery()
        )
        given = {
            "state": State.OFFERED,
            "reason": "",
            "detail": "",
            "next_try": None,
            "offered_at": self._now,
            "deadline": self._now + self._plan.deadline,
            "updated": self._now,
        }
        change = (
            update(rollout_devices)
            .where(MEMBERS.rollout_id == self._row.id, MEMBERS.device_id.in_(_limited(chosen, limit)))
            .values(**given, **more, before_id=func.coalesce(MEMBERS.before_id, runs))
            .returning(MEMBERS.device_id, MEMBERS.bundle_id, MEMBERS.attempt)
        )
        rows = self._connection.execute(change).all()
        self._tasks += (Task(row.device_id, row.bundle_id, row.attempt, self._row.id, self._plan.force) for row in rows)
        return len(rows)

    def _hold(self, limit: int, why: str) -> int:
        chosen = select(MEMBERS.device_id).where(MEMBERS.rollout_id == self._row.id, MEMBERS.state.in_(NOT_SWAPPED))
        if why == "window":
            chosen = bounded(chosen).where(self._through.shut())
        elif why == "network":
            open_ = [~self._through.shut()] if self._through.closed else []
            chosen = bounded(chosen).where(self._through.barred(), *open_)
        change = (
            update(rollout_devices)
            .where(MEMBERS.rollout_id == self._row.id, MEMBERS.device_id.in_(_limited(chosen, limit)))
            .values(state=State.PENDING, reason=HELD, detail=why, deadline=None, next_try=None, updated=self._now)
            .returning(MEMBERS.device_id, MEMBERS.attempt)
        )
        rows = self._connection.execute(change).all()
        self.withdraw(rows)
        return len(rows)

    def _drop(self, why: str) -> None:
        pending = (MEMBERS.rollout_id == self._row.id, MEMBERS.state == State.PENDING)
        dropped = {"state": State.SKIPPED, "reason": why, "detail": "", "next_try": None, "updated": self._now}
        self._connection.execute(update(rollout_devices).where(*pending).values(dropped))

    def _halt(self, reason: str) -> None:
        bad = (MEMBERS.rollout_id == self._row.id, MEMBERS.evidence, MEMBERS.state.in_((State.REVERTED, State.FAILED)))
        example = (
            select(devices.c.name, MEMBERS.state, MEMBERS.reason, MEMBERS.detail)
            .join_from(rollout_devices, devices)
            .where(*bad)
            .order_by(devices.c.name)
            .limit(1)
        )
        first = self._connection.execute(example).first()
        if first is not None:
            why = ": ".join(filter(None, (first.reason, first.detail))) or "no reason given"
            reason = f"{reason}: {first.name} {first.state}: {why}"
        self._changed |= {"state": Progress.HALTED, "reason": reason, "proved_since": None}
        self._tell("halted", reason)
        failed = select(MEMBERS.bundle_id).where(MEMBERS.bundle_id.is_not(None), *bad).distinct()
        held = by_id(self._connection, set(self._connection.scalars(failed)))
        if self._row.kind == "update":
            held += of_release(self._connection, self._plan.product, self._plan.version)
        put = quarantine.put(self._connection, held, self._row.id, reason, self._now)
        if put:
            named = dict.fromkeys(f"{bundle.product} {bundle.version}" for bundle in put)
            self._tell("quarantined", ", ".join(named))


def release_superseded(database: Database, connection: Connection, sign: Sign, rollout_id: int, now: int) -> bool:
    """Withdraw the orders of members that another rollout has taken over, as far as that has not given them its own;
    whether a batch was full."""
    at_hand = (MEMBERS.rollout_id == rollout_id, MEMBERS.withdrawal)
    query = (
        select(MEMBERS.device_id, MEMBERS.attempt, assignments.c.rollout_id, assignments.c.bundle_id)
        .join_from(
            rollout_devices,
            assignments,
            and_(assignments.c.device_id == MEMBERS.device_id, assignments.c.app == MAIN),
            isouter=True,
        )
        .where(*at_hand)
        .limit(decision.BATCH)
    )
    rows = connection.execute(query).all()
    if rows:
        mine = [row for row in rows if row.bundle_id is not None and row.rollout_id in (rollout_id, None)]
        tasks = [Task(row.device_id, None, row.attempt, rollout_id) for row in mine]
        assign(database, connection, tasks, sign, now)
        taken = [row.device_id for row in rows]
        connection.execute(
            update(rollout_devices).where(*at_hand, MEMBERS.device_id.in_(taken)).values(withdrawal=False)
        )
    return len(rows) >= decision.BATCH


def _limited(chosen: Any, limit: int) -> Any:
    return chosen.limit(limit).scalar_subquery()
