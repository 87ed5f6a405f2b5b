"""Owns the routes of the fleet's quarantine: bundles that have halted a rollout, and lifting them out of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit
from beamfleet_server.api.rollout_schemas import Lifted, Lifting, Quarantined
from beamfleet_server.api.schemas import Page
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator
from beamfleet_server.store.quarantine import Quarantined as Held


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/quarantine`."""
    routes = guarded("quarantine")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.get("/quarantine")
    def listed(
        everything: Annotated[bool, Query(alias="all", description="also what was lifted")] = False,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[Quarantined]:
        """Bundles that no rollout offers, by manifest."""
        rows = store.quarantine.page(limit + 1, after=cursor or "", lifted=everything)
        items = [Quarantined(**_described(row)) for row in rows[:limit]]
        return Page(items=items, next=items[-1].manifest if len(rows) > limit else None)

    @routes.post("/quarantine/lift", responses=problems.told("quarantine.unknown"))
    def lift(what: Lifting, operator: Admitted) -> Lifted:
        """Let rollouts offer a bundle again, or all bundles of a release."""
        about(what.manifest or f"{what.product} {what.version}")
        lifted = store.quarantine.lift(
            operator.name,
            clock(),
            manifest=what.manifest,
            product=what.product or "",
            version=what.version or "",
        )
        return Lifted(lifted=lifted)

    return routes


def _described(held: Held) -> dict[str, Any]:
    return {
        "manifest": held.manifest,
        "product": held.product,
        "version": held.version,
        "rollout": held.rollout_id,
        "time": rfc3339(held.time),
        "reason": held.reason,
        "evidence": held.evidence,
        "lifted": rfc3339(held.lifted),
        "lifted_by": held.lifted_by,
    }
