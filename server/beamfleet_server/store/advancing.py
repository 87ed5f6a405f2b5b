"""Owns changing rollouts: it reads what the rules need, asks them, and applies their orders, all in one transaction.

So a rollout cannot be advanced twice by the same report, and an offer and its signed assignment are committed together.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet import rollout as rules
from beamfleet_server.fleet.rollout import FINAL, Member, Phase, Progress, State
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.fleet.targets import choose
from beamfleet_server.store import bundles as published
from beamfleet_server.store.assignments import Sign, Task, assign
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.devices import matching
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.rollouts import unknown
from beamfleet_server.store.tables import applications, bundles, devices, rollout_devices, rollouts

NO_BUNDLE = "no bundle for its target"
NAMED = 5
"""How many devices an error names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operator asks for."""

    product: str
    version: str
    selector: Selector
    canary: int
    note: str


class Advancing:
    """Starts, advances and ends rollouts; `sign` makes the assignments."""

    def __init__(self, database: Database, sign: Sign) -> None:
        self._database = database
        self._sign = sign

    def start(self, plan: Plan, now: int) -> int:
        """The id of a new rollout; errors `release.unknown`, `rollout.no_devices`, `rollout.no_target`."""
        return self._database.write(lambda connection: self._start(connection, plan, now))

    def reported(self, device_ids: Collection[int], now: int) -> None:
        """These devices have a new state: advance every rollout that they are in."""

        def change(connection: Connection) -> None:
            query = (
                select(rollout_devices.c.rollout_id).where(rollout_devices.c.device_id.in_(list(device_ids))).distinct()
            )
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
                    members = self._members(connection, rollout_id)
                    self._apply(connection, rollout_id, members, rules.abort(members, reason), now)
                case Progress.ABORTED:
                    pass
                case _:
                    raise ServerError("rollout.finished", f"rollout {rollout_id} is {state} already")

        self._database.write(change)

    def _start(self, connection: Connection, plan: Plan, now: int) -> int:
        choices = published.of_release(connection, plan.product, plan.version)
        if not choices:
            raise ServerError(
                "release.unknown", f"there is no bundle of {plan.product} {plan.version}", "see: beamfleet bundle list"
            )
        candidates = connection.execute(_candidates(plan.selector)).all()
        if not candidates:
            if not str(plan.selector):
                hint = "make one: beamfleet flash --root DIR --device ID, then DIR/run"
                raise ServerError("rollout.no_devices", "the fleet has no device yet", hint)
            hint = "see: beamfleet device list; labels are changed with: beamfleet device label"
            raise ServerError("rollout.no_devices", f"no device matches {plan.selector}", hint)
        rows, without = [], []
        for device in candidates:
            inventory = (device.state or {}).get("inventory")
            bundle = choose(choices, inventory) if inventory else None
            if inventory and bundle is None:
                without.append(device.name)
            rows.append(
                _row(device.id, bundle.id if bundle else None, skipped=bool(inventory) and bundle is None, now=now)
            )
        if len(without) == len(rows):
            raise _no_target(plan, without, [bundle.target for bundle in choices])
        values = {
            "product": plan.product,
            "version": plan.version,
            "selector": str(plan.selector),
            "canary": plan.canary,
        }
        started = {"note": plan.note, "state": Progress.RUNNING, "phase": Phase.CANARY, "reason": "", "created": now}
        rollout_id = inserted_id(connection.execute(insert(rollouts).values(**values, **started)))
        attempts = _attempts(connection, [row["bundle_id"] for row in rows], rollout_id)
        for row in rows:
            row |= {"rollout_id": rollout_id, "attempt": attempts.get((row["device_id"], row["bundle_id"]), 0) + 1}
        self._supersede(connection, rollout_id, [row["device_id"] for row in rows], now)
        connection.execute(insert(rollout_devices), rows)
        detail = f"{plan.product} {plan.version} to {len(rows)} device" + ("s" if len(rows) > 1 else "")
        append(self._database, connection, [NewEvent(now, "rollout", "started", detail, rollout_id=rollout_id)])
        self._advance(connection, rollout_id, now)
        return rollout_id

    def _supersede(self, connection: Connection, rollout_id: int, device_ids: Sequence[int], now: int) -> None:
        older = (
            select(rollout_devices.c.rollout_id)
            .where(rollout_devices.c.device_id.in_(device_ids), rollout_devices.c.state.not_in(sorted(FINAL)))
            .distinct()
        )
        taken = set(device_ids)
        for older_id in sorted(connection.scalars(older)):
            members = self._members(connection, older_id)
            ours = [member for member in members if member.device in taken]
            reason = f"superseded by rollout {rollout_id}"
            self._apply(connection, older_id, members, rules.supersede(ours, reason), now)
            self._advance(connection, older_id, now)

    def _advance(self, connection: Connection, rollout_id: int, now: int) -> None:
        row = connection.execute(select(rollouts).where(rollouts.c.id == rollout_id)).one()
        self._resolve(connection, row, now)
        members = self._members(connection, rollout_id)
        rollout = rules.Rollout(row.canary, Progress(row.state), Phase(row.phase))
        self._apply(connection, rollout_id, members, rules.advance(rollout, members), now)

    def _resolve(self, connection: Connection, rollout: Row[Any], now: int) -> None:
        """Members that had not said what they are when the rollout began get their bundle once they have."""
        if rollout.state != Progress.RUNNING:
            return
        query = (
            select(rollout_devices.c.device_id, applications.c.state)
            .join_from(rollout_devices, applications, applications.c.device_id == rollout_devices.c.device_id)
            .where(
                rollout_devices.c.rollout_id == rollout.id,
                rollout_devices.c.state == State.PENDING,
                rollout_devices.c.bundle_id.is_(None),
                applications.c.app == MAIN,
                applications.c.state_boot > 0,
            )
        )
        found = connection.execute(query).all()
        choices = published.of_release(connection, rollout.product, rollout.version) if found else []
        chosen = {row.device_id: choose(choices, row.state["inventory"]) for row in found}
        attempts = _attempts(connection, [bundle.id if bundle else None for bundle in chosen.values()], rollout.id)
        for device_id, bundle in chosen.items():
            row = _row(device_id, bundle.id if bundle else None, skipped=bundle is None, now=now)
            row["attempt"] = attempts.get((device_id, row["bundle_id"]), 0) + 1
            of_device = (rollout_devices.c.rollout_id == rollout.id, rollout_devices.c.device_id == device_id)
            connection.execute(update(rollout_devices).where(*of_device).values(row))

    def _members(self, connection: Connection, rollout_id: int) -> list[Member]:
        return [_member(row, rollout_id) for row in connection.execute(_members_of(rollout_id))]

    def _apply(
        self,
        connection: Connection,
        rollout_id: int,
        members: Sequence[Member],
        orders: Iterable[rules.Order],
        now: int,
    ) -> None:
        rows = {
            member.device: {"state": member.state, "reason": member.reason, "canary": member.canary}
            for member in members
        }
        by_id = {member.device: member for member in members}
        offered = {member.device for member in members if member.offered}
        moved: set[int] = set()
        tasks: list[Task] = []
        happened: list[NewEvent] = []
        given = _bundle_ids(connection, rollout_id)
        for order in orders:
            match order:
                case rules.Move(device, state, reason):
                    rows[device] |= {"state": state, "reason": reason}
                    moved.add(device)
                case rules.Elect(device):
                    rows[device]["canary"] = True
                    moved.add(device)
                case rules.Offer(device):
                    rows[device] |= {"state": State.OFFERED, "reason": ""}
                    offered.add(device)
                    moved.add(device)
                    tasks.append(Task(device, given[device], by_id[device].attempt))
                case rules.Hold(device):
                    tasks.append(Task(device, None, by_id[device].attempt))
                case rules.Enter(phase):
                    _update_rollout(connection, rollout_id, phase=phase)
                    happened.append(NewEvent(now, "rollout", phase, rollout_id=rollout_id))
                case rules.Finish(progress, reason):
                    ended = {"state": progress, "reason": reason, "finished": now}
                    _update_rollout(
                        connection,
                        rollout_id,
                        **ended,
                        **({"phase": Phase.DONE} if progress is Progress.COMPLETED else {}),
                    )
                    happened.append(NewEvent(now, "rollout", progress, reason, rollout_id=rollout_id))
                case _:
                    assert_never(order)
        _update_members(
            connection, rollout_id, {device: rows[device] | {"offered": device in offered} for device in moved}, now
        )
        assign(self._database, connection, tasks, self._sign, now)
        append(self._database, connection, happened)


def _candidates(selector: Selector) -> Select[Any]:
    return (
        select(devices.c.id, devices.c.name, applications.c.state)
        .join_from(devices, applications, and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN))
        .where(*matching(selector))
        .order_by(devices.c.name)
    )


def _row(device_id: int, bundle_id: int | None, *, skipped: bool, now: int) -> dict[str, Any]:
    state = State.SKIPPED if skipped else State.PENDING
    reason = NO_BUNDLE if skipped else ""
    row = {"device_id": device_id, "bundle_id": bundle_id, "state": state, "reason": reason}
    return row | {"canary": False, "offered": False, "updated": now}


def _attempts(connection: Connection, bundle_ids: Iterable[int | None], before: int) -> dict[tuple[int, int], int]:
    """How many rollouts before this one have offered a bundle to a device, by (device, bundle)."""
    query = (
        select(rollout_devices.c.device_id, rollout_devices.c.bundle_id, func.count())
        .where(
            rollout_devices.c.bundle_id.in_({bundle_id for bundle_id in bundle_ids if bundle_id is not None}),
            rollout_devices.c.offered,
            rollout_devices.c.rollout_id < before,
        )
        .group_by(rollout_devices.c.device_id, rollout_devices.c.bundle_id)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def _members_of(rollout_id: int) -> Select[Any]:
    other = rollout_devices.alias("other")
    newest = (
        select(func.max(other.c.rollout_id)).where(other.c.device_id == rollout_devices.c.device_id).scalar_subquery()
    )
    return (
        select(
            rollout_devices,
            devices.c.name,
            devices.c.online,
            bundles.c.manifest,
            applications.c.state.label("report"),
            newest.label("newest"),
        )
        .join_from(rollout_devices, devices)
        .join(applications, and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN))
        .join(bundles, bundles.c.id == rollout_devices.c.bundle_id, isouter=True)
        .where(rollout_devices.c.rollout_id == rollout_id)
        .order_by(devices.c.name)
    )


def _member(row: Row[Any], rollout_id: int) -> Member:
    """A report belongs to the newest rollout of its device: an older one is no longer told by it."""
    return Member(
        device=row.device_id,
        name=row.name,
        manifest=row.manifest or "",
        attempt=row.attempt,
        online=row.online,
        state=State(row.state),
        canary=row.canary,
        offered=row.offered,
        reason=row.reason,
        report=_report(row.report) if row.report and row.newest == rollout_id else rules.Report(),
    )


def _report(state: dict[str, Any]) -> rules.Report:
    update_ = state["update"] or {}
    return rules.Report(
        manifest=state["manifest"],
        phase=state["phase"],
        failed=state["failed"],
        update_phase=update_.get("phase", ""),
        update_manifest=update_.get("manifest", ""),
        update_attempt=update_.get("attempt", 0),
        update_reason=": ".join(filter(None, (update_.get("reason", ""), update_.get("detail", "")))),
    )


def _bundle_ids(connection: Connection, rollout_id: int) -> dict[int, int | None]:
    query = select(rollout_devices.c.device_id, rollout_devices.c.bundle_id).where(
        rollout_devices.c.rollout_id == rollout_id
    )
    return {row.device_id: row.bundle_id for row in connection.execute(query)}


def _update_rollout(connection: Connection, rollout_id: int, **values: Any) -> None:
    connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(values))


def _update_members(connection: Connection, rollout_id: int, rows: dict[int, dict[str, Any]], now: int) -> None:
    if rows:
        statement = update(rollout_devices).where(
            rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.device_id == bindparam("key_device_id")
        )
        values = [row | {"key_device_id": device_id, "updated": now} for device_id, row in sorted(rows.items())]
        connection.execute(statement, values)


def _no_target(plan: Plan, without: Sequence[str], targets: Sequence[str]) -> ServerError:
    named = ", ".join(without[:NAMED]) + (f" and {len(without) - NAMED} more" if len(without) > NAMED else "")
    return ServerError(
        "rollout.no_target",
        f"{plan.product} {plan.version} has no bundle for {named}",
        f"it is published for {', '.join(sorted(targets))}; build and publish one for the devices' targets",
    )
