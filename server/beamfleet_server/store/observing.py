"""Owns what members come to by what their devices say: `fleet.member.observed` for any number of them at once, as one
UPDATE. A test holds the two equal over generated rows.

Every function works inside a change of `advancing`. A statement is composed once for each plan: that takes longer than
it runs.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from beamfleet_server.fleet.member import FALLBACK, RETURNED
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import (
    ALREADY,
    DEADLINE,
    ID_LENGTH,
    IN_FLIGHT,
    NO_EVIDENCE_CAUSES,
    NO_EVIDENCE_CODES,
    NO_EVIDENCE_PREFIXES,
    NOT_SWAPPED,
    PUT_OFF,
    SETTLED,
    STEP,
    SWAPPED,
    WORDS,
    State,
)
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.tables import applications, bundles, devices, rollout_devices

MEMBERS = rollout_devices.c
KEEP, COMMIT, CLIMB, FOLLOW, APPEAR, END, AGAIN, RETURN = range(8)
"""What becomes of a member: nothing; committed; over a stone; the device's word; the same, with a new deadline; an end;
a retry; pending, since a lost device spoke."""
ENDS = (State.REVERTED, State.FAILED)
PLANS = 32
"""Of how many plans the statements are kept."""
ROLLOUT, NOW = bindparam("of_rollout", type_=Integer), bindparam("at_now", type_=BigInteger)


def observe(
    connection: Connection, rollout_id: int, plan: Plan, device_ids: Sequence[int] | None, now: int
) -> list[Row[Any]]:
    """Bring members up to date with their devices' newest reports and the clock; (device_id, attempt) of those whose
    assignment has to be withdrawn. device_ids: only these, or None."""
    given: dict[str, Any] = {"of_rollout": rollout_id, "at_now": now}
    if device_ids is not None:
        given["these"] = list(device_ids)
    rows = connection.execute(_change(plan, named=device_ids is not None), given)
    return [row for row in rows.all() if _withdrawn(row)]


@lru_cache(PLANS)
def _change(plan: Plan, *, named: bool) -> ReturningUpdate[Any]:
    found = _outcome(_claims(named=named), plan)
    late, kind, after = found.c.late, found.c.kind, found.c.after
    ended = kind == END
    return (
        update(rollout_devices)
        .where(MEMBERS.rollout_id == ROLLOUT, MEMBERS.device_id == found.c.device_id)
        .values(
            state=case(
                (late, State.FAILED),
                (kind == COMMIT, State.COMMITTED),
                (kind.in_((CLIMB, AGAIN, RETURN)), State.PENDING),
                (ended, found.c.end_state),
                else_=after,
            ),
            reason=case(
                (late, DEADLINE),
                (kind == COMMIT, case((found.c.offered, ""), else_=ALREADY)),
                (kind == CLIMB, STEP),
                (kind == RETURN, RETURNED),
                (kind.in_((END, AGAIN)), found.c.end_reason),
                else_=found.c.told_reason,
            ),
            detail=case(
                (late, after),
                (kind.in_((COMMIT, CLIMB, RETURN)), ""),
                (kind.in_((END, AGAIN)), found.c.end_detail),
                else_=found.c.told_detail,
            ),
            evidence=case((late, after != State.OFFERED), (ended, found.c.end_evidence), else_=literal(False)),
            phase=case((kind == RETURN, null()), else_=MEMBERS.phase),
            bundle_id=case((kind == CLIMB, null()), else_=MEMBERS.bundle_id),
            step=case((kind == CLIMB, literal(False)), else_=MEMBERS.step),
            offered_at=case((kind == CLIMB, null()), else_=MEMBERS.offered_at),
            attempt=case((kind == AGAIN, MEMBERS.attempt + 1), else_=MEMBERS.attempt),
            tries=case(
                (kind == CLIMB, literal(0)), (kind.in_((AGAIN, RETURN)), MEMBERS.tries + 1), else_=MEMBERS.tries
            ),
            next_try=case(
                (kind == AGAIN, NOW + _back_off(plan, MEMBERS.tries)),
                (kind.in_((CLIMB, RETURN)), null()),
                else_=MEMBERS.next_try,
            ),
            deadline=case(
                (or_(late, kind.in_((COMMIT, CLIMB, END, AGAIN))), null()),
                (kind == APPEAR, NOW + literal(plan.deadline, BigInteger)),
                else_=MEMBERS.deadline,
            ),
            updated=NOW,
        )
        .returning(MEMBERS.device_id, MEMBERS.attempt, MEMBERS.state, MEMBERS.reason)
    )


def stale(connection: Connection, rollout_id: int, plan: Plan, limit: int, now: int, *, all_: bool) -> list[int]:
    """At most `limit` members that `observe` would change; all_: also among those that only a report can change. Reads
    only."""
    given = {"of_rollout": rollout_id, "at_now": now}
    return list(connection.scalars(_stale(plan, all_=all_).limit(limit), given))


@lru_cache(PLANS)
def _stale(plan: Plan, *, all_: bool) -> Select[Any]:
    claims = _claims(named=False, states=() if all_ else (*IN_FLIGHT, State.FAILED))
    return select(_outcome(claims, plan).c.device_id)


def returned(connection: Connection, rollout_id: int, limit: int) -> list[int]:
    """At most `limit` members that were lost and have spoken since then."""
    query = (
        select(MEMBERS.device_id)
        .join_from(rollout_devices, devices)
        .where(MEMBERS.rollout_id == rollout_id, *lost(), devices.c.last_seen > MEMBERS.updated)
        .limit(limit)
    )
    return list(connection.scalars(query))


def lost() -> list[ColumnElement[bool]]:
    """What holds for members that never answered."""
    return [MEMBERS.state == State.FAILED, MEMBERS.reason == DEADLINE, not_(MEMBERS.evidence)]


def _withdrawn(row: Row[Any]) -> bool:
    if row.state == State.PENDING:
        return row.reason not in (STEP, RETURNED)
    return bool(row.state == State.FAILED and row.reason == DEADLINE)


def _claims(*, named: bool, states: Sequence[State] = ()) -> CTE:
    """Members that are heard, with what their devices claim for the manifest and attempt: `fleet.member.told`. named:
    only the devices of the parameter `these`; states: only in these, if any are given."""
    member, app, bundle = rollout_devices.alias("member"), applications.c, bundles.c
    offered = member.c.offered_at.is_not(None)
    about = and_(offered, app.update_manifest == bundle.manifest, app.update_attempt == member.c.attempt)
    settled = and_(app.phase.in_(SETTLED), app.manifest == bundle.manifest)
    launcher = and_(
        offered,
        app.failed_slot == func.substr(bundle.manifest, 1, ID_LENGTH),
        app.failed_attempt == member.c.attempt,
    )
    put_off = and_(app.update_phase.in_(("downloading", "staged")), app.update_reason == PUT_OFF)
    words = [(app.update_phase == word, str(state)) for word, state in WORDS.items()]
    said = case((app.update_phase.in_(ENDS), app.update_phase), (put_off, State.WAITING), *words, else_=null())
    return (
        select(
            *(member.c[name] for name in ("device_id", "state", "reason", "detail", "phase", "step", "tries")),
            *(member.c[name] for name in ("deadline", "evidence", "updated")),
            offered.label("offered"),
            case((settled, State.COMMITTED), (and_(about, said.is_not(None)), said), (launcher, State.REVERTED)).label(
                "told"
            ),
            case(
                (settled, ""),
                (and_(about, said.is_not(None)), app.update_reason),
                (launcher, app.failed_cause),
                else_="",
            ).label("told_reason"),
            case((settled, ""), (and_(about, said.is_not(None)), app.update_detail), else_="").label("told_detail"),
            and_(launcher, app.phase == FALLBACK, app.manifest != bundle.manifest).label("fell"),
            app.failed_cause.label("failed_cause"),
            func.coalesce(devices.c.last_seen, 0).label("seen"),
        )
        .join_from(member, devices, devices.c.id == member.c.device_id)
        .join(applications, and_(app.device_id == member.c.device_id, app.app == MAIN))
        .join(bundles, bundle.id == member.c.bundle_id)
        .where(
            member.c.rollout_id == ROLLOUT,
            *([member.c.device_id.in_(bindparam("these", expanding=True))] if named else []),
            *([member.c.state.in_(states)] if states else []),
            member.c.state != State.SUPERSEDED,
            or_(member.c.state != State.SKIPPED, offered),
            member.c.heard,
        )
        .cte("claims")
        .prefix_with("MATERIALIZED")
    )


def _outcome(claims: CTE, plan: Plan) -> CTE:
    """What becomes of them; only those that change."""
    row = claims.c
    fell = and_(row.state == State.COMMITTED, row.fell)
    end_state = case((fell, State.REVERTED), else_=row.told)
    end_reason = case((fell, row.failed_cause), else_=row.told_reason)
    end_detail = case((fell, ""), else_=row.told_detail)
    evidence = _is_evidence(end_state, end_reason)
    end = case((or_(evidence, row.tries >= plan.retries), END), else_=AGAIN)
    told_end = row.told.in_(ENDS)
    swapped = row.told.in_(SWAPPED)
    further = or_(row.detail.in_(NOT_SWAPPED), and_(row.detail == SWAPPED[0], row.told == SWAPPED[1]))
    healed = case(
        (or_(row.reason != DEADLINE, row.detail.not_in(IN_FLIGHT)), KEEP),
        (told_end, end),
        (swapped, case((further, APPEAR), else_=KEEP)),
        (and_(not_(row.evidence), row.seen > row.updated, row.tries < plan.retries), RETURN),
        else_=KEEP,
    )
    idle = row.state.in_((State.PENDING, State.SKIPPED))
    kind = case(
        (row.state == State.COMMITTED, case((fell, end), else_=KEEP)),
        (and_(row.state == State.REVERTED, or_(row.evidence, row.told.is_(None), row.told != State.COMMITTED)), KEEP),
        (row.told == State.COMMITTED, case((row.step, CLIMB), else_=COMMIT)),
        (row.state == State.FAILED, healed),
        (and_(idle, swapped), APPEAR),
        (and_(idle, or_(row.told.is_(None), not_(told_end))), KEEP),
        (row.told.is_(None), KEEP),
        (told_end, end),
        else_=FOLLOW,
    )
    judged = select(
        row.device_id,
        row.offered,
        row.told_reason,
        row.told_detail,
        row.deadline,
        row.state,
        row.reason,
        row.detail,
        row.evidence,
        kind.label("kind"),
        case((kind.in_((FOLLOW, APPEAR)), row.told), (kind == KEEP, row.state), else_="").label("after"),
        end_state.label("end_state"),
        end_reason.label("end_reason"),
        end_detail.label("end_detail"),
        evidence.label("end_evidence"),
    ).cte("judged")
    judged = judged.prefix_with("MATERIALIZED")  # or each CASE would be worked out again wherever it is named
    seen = judged.c
    late = and_(seen.after.in_(IN_FLIGHT), seen.kind != APPEAR, seen.deadline <= NOW)
    same = and_(
        seen.kind == FOLLOW,
        seen.after == seen.state,
        seen.told_reason == seen.reason,
        seen.told_detail == seen.detail,
        not_(seen.evidence),
    )
    return (
        select(
            seen.device_id,
            seen.offered,
            seen.told_reason,
            seen.told_detail,
            seen.kind,
            seen.after,
            seen.end_state,
            seen.end_reason,
            seen.end_detail,
            seen.end_evidence,
            func.coalesce(late, literal(False)).label("late"),
        )
        .where(or_(func.coalesce(late, literal(False)), and_(seen.kind != KEEP, not_(same))))
        .cte("outcome")
        .prefix_with("MATERIALIZED")
    )


def _is_evidence(state: ColumnElement[Any], reason: ColumnElement[Any]) -> ColumnElement[bool]:
    harmless = or_(reason.in_(NO_EVIDENCE_CODES), _begins(reason, NO_EVIDENCE_PREFIXES))
    return case((state == State.REVERTED, reason.not_in(NO_EVIDENCE_CAUSES)), else_=not_(harmless))


def _begins(text: ColumnElement[Any], beginnings: Sequence[str]) -> ColumnElement[bool]:
    return or_(*(func.substr(text, 1, len(each)) == each for each in beginnings))


def _back_off(plan: Plan, tries: ColumnElement[int]) -> ColumnElement[int]:
    waits = [(tries == number, literal(plan.back_off(number), BigInteger)) for number in range(plan.retries)]
    longest = literal(plan.back_off(plan.retries), BigInteger)
    return case(*waits, else_=longest) if waits else longest
