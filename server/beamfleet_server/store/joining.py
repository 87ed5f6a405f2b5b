"""Owns who is a member: devices that a plan means join its rollout, at its start or later, each with its bundle, unless
a rollout of a higher rank owns them; what they were in before is superseded. All is INSERT ... SELECT and UPDATE.

Every function works inside a change of `advancing`.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    case,
    exists,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import ALREADY, FINAL, NOT_SWAPPED, OWNING, PINNED, SETTLED, State
from beamfleet_server.store.aiming import Aims, aim
from beamfleet_server.store.database import grown
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.selecting import conditions, drawn, population, these
from beamfleet_server.store.tables import applications, devices, rollout_devices, rollouts

MEMBERS = rollout_devices.c
UNHEARD = (State.SKIPPED, State.SUPERSEDED)
"""Memberships that do not own their device."""
MANY = 1000
"""So many new members change how the database had better look for them."""
UNDERWAY = tuple(state for state in State if state not in FINAL)
COLUMNS = (
    "rollout_id", "device_id", "bundle_id", "attempt", "draw", "state", "reason", "step", "heard", "evidence",
    "tries", "updated",
)  # fmt: skip


def owned(connection: Connection, rollout_id: int | None, priority: int, now: int) -> list[ColumnElement[bool]]:
    """Whether a rollout of a higher rank owns a device of `devices`: a condition, or none if no rollout could.
    rollout_id: ours; None if it is to be the newest."""
    higher = rollouts.c.priority > priority
    if rollout_id is not None:
        higher = or_(higher, and_(rollouts.c.priority == priority, rollouts.c.id > rollout_id))
    theirs = select(rollouts.c.id).where(rollouts.c.state.in_(OWNING), rollouts.c.expires > now, higher)
    owners = list(connection.scalars(theirs))
    if not owners:
        return []
    other = rollout_devices.alias("owner")
    ours = (other.c.device_id == devices.c.id, other.c.rollout_id.in_(owners), other.c.state.not_in(UNHEARD))
    return [exists().where(*ours).correlate(devices)]


def candidates(connection: Connection, rollout_id: int | None, plan: Plan, aims: Aims, now: int) -> Select[Any]:
    """The devices that the plan means and that may join its rollout, as members of it. rollout_id: None if it is only
    beginning, so that nobody is a member and every other one is older."""
    app = applications.c
    held: list[ColumnElement[bool]] = []
    if rollout_id is not None:
        already = rollout_devices.alias("already")
        held.append(exists().where(already.c.rollout_id == rollout_id, already.c.device_id == devices.c.id))
    held += owned(connection, rollout_id, plan.priority, now)
    if rollout_id is not None:
        newer = rollout_devices.alias("newer")
        offered = or_(newer.c.offered_at.is_not(None), newer.c.phase.is_not(None))
        held.append(exists().where(newer.c.device_id == devices.c.id, newer.c.rollout_id > rollout_id, offered))
    means = [*conditions(connection, plan), *(~each for each in held)]
    lacks = aims.lacks()
    runs = and_(app.manifest == aims.manifest(), app.phase.in_(SETTLED), ~aims.step())
    skipped = or_(devices.c.pinned != "", lacks != "")
    state = case((skipped, State.SKIPPED), (runs, State.COMMITTED), else_=State.PENDING)
    reason = case((devices.c.pinned != "", PINNED), (lacks != "", lacks), (runs, ALREADY), else_="")
    return (
        select(
            devices.c.id.label("device_id"),
            devices.c.name.label("name"),
            aims.bundle().label("bundle_id"),
            drawn(plan.salt).label("draw"),
            state.label("state"),
            reason.label("reason"),
            aims.step().label("step"),
        )
        .select_from(population())
        .where(*means)
    )


def join(connection: Connection, rollout_id: int, plan: Plan, now: int, *, beginning: bool = False) -> int:
    """Make all that may members; how many have joined. `beginning`: the rollout is new."""
    aims = aim(connection, plan)
    found = candidates(connection, None if beginning else rollout_id, plan, aims, now).subquery("found")
    chosen = select(
        literal(rollout_id, Integer),
        found.c.device_id,
        found.c.bundle_id,
        case(
            (found.c.state == State.SKIPPED, literal(1, BigInteger)),
            else_=_attempt(connection, rollout_id, plan, found.c.device_id, found.c.bundle_id),
        ),
        found.c.draw,
        found.c.state,
        found.c.reason,
        found.c.step,
        found.c.state != State.SKIPPED,
        false(),
        literal(0, BigInteger),
        literal(now, BigInteger),
    )
    members = insert(rollout_devices).from_select(COLUMNS, chosen)
    joined = connection.execute(members, execution_options={"preserve_rowcount": True}).rowcount
    if joined >= MANY:
        grown(connection, rollout_devices)
    if joined:
        supersede(connection, rollout_id, now)
    return int(joined)


def join_undo(connection: Connection, rollout_id: int, of_id: int, plan: Plan, now: int) -> None:
    """Make those members that have committed in the rollout `of_id` and are still told by it, each with the bundle that
    it ran before."""
    member = rollout_devices.alias("undone")
    chosen = (
        select(
            literal(rollout_id, Integer),
            member.c.device_id,
            member.c.before_id,
            _attempt(connection, rollout_id, plan, member.c.device_id, member.c.before_id),
            member.c.draw,
            case((devices.c.pinned != "", State.SKIPPED), else_=State.PENDING),
            case((devices.c.pinned != "", PINNED), else_=""),
            false(),
            devices.c.pinned == "",
            false(),
            literal(0, BigInteger),
            literal(now, BigInteger),
        )
        .join_from(member, devices, devices.c.id == member.c.device_id)
        .where(*undoable(member, of_id))
    )
    connection.execute(insert(rollout_devices).from_select(COLUMNS, chosen))
    supersede(connection, rollout_id, now)


def undoable(member: Any, of_id: int) -> list[ColumnElement[bool]]:
    """What holds for members of `of_id`, on the alias `member`, that an undo concerns."""
    serving = devices.alias("serving")
    return [
        exists().where(serving.c.id == member.c.device_id, serving.c.retired.is_(None)),
        member.c.rollout_id == of_id,
        member.c.heard,
        member.c.state == State.COMMITTED,
        member.c.offered_at.is_not(None),
        member.c.before_id.is_not(None),
        member.c.before_id != member.c.bundle_id,
    ]


def waiting(connection: Connection, rollout_id: int, plan: Plan, now: int) -> bool:
    """Whether `join` would find anybody. Reads only."""
    found = candidates(connection, rollout_id, plan, Aims(), now).limit(1)
    return connection.execute(found).first() is not None


def resolve(
    connection: Connection, rollout_id: int, plan: Plan, device_ids: Sequence[int] | None, now: int
) -> list[int]:
    """Give members without a bundle theirs, now that they have spoken or have come over a stepping stone; who they are.
    device_ids: only these, or None."""
    member = rollout_devices.alias("member")
    spoken = and_(applications.c.device_id == member.c.device_id, applications.c.app == MAIN)
    open_ = [
        member.c.rollout_id == rollout_id,
        func.coalesce(member.c.state, "") == State.PENDING,  # so that the index of those without a bundle is taken
        member.c.bundle_id.is_(None),
        applications.c.state_seq >= 0,
        *([member.c.device_id.in_(these(device_ids))] if device_ids is not None else []),
    ]
    if connection.execute(select(member.c.device_id).join(applications, spoken).where(*open_).limit(1)).first() is None:
        return []
    aims = aim(connection, plan)
    found = (
        select(
            member.c.device_id,
            aims.bundle().label("bundle_id"),
            aims.step().label("step"),
            aims.lacks().label("lacks"),
        )
        .join_from(member, applications, spoken)
        .where(*open_)
        .subquery("found")
    )
    change = (
        update(rollout_devices)
        .where(MEMBERS.rollout_id == rollout_id, MEMBERS.device_id == found.c.device_id)
        .values(
            bundle_id=found.c.bundle_id,
            step=found.c.step,
            attempt=_attempt(connection, rollout_id, plan, found.c.device_id, found.c.bundle_id),
            state=case((found.c.lacks != "", State.SKIPPED), else_=State.PENDING),
            reason=case((found.c.lacks != "", found.c.lacks), else_=MEMBERS.reason),
            updated=now,
        )
        .returning(MEMBERS.device_id)
    )
    return list(connection.scalars(change))


def supersede(connection: Connection, rollout_id: int, now: int) -> None:
    """What the members of this rollout were in before is over for them."""
    mine = rollout_devices.alias("mine")
    taken = (
        select(mine.c.device_id)
        .where(mine.c.rollout_id == rollout_id, mine.c.device_id == MEMBERS.device_id, mine.c.heard)
        .correlate(rollout_devices)
    )
    for other in others(connection, rollout_id):
        connection.execute(
            update(rollout_devices)
            .where(MEMBERS.rollout_id == other, MEMBERS.state.in_(UNDERWAY), exists(taken))
            .values(
                state=State.SUPERSEDED,
                reason=f"rollout {rollout_id}",
                withdrawal=MEMBERS.state.in_(NOT_SWAPPED),
                deadline=None,
                heard=False,
                updated=now,
            )
        )
    if connection.execute(select(rollouts.c.id).where(rollouts.c.id != rollout_id).limit(1)).first() is not None:
        joined = select(mine.c.device_id).where(mine.c.rollout_id == rollout_id, mine.c.heard)
        told = update(rollout_devices).where(MEMBERS.device_id.in_(joined), MEMBERS.rollout_id != rollout_id)
        connection.execute(told.where(MEMBERS.heard).values(heard=False))


def others(connection: Connection, rollout_id: int) -> list[int]:
    """The other rollouts that have members whose way is not at its end."""
    underway = exists().where(MEMBERS.rollout_id == rollouts.c.id, MEMBERS.state.in_(UNDERWAY))
    query = select(rollouts.c.id).where(rollouts.c.id != rollout_id, underway).order_by(rollouts.c.id)
    return list(connection.scalars(query))


def _attempt(
    connection: Connection, rollout_id: int, plan: Plan, device: ColumnElement[int], bundle: ColumnElement[Any]
) -> ColumnElement[int]:
    """The attempt counts on from what was offered with this bundle to this device before."""
    before = select(rollouts.c.id).where(rollouts.c.product == plan.product, rollouts.c.id != rollout_id).limit(1)
    if connection.execute(before).first() is None and not plan.steps:
        return literal(1, BigInteger)
    other = rollout_devices.alias("other")
    highest = select(func.max(other.c.attempt)).where(
        other.c.device_id == device,
        other.c.bundle_id == bundle,
        other.c.offered_at.is_not(None),
        other.c.rollout_id != rollout_id,
    )
    return func.coalesce(highest.scalar_subquery(), literal(0, BigInteger)) + 1
