"""Owns the routes of evidence: ask a device for it, see what has come, fetch it. What is fetched is sealed."""

import asyncio
import secrets
from typing import Any

from beamfleet_bundles import chain, messages, recipients, topics
from fastapi import APIRouter
from fastapi.responses import FileResponse

from beamfleet_server.api import problems
from beamfleet_server.api.evidence_schemas import AskedEvidence, Evidence, Recipient
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.schemas import Ended, Page
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.evidence import Evidence as Held
from beamfleet_server.evidence import EvidenceFiles
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about

COMMAND_EXPIRY_S = 60
APP = "main"
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
ONE = problems.told("device.unknown", "evidence.unknown")


def router(store: Store, files: EvidenceFiles, client: BrokerClient, clock: Clock) -> APIRouter:
    """`/devices/{device}/evidence`."""
    routes = guarded("evidence")

    @routes.post(
        "/devices/{device}/evidence",
        status_code=202,
        responses=problems.told(
            "device.unknown", "device.offline", "device.old_agent", "evidence.no_key", "broker.down", "server.disk_full"
        ),
    )
    async def ask(device: str) -> AskedEvidence:
        """Ask a device that is online for everything that helps to see why, sealed for the keys that targets names."""
        word = secrets.token_hex(8)
        about(device, f"evidence {word}")
        if not await asyncio.to_thread(store.devices.reachable, device):
            raise old_agent(device)
        who = await asyncio.to_thread(_recipients, store)
        held = await asyncio.to_thread(files.ask, device, word, clock())
        wish = messages.Command(v=1, id=word, name="diagnose")
        topic = topics.down(device, APP, "command")
        try:
            await client.publish(topic, messages.encode(wish), expiry_s=COMMAND_EXPIRY_S)
        except ServerError:
            await asyncio.to_thread(files.delete, device, word)
            raise
        return AskedEvidence(**_described(held), recipients=who)

    @routes.get("/devices/{device}/evidence", responses=problems.told("device.unknown"))
    def listed(device: str) -> Page[Evidence]:
        """What there is of a device, newest first."""
        store.devices.find(device)
        return Page(items=[Evidence(**_described(held)) for held in files.of(device)])

    @routes.get(
        "/devices/{device}/evidence/{evidence}",
        response_class=FileResponse,
        responses={200: {"content": BINARY}, **problems.told("device.unknown", "evidence.unknown", "evidence.waits")},
    )
    def fetch(device: str, evidence: str) -> FileResponse:
        """The sealed file; 409 `evidence.waits` until all of it has come."""
        store.devices.find(device)
        held = files.find(device, evidence)
        if held.state != "complete":
            what = f"the evidence {held.id} of {device} has not come yet: {held.bytes} bytes so far"
            raise ServerError("evidence.waits", what, "ask again in a moment")
        return FileResponse(held.path, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})

    @routes.delete("/devices/{device}/evidence/{evidence}", responses=ONE)
    def delete(device: str, evidence: str) -> Ended:
        """Delete it."""
        store.devices.find(device)
        about(device, f"evidence {evidence[:64]}")
        files.delete(device, evidence)
        return Ended(ended=evidence)

    return routes


def old_agent(device: str) -> ServerError:
    """The error for a device whose agent does not know what it is asked."""
    hint = "bring the agent up to date; on the device: beamfleet-agent diagnose --out FILE"
    return ServerError("device.old_agent", f"the agent of {device} is too old for this", hint)


def _recipients(store: Store) -> list[Recipient]:
    """Who can open it; error `evidence.no_key`. The device goes by its own copy of the same signed words."""
    found = recipients.read(chain.parse_top_targets(store.metadata.latest("targets")[1]).signed)
    if not found:
        what = "nobody is named who may open evidence, so devices seal none"
        raise ServerError("evidence.no_key", what, "beamfleet keys evidence create NAME")
    return [Recipient(name=each.name, key=each.id) for each in found]


def _described(held: Held) -> dict[str, Any]:
    return {
        "id": held.id,
        "device": held.device,
        "time": rfc3339(held.time),
        "state": held.state,
        "bytes": held.bytes,
    }
