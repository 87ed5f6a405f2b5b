"""Owns the routes of rollouts."""

from typing import Annotated, Any

from beamfleet_bundles.names import check_product, check_version
from fastapi import APIRouter, Depends, Response

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit, Number, number
from beamfleet_server.api.schemas import Member, NewRollout, Page, Rollout, RolloutSummary
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.advancing import Plan
from beamfleet_server.store.operators import Operator
from beamfleet_server.store.rollouts import RolloutFacts

REFUSED = problems.told(
    "release.unknown", "rollout.no_selector", "rollout.no_devices", "rollout.no_target", "rollout.needs_approval"
)
UNKNOWN = problems.told("rollout.unknown")


def router(store: Store, authentication: Authentication, clock: Clock, approval_above: int) -> APIRouter:
    """`/rollouts`. `approval_above`: more devices than that need a second operator; 0: never."""
    routes = guarded("rollouts")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.post(
        "/rollouts",
        status_code=201,
        responses={
            200: {"model": Rollout, "description": "An earlier request with this key has started it"},
            **REFUSED,
        },
    )
    def start(new: NewRollout, response: Response, operator: Admitted) -> Rollout:
        """Roll a release out to the devices that a selector means, the canaries first. A large one may need a second
        operator: 409 `rollout.needs_approval` then, and `/approvals` has it."""
        selector = Selector.parse(new.selector)
        if not selector.terms and not new.all:
            raise ServerError("rollout.no_selector", "no devices are named", "name them by labels (-l), or say --all")
        plan = Plan(check_product(new.product), check_version(new.version), selector, new.canary, new.note, new.key)
        about(f"{new.product} {new.version}", new.selector or "all")
        if store.approvals.needed(plan, approval_above):
            asked = store.approvals.ask(plan, operator.name, clock())
            what = f"a rollout to more than {approval_above} devices needs a second operator; it waits as {asked}"
            raise ServerError("rollout.needs_approval", what, f"another operator: beamfleet rollout approve {asked}")
        rollout, is_new = store.advancing.start(plan, clock())
        if not is_new:
            response.status_code = 200
        return described_rollout(store, rollout)

    @routes.get("/rollouts")
    def listed(cursor: Cursor = None, limit: Limit = 100) -> Page[RolloutSummary]:
        """The rollouts, newest first."""
        rows = store.rollouts.page(number(cursor), limit + 1)
        items = [RolloutSummary(**_described(row)) for row in rows[:limit]]
        return Page(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    @routes.get("/rollouts/{rollout}", responses=UNKNOWN)
    def one(rollout: Number) -> Rollout:
        """A rollout with its devices."""
        return described_rollout(store, rollout)

    @routes.post("/rollouts/{rollout}/abort", responses=problems.told("rollout.unknown", "rollout.finished"))
    def abort(rollout: Number) -> Rollout:
        """End a rollout: no more offers, and devices that have not swapped keep what they run."""
        store.advancing.abort(rollout, "aborted by an operator", clock())
        return described_rollout(store, rollout)

    return routes


def described_rollout(store: Store, rollout: int) -> Rollout:
    """A rollout with its devices, as it travels."""
    members = [
        Member(
            id=member.device,
            state=member.state,
            canary=member.canary,
            reason=member.reason,
            done=member.progress["done"] if member.progress else 0,
            total=member.progress["total"] if member.progress else 0,
            updated=rfc3339(member.updated),
        )
        for member in store.rollouts.members(rollout)
    ]
    return Rollout(**_described(store.rollouts.find(rollout)), devices=members)


def _described(rollout: RolloutFacts) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "product": rollout.product,
        "version": rollout.version,
        "selector": rollout.selector,
        "canary": rollout.canary,
        "note": rollout.note,
        "state": rollout.state,
        "phase": rollout.phase,
        "reason": rollout.reason,
        "created": rfc3339(rollout.created),
        "finished": rfc3339(rollout.finished),
        "counts": dict(rollout.counts),
    }
