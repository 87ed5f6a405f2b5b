"""Owns the routes of signed metadata and products."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response

from beamfleet_server.api import permissions, problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit
from beamfleet_server.api.schemas import (
    MetadataNext,
    MetadataNumbers,
    MetadataUpload,
    MetadataVersions,
    NewProduct,
    Page,
    Product,
    decoded,
)
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

    @routes.get("/metadata/versions")
    def versions() -> MetadataNext:
        """Of each role the version held and the next one: above what devices have seen, after a restored backup."""
        numbers = publisher.versions().items()
        return MetadataNext(
            roles={role: MetadataNumbers(held=held, reported=seen, next=new) for role, (held, seen, new) in numbers}
        )

    @routes.get("/metadata/{role}", response_class=Response, responses=NEWEST)
    def newest(role: Role) -> Response:
        """The newest signed bytes of root, targets, snapshot, timestamp or a product; the ETag is the version."""
        version, body = store.metadata.latest(role)
        return Response(body, media_type="application/json", headers={"ETag": f'"{version}"'})

    @routes.get("/metadata/{role}/{version}", response_class=Response, responses=NEWEST)
    def version(role: Role, version: Annotated[int, Path(ge=1, lt=2**53)]) -> Response:
        """The signed bytes of one version; all of root, targets and products are kept for ever."""
        return Response(store.metadata.find(role, version), media_type="application/json")

    @routes.post("/metadata", responses=problems.told("metadata.none", "metadata.conflict", "metadata.incomplete"))
    def upload(new: MetadataUpload, operator: Admitted) -> MetadataVersions:
        """Take new versions of root, targets or products; each must be the one after the held one. With `roots` take
        back what this server has lost: whatever is newer than what is held. Root, roots and targets need an admin."""
        if new.roots or new.root is not None or new.targets is not None:
            permissions.check(operator, "metadata.upload_root")
        given = {"root": new.root, "targets": new.targets, **new.products}
        about(", ".join(role for role, text in given.items() if text is not None))
        documents = {role: decoded(role, text) for role, text in given.items() if text is not None}
        if not documents and not new.roots:
            raise ServerError("request.schema", "this uploads no metadata", "give root, targets or products")
        if new.roots:
            publisher.restore_metadata([decoded("roots", text) for text in new.roots], documents)
        else:
            publisher.take_metadata(documents)
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
        publisher.create_product(new.name, decoded("targets", new.targets), decoded("product", new.product))
        created = dict(store.metadata.products())[new.name]
        return Product(name=new.name, created=rfc3339(created), version=store.metadata.latest(new.name)[0])

    return routes
