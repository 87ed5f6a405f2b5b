"""Owns the routes of devices: the list, one of them, labels, commands."""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from beamfleet_bundles import messages, topics
from beamfleet_bundles.names import check_label
from fastapi import APIRouter, Query

from beamfleet_server.api import problems
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit
from beamfleet_server.api.operators.events import described as described_event
from beamfleet_server.api.schemas import (
    Certificate,
    Command,
    Device,
    DeviceDetails,
    Ended,
    LabelChanges,
    NewCommand,
    Page,
    Update,
    Verdict,
)
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.devices import Device as KnownDevice

UNKNOWN = problems.told("device.unknown")
HISTORY = 20
COMMAND_EXPIRY_S = 60
APP = "main"


def router(store: Store, client: BrokerClient, clock: Clock) -> APIRouter:
    """`/devices`."""
    routes = guarded("devices")

    @routes.get("/devices")
    def listed(
        selector: Annotated[str, Query(max_length=2000)] = "", cursor: Cursor = None, limit: Limit = 100
    ) -> Page[Device]:
        """The devices that a selector means, by id."""
        rows = store.devices.page(Selector.parse(selector), cursor or "", limit + 1)
        items = [Device(**_described(row)) for row in rows[:limit]]
        return Page(items=items, next=items[-1].id if len(rows) > limit else None)

    @routes.get("/devices/{device}", responses=UNKNOWN)
    def one(device: str) -> DeviceDetails:
        """Everything that is known about a device."""
        return _details(store, store.devices.find(device))

    @routes.patch("/devices/{device}", responses=UNKNOWN)
    def label(device: str, changes: LabelChanges) -> DeviceDetails:
        """Change labels; null takes one away."""
        for key, value in changes.labels.items():
            check_label(key, "x" if value is None else value)
        said = (f"{key}-" if value is None else f"{key}={value}" for key, value in changes.labels.items())
        about(device, ", ".join(said))
        store.devices.set_labels(device, changes.labels)
        return _details(store, store.devices.find(device))

    @routes.post(
        "/devices/{device}/command",
        status_code=202,
        responses=problems.told("device.unknown", "device.offline", "broker.down"),
    )
    async def command(device: str, new: NewCommand) -> Command:
        """Ask a device that is online to look for updates (`refresh`) or to report (`report`), once."""
        known = store.devices.find(device)
        if not known.online:
            raise ServerError(
                "device.offline", f"{device} is offline", "it looks and reports by itself when it is back"
            )
        about(device, new.name)
        wish = messages.Command(v=1, id=secrets.token_hex(8), name=new.name)
        topic = topics.down(device, APP, "command")
        await client.publish(topic, messages.encode(wish), expiry_s=COMMAND_EXPIRY_S)
        return Command(id=wish.id, device=device, name=new.name)

    @routes.delete("/devices/{device}", responses=UNKNOWN)
    async def delete(device: str) -> Ended:
        """Delete a device with all that is kept of it; its certificates are refused from now on."""
        await asyncio.to_thread(store.devices.remove, device, clock())
        if client.up:
            client.forget(topics.down(device, APP, "desired"))
        return Ended(ended=device)

    return routes


def _details(store: Store, device: KnownDevice) -> DeviceDetails:
    state = device.state or {}
    certificate = store.enrolment.newest_certificate(device.name)
    return DeviceDetails(
        **_described(device),
        agent=device.agent,
        profile=device.profile,
        inventory=state.get("inventory", {}),
        previous=state.get("previous", ""),
        failed=state.get("failed", ""),
        power_losses=state.get("power_losses", 0),
        stopped=state.get("stopped", False),
        certificate=Certificate(serial=certificate.serial, not_after=rfc3339(certificate.not_after))
        if certificate
        else None,
        history=[described_event(event) for event in store.events.newest(HISTORY, device.name)],
    )


def _described(device: KnownDevice) -> dict[str, Any]:
    state = device.state or {}
    return {
        "id": device.name,
        "labels": device.labels,
        "online": device.online,
        "last_seen": rfc3339(device.last_seen),
        "enrolled": rfc3339(device.enrolled),
        "product": device.product,
        "version": device.version,
        "slot": state.get("slot", ""),
        "manifest": device.manifest,
        "phase": device.phase,
        "attempt": device.attempt,
        "update": _update(state.get("update"), device.progress),
        "starts": state.get("starts", 0),
        "cause": state.get("cause", ""),
        "health": Verdict(verdict=device.health["verdict"], time=rfc3339(device.health["time"]))
        if device.health
        else None,
        "rollout": device.rollout,
        "unsafe_filesystem": state.get("inventory", {}).get("unsafe_filesystem", False),
    }


def _update(update: Mapping[str, Any] | None, progress: Mapping[str, Any] | None) -> Update | None:
    if update is None:
        return None
    ours = progress if progress and progress["manifest"] == update["manifest"] else {}
    copied = {key: update[key] for key in ("phase", "product", "version", "reason")}
    return Update(**copied, done=ours.get("done", 0), total=ours.get("total", 0))
