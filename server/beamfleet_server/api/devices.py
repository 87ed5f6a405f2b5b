"""Owns what devices fetch over HTTPS: metadata, manifests, packs, their assignment. Everything here is signed
elsewhere. What they offer, when they have seen newer metadata than they are served, is verified by `publishing`; what
they hand in is `device_evidence`, and their way to the broker where only this port is open `device_session`.

The listener ends the handshake without a certificate of the fleet; here its serial is looked up on each request.
"""

import asyncio
import hashlib
from pathlib import Path as FilePath
from typing import Annotated

from beamfleet_bundles import pki
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import FileResponse

from beamfleet_server.api import problems
from beamfleet_server.api.device_evidence import LARGEST_PIECE, take_evidence
from beamfleet_server.api.device_evidence import PLACE as EVIDENCE
from beamfleet_server.api.device_session import take_sessions
from beamfleet_server.api.guard import Guard, stand
from beamfleet_server.api.limits import BodyLimit
from beamfleet_server.api.problems import TooManyError
from beamfleet_server.api.renewals import RENEW, Renewals
from beamfleet_server.api.schemas import AdoptedMetadata, OfferedMetadata, decoded
from beamfleet_server.broker.passage import Passages
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.evidence import EvidenceFiles
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.publishing import Publisher
from beamfleet_server.rates import Rates
from beamfleet_server.store import Store
from beamfleet_server.store.acts import ACTING, Act
from beamfleet_server.store.assignments import FRESH_S
from beamfleet_server.store.enrolment import cloned
from beamfleet_server.store.gate import CLONE
from beamfleet_server.tls import peer_der, peer_of

LARGEST_BODY = 1024
OFFER = "/metadata"
LARGEST_OFFER = 2 << 20
OFFERS_PER_S, OFFERS_AT_ONCE = 1 / 30, 4
"""Of one device: verifying takes time."""
FOR_EVER = "private, max-age=31536000, immutable"
NEVER = "no-store"
PUBLIC = frozenset({"root", "timestamp", "snapshot", "targets"})
"""The roles that say nothing about what the fleet runs."""

Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
App = Annotated[str, Query(pattern="^[a-z][a-z0-9-]{0,30}$")]
Nonce = Annotated[str | None, Query(pattern="^[0-9a-f]{32,64}$")]


class Identified:
    """Admits devices; as a dependency of a route it gives the device's id. `rates`: how often one may ask."""

    def __init__(self, store: Store, rates: Rates, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._rates = rates

    def __call__(self, request: Request) -> str:
        """The device that was admitted."""
        return str(request.state.device)

    async def admit(self, _: str, request: Request, act: Act) -> None:
        """The device whose certificate this connection has; errors `certificate.unknown`, `device.cloned`,
        `request.rate` (for who is denied, too)."""
        peer = peer_of(request.scope)
        wait_s = self._rates.take(peer.serial) if peer else 0.0
        if wait_s:
            raise TooManyError(wait_s)
        der = peer_der(request.scope)
        holder = await asyncio.to_thread(self._store.enrolment.holder, peer.serial, der) if peer else None
        if peer is None or holder is None or holder.device != peer.name:
            act.detail = f"serial {peer.serial}" if peer else ""
            raise ServerError("certificate.unknown", "this certificate is not, or no longer, one of the fleet's")
        act.actor = f"device:{holder.device}"
        denial = await asyncio.to_thread(self._store.gate.denial, holder.device)
        if denial is not None and denial.until > self._clock():
            if denial.cause == CLONE:
                raise cloned(holder.device)
            raise TooManyError(denial.until - self._clock())
        await asyncio.to_thread(self._store.enrolment.seen, holder, self._clock())
        request.state.device = holder.device


def application(
    store: Store,
    publisher: Publisher,
    keys: OnlineKeys,
    evidence: EvidenceFiles,
    passages: Passages,
    renewals: Renewals,
    rates: Rates,
    clock: Clock,
) -> FastAPI:
    """The ASGI application of the devices' listener."""
    app = FastAPI(title="beamfleet devices", openapi_url=None, docs_url=None, redoc_url=None)
    problems.install(app)
    identified = Identified(store, rates, clock)
    stand(app, Guard(identified.admit, store.audit))
    Device = Annotated[str, Depends(identified)]  # noqa: N806 (a type)

    @app.get("/metadata/{name}", tags=["device"])
    def metadata(name: Annotated[str, Path(max_length=64)], device: Device) -> Response:
        """`timestamp.json`, `N.ROLE.json`, as python-tuf asks for them."""
        del device
        return metadata_file(store, name)

    _take_offers(app, publisher, identified)

    @app.get("/targets/{product}/{version}/{target}/{name}", tags=["device"])
    def manifest(product: str, version: str, target: str, name: str, device: Device) -> Response:
        """`P/V/T/HASH.manifest`."""
        del device
        bundle = store.bundles.find(product, version, target)
        if bundle is None or name != f"{bundle.manifest}.manifest":
            raise ServerError("bundle.unknown", "there is no such manifest")
        return _file(publisher.manifest_path(bundle.manifest), bundle.manifest, "application/json")

    @app.api_route("/packs/{manifest}/full", methods=["GET", "HEAD"], tags=["device"])
    def pack(manifest: Hash, device: Device) -> Response:
        """The full pack of a manifest; with Range and an ETag that never changes."""
        del device
        bundle = store.bundles.with_manifest(manifest)
        return _file(publisher.pack_path(manifest), bundle.pack_sha256, "application/octet-stream")

    @app.get("/assignment", tags=["device"])
    def assignment(
        request: Request,
        device: Device,
        app: App = "main",
        nonce: Nonce = None,
    ) -> Response:
        """The newest assignment, or 204; 304 if it is the one of the ETag. With a nonce it is signed anew, to answer
        this very question; without one it is signed again before it gets too old for a device that only asks here."""
        told = store.assignments.find(device, app)
        if told is None:
            return Response(status_code=204, headers={"Cache-Control": NEVER})
        if nonce is not None:
            return _json(keys.sign_assignment(told.wanted, nonce), NEVER)
        now = clock()
        if told.created < now - FRESH_S:
            ACTING.set(None)  # it is the server that signs again, not the device
            store.assignments.renew([device], keys.sign_assignment, now)
            told = store.assignments.find(device, app) or told
        tag = f'"{hashlib.sha256(told.body).hexdigest()}"'
        headers = {"Cache-Control": NEVER, "ETag": tag}
        if tag in [each.strip() for each in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(told.body, media_type="application/json", headers=headers)

    take_evidence(app, evidence, identified, clock)
    take_sessions(app, passages, identified)
    renewals.take(app, "device")
    app.add_middleware(
        BodyLimit, limit=LARGEST_BODY, larger={OFFER: LARGEST_OFFER, EVIDENCE: LARGEST_PIECE, RENEW: pki.MAX_REQUEST}
    )
    return app


def _take_offers(app: FastAPI, publisher: Publisher, identified: Identified) -> None:
    offers = Rates(OFFERS_PER_S, OFFERS_AT_ONCE)

    @app.post(OFFER, tags=["device"])
    def offer(offered: OfferedMetadata, device: Annotated[str, Depends(identified)]) -> AdoptedMetadata:
        """Take back what this device has of signed metadata and the server has lost. Snapshot and timestamp are newer
        afterwards, so that the device can refresh."""
        if wait_s := offers.take(device):
            raise TooManyError(wait_s)
        documents = {role: decoded(role, text) for role, text in offered.documents.items()}
        return AdoptedMetadata(adopted=publisher.adopt(documents, device))


def metadata_file(store: Store, name: str, *, public: bool = False) -> Response:
    """The metadata that a device asks for by this file name; with `public` that of the top-level roles only. Error
    `metadata.none`."""
    version, _, role = name.removesuffix(".json").rpartition(".")
    if not name.endswith(".json") or (role == "timestamp") == bool(version) or (public and role not in PUBLIC):
        raise ServerError("metadata.none", f"there is no metadata {name!r}")
    if role == "timestamp":
        return _json(store.metadata.latest("timestamp")[1], NEVER)
    if not (version.isascii() and version.isdigit() and len(version) < 19):
        raise ServerError("metadata.none", f"there is no metadata {name!r}")
    return _json(store.metadata.find(role, int(version)), FOR_EVER)


def _json(body: bytes, caching: str) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": caching})


def _file(path: FilePath, sha256: str, media_type: str) -> FileResponse:
    return FileResponse(path, media_type=media_type, headers={"ETag": f'"{sha256}"', "Cache-Control": FOR_EVER})
