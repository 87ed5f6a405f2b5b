"""Owns the routes of signed metadata and products."""

import base64
import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response

from beamfleet_server.api import permissions, problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit
from beamfleet_server.api.schemas import MetadataUpload, MetadataVersions, NewProduct, Page, Product
from beamfleet_server.clock import rfc3339
from beamfleet_server.errors import ServerError
from beamfleet_server.publishing import Publisher
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator

NEWEST: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}}},
    **problems.told("metadata.none"),
}
Role = Annotated[str, Path(pattern="^[a-z][a-z0-9-]{0,30}$")]


def router(store: Store, publisher: Publisher, authentication: Authentication) -> APIRouter:
    """`/metadata`, `/products`."""
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)
    routes = guarded("metadata")

    @routes.get("/metadata/{role}", response_class=Response, responses=NEWEST)
    def newest(role: Role) -> Response:
        """The newest signed bytes of root, targets, snapshot, timestamp or a product; the ETag is the version."""
        version, body = store.metadata.latest(role)
        return Response(body, media_type="application/json", headers={"ETag": f'"{version}"'})

    @routes.post("/metadata", responses=problems.told("metadata.none", "metadata.conflict", "metadata.incomplete"))
    def upload(new: MetadataUpload, operator: Admitted) -> MetadataVersions:
        """Take new versions of root, targets or products; each must be the one after the held one. Root and targets
        need an admin."""
        if new.root is not None or new.targets is not None:
            permissions.check(operator, "metadata.upload_root")
        given = {"root": new.root, "targets": new.targets, **new.products}
        about(", ".join(role for role, text in given.items() if text is not None))
        publisher.take_metadata({role: _bytes(role, text) for role, text in given.items() if text is not None})
        held = store.metadata.newest()
        return MetadataVersions(
            root=held["root"][0],
            targets=held["targets"][0],
            products={name: held[name][0] for name, _ in store.metadata.products()},
            root_json_base64=base64.b64encode(held["root"][1]).decode(),
        )

    @routes.get("/products")
    def products(cursor: Cursor = None, limit: Limit = 100) -> Page[Product]:
        """The products by name."""
        held = store.metadata.newest()
        rows = [row for row in store.metadata.products() if row[0] > (cursor or "")]
        items = [Product(name=name, created=rfc3339(created), version=held[name][0]) for name, created in rows[:limit]]
        return Page(items=items, next=items[-1].name if len(rows) > limit else None)

    @routes.post(
        "/products",
        status_code=201,
        responses=problems.told("product.exists", "metadata.conflict", "metadata.incomplete"),
    )
    def create(new: NewProduct) -> Product:
        """Take a further product."""
        about(new.name)
        publisher.create_product(new.name, _bytes("targets", new.targets), _bytes("product", new.product))
        created = dict(store.metadata.products())[new.name]
        return Product(name=new.name, created=rfc3339(created), version=store.metadata.latest(new.name)[0])

    return routes


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ServerError("request.schema", f"{name} is not base64") from None
