"""Owns the routes of bundles: the upload, streamed into quarantine, and what is published."""

import asyncio
import secrets
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from beamfleet_server.api import problems
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit, number
from beamfleet_server.api.schemas import Bundle, BundleContent, BundleUpload, Page, Release
from beamfleet_server.clock import rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.publishing import Publisher
from beamfleet_server.store import Store
from beamfleet_server.store.bundles import PublishedBundle

UPLOAD = "/bundles"
PIECE = 1 << 20
REFUSED = problems.told(
    "request.aborted",
    "product.unknown",
    "bundle.version_exists",
    "bundle.unsigned",
    "bundle.untrusted",
    "metadata.none",
    "metadata.conflict",
    "server.disk_full",
)
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

Filter = Annotated[str | None, Query(max_length=64)]


def router(store: Store, publisher: Publisher, quarantine: Path, largest: int) -> APIRouter:
    """`/bundles`. `largest`: bytes of a bundle that is taken."""
    routes = guarded("bundles")

    @routes.post(
        UPLOAD,
        status_code=201,
        openapi_extra={"requestBody": {"required": True, "content": BINARY}},
        responses={200: {"model": BundleUpload, "description": "The same bundle was there already"}, **REFUSED},
    )
    async def upload(request: Request, response: Response) -> BundleUpload:
        """Publish a signed `.bundle` file. The same one again is no error."""
        path = quarantine / f"{secrets.token_hex(16)}.bundle"
        try:
            await _receive(request, path, largest)
            published = await asyncio.to_thread(publisher.take_bundle, path)
        finally:
            path.unlink(missing_ok=True)
        if published.already:
            response.status_code = 200
        return BundleUpload(**_described(published.bundle), already=published.already)

    @routes.get("/bundles")
    def listed(
        product: Filter = None, version: Filter = None, cursor: Cursor = None, limit: Limit = 100
    ) -> Page[Bundle]:
        """The published bundles, newest first."""
        rows = store.bundles.page(product, version, number(cursor), limit + 1)
        items = [Bundle(**_described(row)) for row in rows[:limit]]
        return Page(items=items, next=str(rows[limit - 1].id) if len(rows) > limit else None)

    @routes.get("/bundles/{product}/{version}/{target}", responses=problems.told("bundle.unknown"))
    def one(product: str, version: str, target: str) -> BundleContent:
        """One bundle with its manifest."""
        bundle = store.bundles.find(product, version, target)
        if bundle is None:
            what = f"{product[:31]} {version[:64]} for {target[:64]}"
            raise ServerError("bundle.unknown", f"there is no bundle of {what}", "see: beamfleet bundle list")
        content = msgspec.json.decode(publisher.manifest_path(bundle.manifest).read_bytes())
        return BundleContent(**_described(bundle), content=content)

    return routes


async def _receive(request: Request, path: Path, largest: int) -> None:
    """Write the body to `path`. One that is too large is read to its end and thrown away, so that the sender hears
    why."""
    size, buffer = 0, bytearray()
    try:
        with path.open("xb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > largest:
                    continue
                buffer += chunk
                if len(buffer) >= PIECE:
                    await asyncio.to_thread(file.write, bytes(buffer))
                    buffer.clear()
            await asyncio.to_thread(file.write, bytes(buffer))
    except ClientDisconnect:
        raise ServerError("request.aborted", "the upload was broken off", "send it again") from None
    except OSError as error:
        raise ServerError("server.disk_full", f"the upload cannot be kept: {error.strerror}", "make room") from error
    if size > largest:
        raise ServerError(
            "request.too_large",
            f"a bundle of {size} bytes is larger than {largest}",
            "start the server with a larger --max-bundle-bytes",
        )


def _described(bundle: PublishedBundle) -> dict[str, Any]:
    return {
        "product": bundle.product,
        "version": bundle.version,
        "target": bundle.target,
        "counter": bundle.counter,
        "manifest": bundle.manifest,
        "size": bundle.pack_size,
        "unpacked": bundle.unpacked,
        "created": rfc3339(bundle.created),
        "release": Release(**bundle.release),
    }
