"""Owns the routes that take devices out of service: decommissioned, or replaced by others."""

import asyncio
from typing import Annotated

from beamfleet_bundles import topics
from fastapi import APIRouter, Depends

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.identity_schemas import Replaced, Successor
from beamfleet_server.api.operators.devices import APP, details
from beamfleet_server.api.schemas import DeviceDetails
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator


def router(store: Store, authentication: Authentication, client: BrokerClient, clock: Clock) -> APIRouter:
    """`/devices/{device}/replace`, `/devices/{device}/decommission`."""
    routes = guarded("devices")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    def silence(device: str) -> None:
        if client.up:
            client.forget(topics.down(device, APP, "desired"))

    @routes.post(
        "/devices/{device}/replace",
        responses=problems.told(
            "device.unknown", "device.itself", "device.retired", "device.replaced", "device.successor"
        ),
    )
    async def replace(device: str, successor: Successor, operator: Admitted) -> Replaced:
        """Take a device out of service and give what it had to another one: labels, pin, place in rollouts. That gets
        it now, or when it enrols. The same again changes nothing."""
        about(device, f"by {successor.by}")
        arguments = (device, successor.by, operator.name, clock())
        replaced = await asyncio.to_thread(store.retirement.replace, *arguments)
        silence(device)
        return Replaced(
            device=device,
            by=successor.by,
            retired=rfc3339(replaced.retired),
            handed_over=rfc3339(replaced.handed_over),
            waits=replaced.waits,
        )

    @routes.post("/devices/{device}/decommission", responses=problems.told("device.unknown"))
    async def decommission(device: str, operator: Admitted) -> DeviceDetails:
        """Take a device out of service: its certificates are revoked, its tokens end, and no selector, rollout or
        verdict means it any more. What is known of it stays. Once more changes nothing."""
        about(device)
        await asyncio.to_thread(store.retirement.decommission, device, operator.name, clock())
        silence(device)
        return await asyncio.to_thread(lambda: details(store, store.devices.find(device)))

    return routes
