"""Owns the routes with which people steer a rollout: pause, resume, approve, abort, undo, retry."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Number
from beamfleet_server.api.operators.rollouts import phase_index, told
from beamfleet_server.api.rollout_schemas import Approving, Pausing, Retried, Retrying, Rollout, Undoing
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator

ENDED = problems.told("rollout.unknown", "rollout.finished")
HELD = problems.told("rollout.unknown", "rollout.finished", "release.quarantined")


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/rollouts/{rollout}/...`."""
    routes = guarded("rollouts")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.post("/rollouts/{rollout}/pause", responses=ENDED)
    def pause(rollout: Number, why: Pausing, operator: Admitted) -> Rollout:
        """Offer nothing more, and hold what has not swapped, until somebody resumes it. Twice is no error."""
        about(str(rollout), why.reason)
        now = clock()
        store.advancing.pause(rollout, operator.name, why.reason, now)
        return told(store, rollout, now)

    @routes.post("/rollouts/{rollout}/resume", responses=HELD)
    def resume(rollout: Number, operator: Admitted) -> Rollout:
        """Go on with a rollout that is paused or halted; what failed so far is forgiven."""
        now = clock()
        store.advancing.resume(rollout, operator.name, now)
        return told(store, rollout, now)

    @routes.post(
        "/rollouts/{rollout}/approve", responses=problems.told("rollout.unknown", "rollout.finished", "rollout.no_gate")
    )
    def approve(rollout: Number, which: Approving, operator: Admitted) -> Rollout:
        """Open the gate at which a rollout waits. With the name of a phase that it has left already, nothing happens:
        so the same request may come twice."""
        about(str(rollout), which.phase)
        facts, now = store.rollouts.find(rollout), clock()
        index = phase_index(facts.plan, which.phase)
        if index is not None and index > facts.phase:
            raise _no_gate(rollout, f"rollout {rollout} has not come to {which.phase}")
        if index is None or index == facts.phase:
            store.advancing.approve(rollout, operator.name, now)
        return told(store, rollout, now)

    @routes.post("/rollouts/{rollout}/abort", responses=ENDED)
    def abort(rollout: Number, operator: Admitted, why: Pausing | None = None) -> Rollout:
        """End a rollout: no more offers, and devices that have not swapped keep what they run. Twice is no error."""
        reason = why.reason if why else ""
        about(str(rollout), reason)
        now = clock()
        store.advancing.abort(rollout, operator.name, reason, now)
        return told(store, rollout, now)

    @routes.post(
        "/rollouts/{rollout}/undo",
        status_code=201,
        responses={
            200: {"model": Rollout, "description": "An earlier request with this key has started it"},
            **problems.told("rollout.unknown", "rollout.nothing_to_undo"),
        },
    )
    def undo(rollout: Number, how: Undoing, response: Response, operator: Admitted) -> Rollout:
        """Bring what the rollout has committed back to what ran before it: a rollout of its own, with the same phases.
        One that runs is aborted first."""
        now = clock()
        undoing, is_new = store.advancing.undo(rollout, operator.name, how.key, now)
        if not is_new:
            response.status_code = 200
        return told(store, undoing, now)

    @routes.post("/rollouts/{rollout}/retry", responses=HELD)
    def retry(rollout: Number, which: Retrying, operator: Admitted) -> Retried:
        """Let what reverted or failed try again; a halted rollout goes on."""
        about(str(rollout), f"{len(which.devices)} devices" if which.devices else "")
        return Retried(rollout=rollout, retried=store.advancing.retry(rollout, which.devices, operator.name, clock()))

    return routes


def _no_gate(rollout: int, what: str) -> ServerError:
    """The error for a gate that is not there."""
    hint = f"see: beamfleet rollout status {rollout}; large rollouts of others: beamfleet approval list"
    return ServerError("rollout.no_gate", what, hint)
