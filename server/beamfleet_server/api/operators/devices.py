"""Owns the routes of devices: the list, one of them, labels, commands, certificates."""

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from beamfleet_bundles import messages, pki, topics
from beamfleet_bundles.names import check_device, check_label
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import APIRouter, Query, Response

from beamfleet_server.api import problems
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.identity_schemas import IssuedCertificate, NewCertificate, Revocation, Revoked
from beamfleet_server.api.operators import device_list
from beamfleet_server.api.operators.cursors import Cursor, Limit
from beamfleet_server.api.operators.events import described as described_event
from beamfleet_server.api.operators.health import details as health_details
from beamfleet_server.api.schemas import (
    Certificate,
    Command,
    Denial,
    Device,
    DeviceDetails,
    Ended,
    LabelChanges,
    NewCommand,
    Page,
    Update,
)
from beamfleet_server.authorities import Authorities
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.evidence import EvidenceFiles
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.devices import Device as KnownDevice
from beamfleet_server.store.events import Wanted
from beamfleet_server.store.gate import FOR_EVER

UNKNOWN = problems.told("device.unknown")
HISTORY = 20
COMMAND_EXPIRY_S = 60
APP = "main"


def router(
    store: Store, authorities: Authorities, client: BrokerClient, evidence: EvidenceFiles, clock: Clock
) -> APIRouter:
    """`/devices`."""
    routes = guarded("devices")

    @routes.get("/devices", response_model=Page[Device])
    def listed(
        selector: Annotated[str, Query(max_length=2000)] = "",
        retired: bool = False,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """The devices that a selector means, by id; with `retired` also those that are out of service."""
        rows = store.devices.page(Selector.parse(selector), cursor or "", limit + 1, retired=retired)
        return Response(device_list.encode(rows, limit), media_type="application/json")

    @routes.get("/devices/{device}", responses=UNKNOWN)
    def one(device: str) -> DeviceDetails:
        """Everything that is known about a device."""
        return details(store, store.devices.find(device))

    @routes.patch("/devices/{device}", responses=UNKNOWN)
    def label(device: str, changes: LabelChanges) -> DeviceDetails:
        """Change labels; null takes one away."""
        for key, value in changes.labels.items():
            check_label(key, "x" if value is None else value)
        said = (f"{key}-" if value is None else f"{key}={value}" for key, value in changes.labels.items())
        about(device, ", ".join(said))
        store.devices.set_labels(device, changes.labels)
        return details(store, store.devices.find(device))

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

    @routes.post(
        "/devices/{device}/certificate",
        status_code=201,
        responses=problems.told("device.exists", "pki.request", "pki.key_type", "pki.encoding"),
    )
    def provision(device: str, new: NewCertificate) -> IssuedCertificate:
        """Enrol a device whose key was made elsewhere: a certificate for the key of this request. Its subject is
        ignored. With `replace` also for one that is enrolled; its certificates end."""
        check_device(device)
        for key, value in new.labels.items():
            check_label(key, value)
        about(device)
        asked = pki.read_request(pki.decode_body(new.request.encode(), pki.MAX_REQUEST))
        issue = partial(authorities.issue_device, public_key=asked)
        der = store.enrolment.provision(device, issue, clock(), given=new.labels, replace=new.replace)
        certificate = pki.load_certificate(der)
        facts = pki.read_certificate(certificate)
        return IssuedCertificate(
            device=device,
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            authorities=authorities.pem.decode(),
            serial=facts.serial,
            not_after=rfc3339(facts.not_after),
        )

    @routes.post("/devices/{device}/revoke", responses=problems.told("device.unknown", "certificate.none"))
    def revoke(device: str, which: Revocation) -> Revoked:
        """Revoke all certificates of a device, or one: its session ends within seconds, and it needs a new token to
        come back. What is known of it stays."""
        about(device, f"serial {which.serial}" if which.serial else "")
        return Revoked(device=device, serials=store.enrolment.revoke(device, which.serial, clock()))

    @routes.post("/devices/{device}/accept-clone", responses=UNKNOWN)
    def accept_clone(device: str) -> DeviceDetails:
        """Forget that two machines were seen with this device's identity, and take it again if it was cut off."""
        store.clones.accept(device, clock())
        return details(store, store.devices.find(device))

    @routes.delete("/devices/{device}", responses=UNKNOWN)
    async def delete(device: str) -> Ended:
        """Delete a device with all that is kept of it; its certificates are refused from now on."""
        await asyncio.to_thread(store.devices.remove, device, clock())
        await asyncio.to_thread(evidence.forget, device)
        if client.up:
            client.forget(topics.down(device, APP, "desired"))
        return Ended(ended=device)

    return routes


def details(store: Store, device: KnownDevice) -> DeviceDetails:
    """Everything that is known about a device, as it travels."""
    state = device.state or {}
    certificate = store.enrolment.newest_certificate(device.name)
    denial = store.gate.denial(device.name)
    return DeviceDetails(
        **_described(device),
        health=health_details(device),
        agent=device.agent,
        profile=device.profile,
        retired_by=device.retired_by,
        replaces=device.replaces,
        inventory=state.get("inventory", {}),
        previous=state.get("previous", ""),
        failed=state.get("failed", ""),
        power_losses=state.get("power_losses", 0),
        stopped=state.get("stopped", False),
        certificate=Certificate(
            serial=certificate.serial,
            not_after=rfc3339(certificate.not_after),
            revoked=rfc3339(certificate.revoked),
            authority=certificate.authority,
        )
        if certificate
        else None,
        denial=Denial(
            cause=denial.cause,
            reason=denial.reason,
            until=None if denial.until >= FOR_EVER else rfc3339(denial.until),
        )
        if denial
        else None,
        history=[described_event(event) for event in store.events.newest(HISTORY, Wanted(device.name))],
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
        "rollout": device.rollout,
        "unsafe_filesystem": state.get("inventory", {}).get("unsafe_filesystem", False),
        "clone": rfc3339(device.clone),
        "pinned": device.pinned,
        "retired": rfc3339(device.retired),
        "replaced_by": device.replaced_by,
    }


def _update(update: Mapping[str, Any] | None, progress: Mapping[str, Any] | None) -> Update | None:
    if update is None:
        return None
    ours = progress if progress and progress["manifest"] == update["manifest"] else {}
    copied = {key: update[key] for key in ("phase", "product", "version", "reason")}
    return Update(**copied, done=ours.get("done", 0), total=ours.get("total", 0))
