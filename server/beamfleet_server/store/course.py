"""Owns one step of a rollout: what its devices said is taken in, its members are counted, the rules are asked, and what
they order is carried out.

Every function works inside a change of `advancing`."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, or_, select

from beamfleet_server.fleet import decision
from beamfleet_server.fleet.decision import BATCH
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import FINAL, IN_FLIGHT, JOINABLE, OWNING, Progress, State
from beamfleet_server.fleet.window import next_change
from beamfleet_server.store import joining, observing
from beamfleet_server.store.assignments import Sign
from beamfleet_server.store.counting import count, gate, zones_of
from beamfleet_server.store.database import Database, pieces
from beamfleet_server.store.ordering import Ordering, release_superseded
from beamfleet_server.store.rollouts import unknown
from beamfleet_server.store.selecting import these
from beamfleet_server.store.tables import rollout_devices, rollouts

MEMBERS = rollout_devices.c
AT_REST = (decision.Retry, decision.Offer, decision.Prove, decision.AskGate)
"""After these alone there is nothing to ask before something else happens."""
CHUNK = 5000
"""Devices that one statement names."""
TOUCHED = "rollouts.batch"
"""What `touch` is told when a further batch waits."""
GOING = tuple(state for state in State if state not in FINAL)


class Course:
    """Steps of rollouts. It remembers only which of them wait for a further batch, and plans that were read."""

    def __init__(self, database: Database, sign: Sign) -> None:
        self._database = database
        self._sign = sign
        self._plans: dict[int, tuple[Mapping[str, Any], Plan]] = {}
        self.unfinished: set[int] = set()
        """Rollouts of which a further batch waits."""

    def row(self, connection: Connection, rollout_id: int) -> Row[Any]:
        """The rollout's row; error `rollout.unknown`."""
        row = connection.execute(select(rollouts).where(rollouts.c.id == rollout_id)).one_or_none()
        if row is None:
            raise unknown(rollout_id)
        return row

    def plan(self, row: Row[Any]) -> Plan:
        """The rollout's plan, which never changes."""
        given, plan = self._plans.get(row.id, (None, None))
        if plan is None or given != row.plan:  # a number comes again after a transaction that was rolled back
            plan = Plan.parse(row.plan)
            self._plans[row.id] = (row.plan, plan)
        return plan

    def heard(self, connection: Connection, device_ids: Sequence[int], now: int) -> None:
        """These devices have new states: take them in, and advance the rollouts that they are told of, or that go on
        without them."""
        going_on = rollouts.c.state.in_((Progress.RUNNING, Progress.PAUSED))
        query = (
            select(MEMBERS.rollout_id)
            .join_from(rollout_devices, rollouts, rollouts.c.id == MEMBERS.rollout_id)
            .where(MEMBERS.device_id.in_(these(device_ids)), or_(MEMBERS.heard, going_on))
            .distinct()
        )
        for rollout_id in sorted(connection.scalars(query)):
            self.advance(connection, rollout_id, now, heard=device_ids)

    def take(self, connection: Connection, rollout_id: int, device_ids: Sequence[int] | None, now: int) -> None:
        """Take in what these devices said and the clock says, or all devices, and advance nothing yet."""
        row = self.row(connection, rollout_id)
        plan = self.plan(row)
        ordering = Ordering(self._database, connection, self._sign, row, plan, now)
        ordering.withdraw(observing.observe(connection, rollout_id, plan, device_ids, now))
        ordering.close()

    def advance(
        self,
        connection: Connection,
        rollout_id: int,
        now: int,
        *,
        heard: Sequence[int] = (),
        everyone: bool = False,
    ) -> None:
        """Bring a rollout up to date. heard: devices with new states; everyone: give bundles to all that have none."""
        row = self.row(connection, rollout_id)
        plan = self.plan(row)
        ordering = Ordering(self._database, connection, self._sign, row, plan, now)
        if heard:
            ordering.withdraw(observing.observe(connection, rollout_id, plan, heard, now))
        if row.kind == "update" and (heard or everyone):
            found = joining.resolve(connection, rollout_id, plan, None if everyone else heard, now)
            for some in pieces(found, CHUNK):
                ordering.withdraw(observing.observe(connection, rollout_id, plan, some, now))
        while True:
            through = gate(connection, rollout_id, plan, now)
            row = self.row(connection, rollout_id)
            facts = (row.expires, Progress(row.state), row.phase, row.proved_since, row.gate, row.forgiven)
            counts = count(connection, rollout_id, plan, through, now)
            orders = decision.decide(decision.Rollout(plan, *facts), counts, now)
            ordering.carry_out(orders, row, through)
            if ordering.more or all(isinstance(order, AT_REST) for order in orders):
                break
        ordering.close()
        if release_superseded(self._database, connection, self._sign, rollout_id, now) or ordering.more:
            self.unfinished.add(rollout_id)
            self._database.touch(TOUCHED)
        else:
            self.unfinished.discard(rollout_id)

    def advance_others(self, connection: Connection, rollout_id: int, now: int) -> None:
        """Those that may have lost members to this one."""
        for other in self.alive(connection, now):
            if other != rollout_id:
                self.advance(connection, other, now)

    def alive(self, connection: Connection, now: int, *, all_: bool = False) -> list[int]:
        """The rollouts that anything can happen to by the clock, or when a lost one speaks; all_: also those that only
        a report can change. Reads only."""
        going = exists().where(MEMBERS.rollout_id == rollouts.c.id, MEMBERS.state.in_(GOING))
        lost = exists().where(MEMBERS.rollout_id == rollouts.c.id, MEMBERS.withdrawal)
        silent = exists().where(MEMBERS.rollout_id == rollouts.c.id, *observing.lost())
        open_ = rollouts.c.state.in_((Progress.RUNNING, Progress.PAUSED))
        standing = and_(rollouts.c.state.in_(OWNING), rollouts.c.expires > now)
        some = or_(open_, going, lost, standing if all_ else and_(standing, silent))
        return list(connection.scalars(select(rollouts.c.id).where(some).order_by(rollouts.c.id)))

    def stale(self, connection: Connection, rollout_id: int, now: int, *, all_: bool) -> list[int]:
        """Members that their devices' reports or the clock would change, about two batches; all_: look at those, too,
        whose way is at its end. Reads only."""
        going = select(MEMBERS.device_id).where(MEMBERS.rollout_id == rollout_id, MEMBERS.state.in_(GOING)).limit(1)
        if all_ or connection.execute(going).first() is not None:
            plan = self.plan(self.row(connection, rollout_id))
            return observing.stale(connection, rollout_id, plan, CHUNK if all_ else 2 * BATCH, now, all_=all_)
        return observing.returned(connection, rollout_id, 2 * BATCH)

    def joinable(self, connection: Connection, now: int) -> list[int]:
        """The rollouts that somebody may join now, those of the highest rank first. Reads only."""
        open_ = (rollouts.c.kind == "update", rollouts.c.state.in_(JOINABLE), rollouts.c.expires > now)
        query = select(rollouts).where(*open_).order_by(rollouts.c.priority.desc(), rollouts.c.id.desc())
        rows = connection.execute(query).all()
        return [row.id for row in rows if joining.waiting(connection, row.id, self.plan(row), now)]

    def join(self, connection: Connection, rollout_id: int, now: int) -> None:
        """Take in who may join."""
        joining.join(connection, rollout_id, self.plan(self.row(connection, rollout_id)), now)

    def due(self, connection: Connection, now: int) -> int | None:
        """When something happens next by the clock alone. Reads only."""
        dues: list[int | None] = []
        for rollout_id in self.alive(connection, now):
            row = self.row(connection, rollout_id)
            plan = self.plan(row)
            dues.append(row.expires)
            if row.proved_since is not None:
                dues.append(row.proved_since + plan.phases[row.phase].soak)
            ours = MEMBERS.rollout_id == rollout_id
            flying = select(func.min(MEMBERS.deadline)).where(ours, MEMBERS.state.in_(IN_FLIGHT))
            placed = MEMBERS.phase.in_(range(len(plan.phases)))
            waits = (placed, MEMBERS.state == State.PENDING, MEMBERS.next_try > now)
            again = select(func.min(MEMBERS.next_try)).where(ours, *waits)
            dues += (connection.scalar(flying), connection.scalar(again))
            if plan.window:
                dues += (next_change(plan.window, name, now) for name in zones_of(connection, rollout_id))
        return min((due for due in dues if due is not None and due > now), default=None)
