"""Owns the routes of pins: devices that rollouts leave alone."""

from typing import Annotated

from fastapi import APIRouter, Depends

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.devices import details
from beamfleet_server.api.rollout_schemas import Pinning
from beamfleet_server.api.schemas import DeviceDetails
from beamfleet_server.clock import Clock
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator

UNKNOWN = problems.told("device.unknown")


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/devices/{device}/pin`."""
    routes = guarded("devices")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.post("/devices/{device}/pin", responses=UNKNOWN)
    def pin(device: str, why: Pinning, operator: Admitted) -> DeviceDetails:
        """Keep a device on what it runs: rollouts skip it. Once more changes the reason."""
        about(device, why.reason)
        store.devices.pin(device, why.reason, operator.name, clock())
        return details(store, store.devices.find(device))

    @routes.delete("/devices/{device}/pin", responses=UNKNOWN)
    def unpin(device: str) -> DeviceDetails:
        """Let rollouts reach it again, from the next one on. One that is not pinned is no error."""
        store.devices.unpin(device)
        return details(store, store.devices.find(device))

    return routes
