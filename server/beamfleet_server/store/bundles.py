"""Owns what is known about published bundles; their bytes are files named by the manifest's hash."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Select, insert, select

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import bundles


@dataclass(frozen=True, slots=True)
class NewBundle:
    """A bundle to be published. `manifest` and `pack_sha256` are 64 hex digits, sizes are bytes."""

    product: str
    version: str
    target: str
    counter: int
    manifest: str
    manifest_size: int
    pack_size: int
    pack_sha256: str
    unpacked: int
    release: Mapping[str, Any]
    created: int


@dataclass(frozen=True, slots=True)
class PublishedBundle(NewBundle):
    """A bundle that devices can be given."""

    id: int = 0


class Bundles:
    """The published bundles."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, product: str | None, version: str | None, before: int | None, limit: int) -> list[PublishedBundle]:
        """At most `limit` bundles, newest first, with an id below `before`."""
        query = _bundles().order_by(bundles.c.id.desc()).limit(limit)
        if product is not None:
            query = query.where(bundles.c.product == product)
        if version is not None:
            query = query.where(bundles.c.version == version)
        if before is not None:
            query = query.where(bundles.c.id < before)
        return self._database.read(lambda connection: _read(connection, query))

    def find(self, product: str, version: str, target: str) -> PublishedBundle | None:
        """The bundle of a release for one target."""
        return self._database.read(lambda connection: find(connection, product, version, target))

    def with_manifest(self, manifest: str) -> PublishedBundle:
        """The bundle with this manifest; error `bundle.unknown`."""
        found = self._database.read(
            lambda connection: _read(connection, _bundles().where(bundles.c.manifest == manifest))
        )
        if not found:
            raise ServerError(
                "bundle.unknown", f"no bundle has the manifest {manifest[:64]}", "see: beamfleet bundle list"
            )
        return found[0]


def find(connection: Connection, product: str, version: str, target: str) -> PublishedBundle | None:
    """Inside a change: the bundle of a release for one target."""
    found = _read(connection, _release(product, version).where(bundles.c.target == target))
    return found[0] if found else None


def of_release(connection: Connection, product: str, version: str) -> list[PublishedBundle]:
    """Inside a change: all bundles of a release."""
    return _read(connection, _release(product, version))


def by_id(connection: Connection, ids: Collection[int]) -> list[PublishedBundle]:
    """Inside a change: these bundles."""
    return _read(connection, _bundles().where(bundles.c.id.in_(sorted(ids))))


def add(connection: Connection, bundle: NewBundle) -> None:
    """Inside a change: publish a bundle."""
    connection.execute(insert(bundles).values(**asdict(bundle)))


def _release(product: str, version: str) -> Select[Any]:
    return _bundles().where(bundles.c.product == product, bundles.c.version == version)


def _bundles() -> Select[Any]:
    return select(bundles)


def _read(connection: Connection, query: Select[Any]) -> list[PublishedBundle]:
    return [PublishedBundle(**row) for row in connection.execute(query).mappings()]
