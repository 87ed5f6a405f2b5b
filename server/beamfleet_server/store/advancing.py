"""Owns changing rollouts: it reads what the rules need, asks them, and applies their orders, all in one transaction.

So a rollout cannot be advanced twice by the same report, and an offer and its signed assignment are committed together.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import Connection, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet import rollout as rules
from beamfleet_server.fleet.rollout import FINAL, Member, Phase, Progress, State
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store import bundles, members
from beamfleet_server.store.assignments import Sign, Task, assign
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.rollouts import unknown
from beamfleet_server.store.tables import rollout_devices, rollouts

NAMED = 5
"""How many devices an error names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operator asks for; the same `key` again is the same wish, asked for once more."""

    product: str
    version: str
    selector: Selector
    canary: int
    note: str
    key: str | None = None


class Advancing:
    """Starts, advances and ends rollouts; `sign` makes the assignments."""

    def __init__(self, database: Database, sign: Sign) -> None:
        self._database = database
        self._sign = sign

    def start(self, plan: Plan, now: int) -> tuple[int, bool]:
        """The id of the rollout, and whether it is a new one; errors `release.unknown`, `rollout.no_devices`,
        `rollout.no_target`."""
        return self._database.write(lambda connection: self.begin(connection, plan, now))

    def reported(self, device_ids: Collection[int], now: int) -> None:
        """These devices have a new state: advance every rollout that they are in."""

        def change(connection: Connection) -> None:
            of_these = rollout_devices.c.device_id.in_(list(device_ids))
            query = select(rollout_devices.c.rollout_id).where(of_these).distinct()
            for rollout_id in sorted(connection.scalars(query)):
                self._advance(connection, rollout_id, now)

        if device_ids:
            self._database.write(change)

    def check_all(self, now: int) -> None:
        """Advance every rollout that is running: the slow safety net."""

        def change(connection: Connection) -> None:
            query = select(rollouts.c.id).where(rollouts.c.state == Progress.RUNNING).order_by(rollouts.c.id)
            for rollout_id in connection.scalars(query).all():
                self._advance(connection, rollout_id, now)

        self._database.write(change)

    def abort(self, rollout_id: int, reason: str, now: int) -> None:
        """End a rollout; errors `rollout.unknown`, `rollout.finished`. Aborting an aborted one is no error."""

        def change(connection: Connection) -> None:
            state = connection.scalar(select(rollouts.c.state).where(rollouts.c.id == rollout_id))
            match state:
                case None:
                    raise unknown(rollout_id)
                case Progress.RUNNING:
                    everyone = members.read(connection, rollout_id)
                    self._apply(connection, rollout_id, everyone, rules.abort(everyone, reason), now)
                case Progress.ABORTED:
                    pass
                case _:
                    raise ServerError(
                        "rollout.finished",
                        f"rollout {rollout_id} is {state} already",
                        f"see: beamfleet rollout status {rollout_id}",
                    )

        self._database.write(change)

    def begin(self, connection: Connection, plan: Plan, now: int) -> tuple[int, bool]:
        """`start`, inside a change."""
        if plan.key is not None:
            known = connection.scalar(select(rollouts.c.id).where(rollouts.c.key == plan.key))
            if known is not None:
                return int(known), False
        release = bundles.of_release(connection, plan.product, plan.version)
        if not release:
            what = f"there is no bundle of {plan.product} {plan.version}"
            raise ServerError("release.unknown", what, "see: beamfleet bundle list")
        begun = insert(rollouts).values(
            key=plan.key,
            product=plan.product,
            version=plan.version,
            selector=str(plan.selector),
            canary=plan.canary,
            note=plan.note,
            state=Progress.RUNNING,
            phase=Phase.CANARY,
            reason="",
            created=now,
        )
        rollout_id = inserted_id(connection.execute(begun))
        device_ids = members.join(connection, rollout_id, plan.selector, now)
        if not device_ids:
            raise _no_devices(plan)
        members.resolve(connection, rollout_id, release, now)
        everyone = members.read(connection, rollout_id)
        if all(member.state is State.SKIPPED for member in everyone):
            raise _no_target(plan, [member.name for member in everyone], [bundle.target for bundle in release])
        self._supersede(connection, rollout_id, device_ids, now)
        detail = f"{plan.product} {plan.version} to {len(everyone)} device" + ("s" if len(everyone) > 1 else "")
        append(self._database, connection, [NewEvent(now, "rollout", "started", detail, rollout_id=rollout_id)])
        self._advance(connection, rollout_id, now)
        return rollout_id, True

    def _supersede(self, connection: Connection, rollout_id: int, device_ids: Collection[int], now: int) -> None:
        taken = set(device_ids)
        older = select(rollout_devices.c.rollout_id).where(
            rollout_devices.c.rollout_id < rollout_id,
            rollout_devices.c.device_id.in_(taken),
            rollout_devices.c.state.not_in(sorted(FINAL)),
        )
        for older_id in sorted(connection.scalars(older.distinct())):
            everyone = members.read(connection, older_id)
            ours = [member for member in everyone if member.device in taken]
            orders = rules.supersede(ours, f"superseded by rollout {rollout_id}")
            self._apply(connection, older_id, everyone, orders, now)
            self._advance(connection, older_id, now)

    def _advance(self, connection: Connection, rollout_id: int, now: int) -> None:
        row = connection.execute(select(rollouts).where(rollouts.c.id == rollout_id)).one()
        if row.state == Progress.RUNNING:
            release = bundles.of_release(connection, row.product, row.version)
            members.resolve(connection, rollout_id, release, now)
        everyone = members.read(connection, rollout_id)
        rollout = rules.Rollout(row.canary, Progress(row.state), Phase(row.phase))
        self._apply(connection, rollout_id, everyone, rules.advance(rollout, everyone), now)

    def _apply(
        self,
        connection: Connection,
        rollout_id: int,
        everyone: Sequence[Member],
        orders: Iterable[rules.Order],
        now: int,
    ) -> None:
        by_id = {member.device: member for member in everyone}
        given = members.bundle_ids(connection, rollout_id)
        moved: dict[int, dict[str, Any]] = {}
        changed: dict[str, Any] = {}
        tasks: list[Task] = []
        happened: list[NewEvent] = []
        for order in orders:
            match order:
                case rules.Move(device, state, reason):
                    moved.setdefault(device, _row(by_id[device])).update(state=state, reason=reason)
                case rules.Elect(device):
                    moved.setdefault(device, _row(by_id[device])).update(canary=True)
                case rules.Offer(device):
                    offered = {"state": State.OFFERED, "reason": "", "offered": True}
                    moved.setdefault(device, _row(by_id[device])).update(offered)
                    tasks.append(Task(device, given[device], by_id[device].attempt))
                case rules.Hold(device):
                    tasks.append(Task(device, None, by_id[device].attempt))
                case rules.Enter(phase):
                    changed |= {"phase": phase}
                    happened.append(NewEvent(now, "rollout", phase, rollout_id=rollout_id))
                case rules.Finish(progress, reason):
                    changed |= {"state": progress, "reason": reason, "finished": now}
                    changed |= {"phase": Phase.DONE} if progress is Progress.COMPLETED else {}
                    happened.append(NewEvent(now, "rollout", progress, reason, rollout_id=rollout_id))
                case _:
                    assert_never(order)
        members.save(connection, rollout_id, moved, now)
        if changed:
            connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(changed))
        assign(self._database, connection, tasks, self._sign, now)
        append(self._database, connection, happened)


def _row(member: Member) -> dict[str, Any]:
    return {
        "state": member.state,
        "reason": member.reason,
        "canary": member.canary,
        "offered": member.offered,
    }


def _no_devices(plan: Plan) -> ServerError:
    if not plan.selector.terms:
        hint = "make one: beamfleet flash --root DIR --device ID, then DIR/run"
        return ServerError("rollout.no_devices", "the fleet has no device yet", hint)
    hint = "see: beamfleet device list; labels are changed with: beamfleet device label"
    return ServerError("rollout.no_devices", f"no device matches {plan.selector}", hint)


def _no_target(plan: Plan, without: Sequence[str], targets: Sequence[str]) -> ServerError:
    named = ", ".join(without[:NAMED]) + (f" and {len(without) - NAMED} more" if len(without) > NAMED else "")
    return ServerError(
        "rollout.no_target",
        f"{plan.product} {plan.version} has no bundle for {named}",
        f"it is published for {', '.join(sorted(targets))}; build and publish one for the devices' targets",
    )
