"""Owns reading rollouts: what was asked for, how far it is, and who is where. `advancing` has the changes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, exists, func, literal_column, select

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import ALREADY, IN_FLIGHT, Progress, State
from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.tables import applications, bundles, devices, rollout_devices, rollouts

DONE = "done"
"""What the phase of a completed rollout is called."""
MEMBERS = rollout_devices.c
COLUMNS = (
    "id", "kind", "of_id", "product", "version", "plan", "priority", "note", "by", "state", "reason", "phase",
    "phase_since", "proved_since", "gate", "forgiven", "created", "expires", "finished",
)  # fmt: skip
NOTHING: ColumnElement[str] = literal_column("''")
"""Not a parameter: PostgreSQL would not see that two expressions with it are the same."""
NAMED = 3
"""Devices that a group names."""
INTERESTING: tuple[tuple[tuple[State, ...], bool], ...] = (
    ((State.REVERTED, State.FAILED), False),
    (IN_FLIGHT, False),
    ((State.PENDING,), True),
    ((State.SKIPPED, State.SUPERSEDED), False),
    ((State.PENDING,), False),
    ((State.COMMITTED,), False),
)
"""States of members, the most interesting first, and whether those are meant that keep a place."""


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """A rollout as it is kept, with the number of its members by state. `plan` as JSON, `phase` an index into its
    phases, times in Unix seconds."""

    id: int
    kind: str
    of_id: int | None
    product: str
    version: str
    plan: Mapping[str, Any]
    priority: int
    note: str
    by: str
    state: str
    reason: str
    phase: int
    phase_since: int
    proved_since: int | None
    gate: str
    forgiven: int
    created: int
    expires: int
    finished: int | None
    counts: Mapping[str, int]

    @property
    def phase_name(self) -> str:
        """The name of the phase, `done` when it is completed."""
        return DONE if self.state == Progress.COMPLETED else str(self.plan["phases"][self.phase]["name"])

    @property
    def selector(self) -> str:
        """Whom it means, in short; empty for everyone."""
        return str(Plan.parse(self.plan).devices)

    @property
    def canary(self) -> int:
        """The number of devices that go first; 0 if nobody does, or a share."""
        first, *others = self.plan["phases"]
        return first["devices"] if others and isinstance(first["devices"], int) else 0


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A device in a rollout; `before` the version that it ran, `progress` as it came if it is about this rollout's
    manifest; times in Unix seconds."""

    device: str
    state: str
    phase: int | None
    reason: str
    detail: str
    evidence: bool
    tries: int
    next_try: int | None
    deadline: int | None
    offered_at: int | None
    updated: int
    before: str
    progress: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Change:
    """Devices that go from one bundle to another: how many, and some of their names."""

    target: str
    before: str
    before_manifest: str
    version: str
    manifest: str
    pack_size: int
    devices: int
    examples: tuple[str, ...]


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

    def page(
        self,
        before: int | None,
        limit: int,
        *,
        product: str = "",
        version: str = "",
        states: Collection[str] = (),
        kind: str = "",
    ) -> list[RolloutFacts]:
        """At most `limit` rollouts, newest first, with an id below `before`."""
        query = _rollouts().order_by(rollouts.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(rollouts.c.id < before)
        for column, wanted in ((rollouts.c.product, product), (rollouts.c.version, version), (rollouts.c.kind, kind)):
            if wanted:
                query = query.where(column == wanted)
        if states:
            query = query.where(rollouts.c.state.in_(sorted(states)))
        return self._database.read(lambda connection: _read(connection, query))

    def tally(self, rollout_id: int) -> dict[int | None, dict[str, int]]:
        """The number of members by phase (None: not in any yet) and state."""
        query = (
            select(MEMBERS.phase, MEMBERS.state, func.count())
            .where(MEMBERS.rollout_id == rollout_id)
            .group_by(MEMBERS.phase, MEMBERS.state)
        )
        found: dict[int | None, dict[str, int]] = {}
        for phase, state, number in self._database.read(lambda connection: connection.execute(query).all()):
            found.setdefault(phase, {})[state] = number
        return found

    def members(
        self,
        rollout_id: int,
        *,
        states: Collection[str] = (),
        phase: int | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[MemberFacts]:
        """At most `limit` members by name, beginning after the name `after`."""
        ours = [MEMBERS.rollout_id == rollout_id, MEMBERS.device_id == devices.c.id]
        if states:
            ours.append(MEMBERS.state.in_(sorted(states)))
        if phase is not None:
            ours.append(MEMBERS.phase == phase)
        chosen = select(devices.c.id).where(devices.c.name > after, exists().where(*ours)).order_by(devices.c.name)

        def query(connection: Connection) -> list[MemberFacts]:
            return _named(connection, rollout_id, connection.scalars(chosen.limit(limit)).all())

        return self._database.read(query)

    def interesting(self, rollout_id: int, limit: int) -> list[MemberFacts]:
        """At most `limit` members: those that something is wrong with, in flight, waiting for a retry, skipped,
        pending, committed, in this order; by name within it. Of more than that, those of the lowest draw."""

        def query(connection: Connection) -> list[MemberFacts]:
            chosen: dict[int, int] = {}
            for rank, (states, placed) in enumerate(INTERESTING):
                for state in states:
                    ids = select(MEMBERS.device_id).where(MEMBERS.rollout_id == rollout_id, MEMBERS.state == state)
                    ids = ids.where(MEMBERS.phase >= 0) if placed else ids.order_by(MEMBERS.draw)
                    for device_id in connection.scalars(ids.limit(limit)):
                        if len(chosen) < limit:
                            chosen.setdefault(device_id, rank)
            ranked = sorted(set(chosen.values()))
            groups = [[device_id for device_id in chosen if chosen[device_id] == rank] for rank in ranked]
            return [facts for group in groups for facts in _named(connection, rollout_id, group)]

        return self._database.read(query)

    def reasons(self, rollout_id: int, top: int) -> list[tuple[str, str, int, str]]:
        """The most frequent reasons: (state, reason, number of members, one of their names), the bad ones first."""
        bad = case((MEMBERS.state.in_((State.REVERTED, State.FAILED)), 0), else_=1)
        grouped = (
            select(
                MEMBERS.state, MEMBERS.reason, func.count().label("number"), func.min(MEMBERS.device_id).label("one")
            )
            .where(MEMBERS.rollout_id == rollout_id, MEMBERS.reason != "")
            .group_by(MEMBERS.state, MEMBERS.reason)
            .order_by(bad, func.count().desc(), MEMBERS.state, MEMBERS.reason)
            .limit(top)
        )

        def query(connection: Connection) -> list[tuple[str, str, int, str]]:
            rows = connection.execute(grouped).all()
            names = _names(connection, {row.one for row in rows})
            return [(row.state, row.reason, row.number, names[row.one]) for row in rows]

        return self._database.read(query)

    def changes(self, rollout_id: int) -> list[Change]:
        """What the rollout changes: members by what they ran before (empty: nothing, or nobody knows) and what they
        get. Who ran it already is not in it."""
        ran, app = bundles.alias("ran"), applications.c
        several = (func.count().label("number"), func.min(MEMBERS.device_id), func.max(MEMBERS.device_id))
        going = (MEMBERS.rollout_id == rollout_id, MEMBERS.state.not_in((State.SKIPPED, State.SUPERSEDED)))
        known = (
            select(MEMBERS.bundle_id, MEMBERS.before_id, *several)
            .where(*going, MEMBERS.bundle_id.is_not(None), MEMBERS.before_id.is_not(None))
            .group_by(MEMBERS.bundle_id, MEMBERS.before_id)
            .subquery("known")
        )
        untouched = MEMBERS.offered_at.is_(None)
        now = [case((untouched, column), else_=NOTHING).label(column.name) for column in (app.version, app.manifest)]
        before_now = (
            select(MEMBERS.bundle_id, *now, *several)
            .join_from(rollout_devices, applications, and_(app.device_id == MEMBERS.device_id, app.app == MAIN))
            .where(*going, MEMBERS.bundle_id.is_not(None), MEMBERS.before_id.is_(None), MEMBERS.reason != ALREADY)
            .group_by(MEMBERS.bundle_id, *now)
            .subquery("before_now")
        )
        get = (bundles.c.target, bundles.c.version, bundles.c.manifest, bundles.c.pack_size)
        offered = (
            select(*get, ran.c.version, ran.c.manifest, *list(known.c)[2:])
            .join_from(known, bundles, bundles.c.id == known.c.bundle_id)
            .join(ran, ran.c.id == known.c.before_id)
        )
        others = select(*get, *list(before_now.c)[1:]).join_from(
            before_now, bundles, bundles.c.id == before_now.c.bundle_id
        )

        def query(connection: Connection) -> list[Change]:
            groups: dict[tuple[Any, ...], tuple[int, set[int]]] = {}
            for row in (*connection.execute(offered), *connection.execute(others)):
                number, ids = groups.get(tuple(row[:6]), (0, set()))
                groups[tuple(row[:6])] = (number + row[6], ids | {row[7], row[8]})
            names = _names(connection, {each for _, ids in groups.values() for each in ids})
            found = [
                Change(
                    target, before, before_manifest, version, manifest, size, number,
                    tuple(sorted(names[each] for each in ids)[:NAMED]),
                )
                for (target, version, manifest, size, before, before_manifest), (number, ids) in groups.items()
            ]  # fmt: skip
            return sorted(found, key=lambda each: (-each.devices, each.target, each.before, each.before_manifest))

        return self._database.read(query)


def unknown(rollout_id: int) -> ServerError:
    """The error for a rollout that is not there."""
    return ServerError("rollout.unknown", f"there is no rollout {rollout_id}", "see: beamfleet rollout history")


def _rollouts() -> Select[Any]:
    return select(*(rollouts.c[name] for name in COLUMNS))


def _read(connection: Connection, query: Select[Any]) -> list[RolloutFacts]:
    rows = connection.execute(query).mappings().all()
    counts = {row["id"]: dict.fromkeys(map(str, State), 0) for row in rows}
    grouped = (
        select(MEMBERS.rollout_id, MEMBERS.state, func.count())
        .where(MEMBERS.rollout_id.in_(list(counts)))
        .group_by(MEMBERS.rollout_id, MEMBERS.state)
    )
    for rollout_id, state, number in connection.execute(grouped):
        counts[rollout_id][state] = number
    return [RolloutFacts(**row, counts=counts[row["id"]]) for row in rows]


def _members(rollout_id: int) -> Select[Any]:
    ran = bundles.alias("ran")
    return (
        select(
            devices.c.name.label("device"),
            MEMBERS.state,
            MEMBERS.phase,
            MEMBERS.reason,
            MEMBERS.detail,
            MEMBERS.evidence,
            MEMBERS.tries,
            MEMBERS.next_try,
            MEMBERS.deadline,
            MEMBERS.offered_at,
            MEMBERS.updated,
            ran.c.version.label("before"),
            bundles.c.manifest,
            applications.c.progress,
        )
        .join_from(rollout_devices, devices)
        .join(applications, and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN))
        .join(bundles, bundles.c.id == MEMBERS.bundle_id, isouter=True)
        .join(ran, ran.c.id == MEMBERS.before_id, isouter=True)
        .where(MEMBERS.rollout_id == rollout_id)
    )


def _named(connection: Connection, rollout_id: int, ids: Collection[int]) -> list[MemberFacts]:
    """These members, by name."""
    query = _members(rollout_id).where(MEMBERS.device_id.in_(list(ids))).order_by(devices.c.name)
    return [_member(row) for row in connection.execute(query)]


def _names(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    query = select(devices.c.id, devices.c.name).where(devices.c.id.in_(list(ids)))
    return {row.id: row.name for row in connection.execute(query)}


def _member(row: Row[Any]) -> MemberFacts:
    said = row.progress if row.progress and row.progress["manifest"] == row.manifest else None
    facts = {name: getattr(row, name) for name in MemberFacts.__dataclass_fields__ if name != "progress"}
    return MemberFacts(**{**facts, "before": row.before or ""}, progress=said)
