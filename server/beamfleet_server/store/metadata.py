"""Owns the signed TUF metadata: the newest of each role and what devices may still ask for. Changed by
compare-and-swap."""

from collections.abc import Iterable

from sqlalchemy import Connection, Select, delete, func, insert, select

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import products, tuf_metadata

KEPT = {"snapshot": 20, "timestamp": 1}
"""Versions that are kept of the roles which the server signs; all versions of the others are kept for ever."""


class MetadataStore:
    """Signed documents by role and version. Inside a change use the functions of this module on its connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self, role: str) -> tuple[int, bytes]:
        """Version and bytes of the newest metadata of `role`; error `metadata.none`."""
        found = self._database.read(newest).get(role)
        if found is None:
            raise _none(role)
        return found

    def find(self, role: str, version: int) -> bytes:
        """The bytes of one version of `role`; error `metadata.none`."""
        query = select(tuf_metadata.c.body).where(tuf_metadata.c.role == role, tuf_metadata.c.version == version)
        body = self._database.read(lambda connection: connection.scalar(query))
        if body is None:
            raise _none(f"{version}.{role}")
        return bytes(body)

    def newest(self) -> dict[str, tuple[int, bytes]]:
        """Version and bytes of the newest metadata by role."""
        return self._database.read(newest)

    def dated(self) -> dict[str, tuple[int, bytes]]:
        """When the newest metadata of each role came (Unix seconds), and its bytes."""
        last = _last().subquery()
        query = select(tuf_metadata).join(
            last, (tuf_metadata.c.role == last.c.role) & (tuf_metadata.c.version == last.c.version)
        )
        return self._database.read(
            lambda connection: {row.role: (row.created, bytes(row.body)) for row in connection.execute(query)}
        )

    def versions(self) -> dict[str, int]:
        """The newest version of each role."""
        return self._database.read(versions)

    def roots(self) -> list[bytes]:
        """All versions of root, oldest first."""
        query = select(tuf_metadata.c.body).where(tuf_metadata.c.role == "root").order_by(tuf_metadata.c.version)
        return self._database.read(lambda connection: [bytes(body) for body in connection.scalars(query)])

    def products(self) -> list[tuple[str, int]]:
        """Name and time of creation of each product."""
        query = select(products.c.name, products.c.created).order_by(products.c.name)
        return self._database.read(lambda connection: [(row.name, row.created) for row in connection.execute(query)])


def newest(connection: Connection) -> dict[str, tuple[int, bytes]]:
    """Inside a change: version and bytes of the newest metadata by role."""
    last = _last().subquery()
    query = select(tuf_metadata.c.role, tuf_metadata.c.version, tuf_metadata.c.body).join(
        last, (tuf_metadata.c.role == last.c.role) & (tuf_metadata.c.version == last.c.version)
    )
    return {role: (version, bytes(body)) for role, version, body in connection.execute(query)}


def versions(connection: Connection) -> dict[str, int]:
    """Inside a change: the newest version of each role."""
    return {row.role: row.version for row in connection.execute(_last())}


def put(connection: Connection, documents: Iterable[tuple[str, int, bytes]], now: int) -> None:
    """Inside a change: keep these new versions (role, version, bytes), and forget the oldest of what the server signs
    itself."""
    for role, version, body in documents:
        connection.execute(insert(tuf_metadata).values(role=role, version=version, created=now, body=body))
        if role in KEPT:
            of_role = tuf_metadata.c.role == role
            oldest = (
                select(tuf_metadata.c.version).where(of_role).order_by(tuf_metadata.c.version.desc()).offset(KEPT[role])
            )
            connection.execute(
                delete(tuf_metadata).where(of_role, tuf_metadata.c.version.in_(oldest.limit(1000).scalar_subquery()))
            )


def add_products(connection: Connection, names: list[str], now: int) -> None:
    """Inside a change: note that these products exist; those that did already are left alone."""
    known = set(connection.scalars(select(products.c.name).where(products.c.name.in_(names))))
    for name in names:
        if name not in known:
            connection.execute(insert(products).values(name=name, created=now))


def _last() -> Select[tuple[str, int]]:
    return select(tuf_metadata.c.role, func.max(tuf_metadata.c.version).label("version")).group_by(tuf_metadata.c.role)


def _none(role: str) -> ServerError:
    return ServerError("metadata.none", f"there is no metadata of {role[:80]}", "run: beamfleet init")
