"""Owns the routes of devices that ask to be enrolled without a token: the list, and what a person says to each."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.identity_schemas import Acceptance, Decision, Enrolment, Rejection
from beamfleet_server.api.schemas import Page
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator

State = Annotated[Literal["pending", "accepted", "rejected"] | None, Query(description="only those in this state")]


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/enrolments`."""
    routes = guarded("enrolments")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.get("/enrolments")
    def listed(state: State = None) -> Page[Enrolment]:
        """Devices that ask to be enrolled, the oldest first; there are never more than 2,000."""
        return Page(
            items=[
                Enrolment(
                    device=each.device,
                    fingerprint=each.fingerprint,
                    state=each.state,
                    known=each.known,
                    address=each.address,
                    created=rfc3339(each.created),
                    asked=rfc3339(each.asked),
                    decided_by=each.decided_by,
                    decided=rfc3339(each.decided),
                )
                for each in store.requests.all(state)
            ]
        )

    @routes.post(
        "/enrolments/{device}/accept",
        responses=problems.told("enrolment.unknown", "enrolment.ambiguous", "enrolment.decided", "device.exists"),
    )
    def accept(device: str, acceptance: Acceptance, operator: Admitted) -> Decision:
        """Let a device in: it gets its certificate when it asks next. Other keys that claim the same id are
        rejected."""
        given = acceptance.fingerprint
        about(device, f"key {given}" if given else "")
        accepted = store.requests.accept(device, given, operator.name, clock(), replace=acceptance.replace)
        return Decision(device=device, state="accepted", fingerprint=accepted)

    @routes.post("/enrolments/{device}/reject", responses=problems.told("enrolment.unknown"))
    def reject(device: str, rejection: Rejection, operator: Admitted) -> Decision:
        """Refuse a device that asks; it hears of it when it asks next."""
        given = rejection.fingerprint
        about(device, f"key {given}" if given else "")
        store.requests.reject(device, given, operator.name, clock())
        return Decision(device=device, state="rejected", fingerprint=given)

    return routes
