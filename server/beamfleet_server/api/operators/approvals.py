"""Owns the routes of rollouts that need a second operator."""

from typing import Annotated

from fastapi import APIRouter, Depends

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit, Number, number
from beamfleet_server.api.operators.rollouts import STARTING, told
from beamfleet_server.api.rollout_schemas import Approval, Rollout
from beamfleet_server.api.schemas import Page
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.store import Store
from beamfleet_server.store.approvals import PENDING
from beamfleet_server.store.approvals import Approval as KeptApproval
from beamfleet_server.store.operators import Operator

REFUSED = ("approval.unknown", "approval.decided", "approval.own")


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/approvals`."""
    routes = guarded("approvals")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.get("/approvals")
    def listed(cursor: Cursor = None, limit: Limit = 100) -> Page[Approval]:
        """Rollouts that wait for a second operator, or did; newest first."""
        rows, now = store.approvals.page(number(cursor), limit + 1), clock()
        items = [_described(row, now) for row in rows[:limit]]
        return Page(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    @routes.post("/approvals/{approval}/approve", status_code=201, responses=problems.told(*REFUSED, *STARTING))
    def approve(approval: Number, operator: Admitted) -> Rollout:
        """Start the rollout that another operator asked for."""
        now = clock()
        return told(store, store.approvals.approve(approval, operator.name, now), now)

    @routes.post("/approvals/{approval}/reject", responses=problems.told("approval.unknown", "approval.decided"))
    def reject(approval: Number, operator: Admitted) -> Approval:
        """Refuse it, or take one's own wish back."""
        now = clock()
        return _described(store.approvals.reject(approval, operator.name, now), now)

    return routes


def _described(kept: KeptApproval, now: int) -> Approval:
    plan = Plan.parse(kept.plan)
    return Approval(
        id=kept.id,
        product=plan.product,
        version=plan.version,
        selector=str(plan.devices),
        note=plan.note,
        plan=dict(kept.plan),
        devices=kept.devices,
        asked_by=kept.asked_by,
        created=rfc3339(kept.created),
        expires=rfc3339(kept.expires),
        state="expired" if kept.state == PENDING and kept.expires <= now else kept.state,
        decided_by=kept.decided_by,
        decided=rfc3339(kept.decided),
        rollout=kept.rollout_id,
    )
