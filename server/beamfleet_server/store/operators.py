"""Owns the operators and their tokens, of which only the SHA-256 is kept."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import operators

ADMIN = "admin"
"""The role that may do everything but sign."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who may use the operators' API; `expires` in Unix seconds or None. `scopes`: operations that the token is
    limited to, empty for all of its role. `session`: the number of the web session that asks, None for a token."""

    name: str
    role: str
    expires: int | None
    scopes: frozenset[str] = frozenset()
    session: int | None = None


@dataclass(frozen=True, slots=True)
class KnownOperator:
    """An operator as the list shows one."""

    name: str
    role: str
    scopes: tuple[str, ...]
    created: int
    created_by: str
    expires: int | None


class Operators:
    """The operators by the hash of their token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, token_sha256: str) -> Operator | None:
        """The operator with this token, expired or not."""
        columns = (operators.c.name, operators.c.role, operators.c.expires, operators.c.scopes)
        query = select(*columns).where(operators.c.token_sha256 == token_sha256)
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return Operator(row.name, row.role, row.expires, frozenset(row.scopes)) if row else None

    def exists(self, name: str) -> bool:
        """True if there is an operator of this name."""
        query = select(operators.c.id).where(operators.c.name == name)
        return self._database.read(lambda connection: connection.scalar(query)) is not None

    def all(self) -> list[KnownOperator]:
        """All of them by name."""
        query = select(operators).order_by(operators.c.name)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [
            KnownOperator(row.name, row.role, tuple(row.scopes), row.created, row.created_by, row.expires)
            for row in rows
        ]

    def put(self, name: str, role: str, token_sha256: str, now: int, expires: int | None = None) -> None:
        """Make the operator, or give it this token in place of its old one."""

        def change(connection: Connection) -> None:
            connection.execute(delete(operators).where(operators.c.name == name))
            row = {"name": name, "role": role, "token_sha256": token_sha256, "created": now, "expires": expires}
            connection.execute(insert(operators).values(row))

        self._database.write(change)

    def create(
        self, name: str, role: str, token_sha256: str, scopes: Collection[str], by: str, now: int, expires: int
    ) -> None:
        """A further operator; error `operator.exists`."""

        def change(connection: Connection) -> None:
            if connection.scalar(select(operators.c.id).where(operators.c.name == name)) is not None:
                hint = "choose another name, or first: beamfleet operator revoke NAME"
                raise ServerError("operator.exists", f"there is an operator {name} already", hint)
            row = {"name": name, "role": role, "token_sha256": token_sha256, "created": now, "expires": expires}
            connection.execute(insert(operators).values(**row, scopes=sorted(scopes), created_by=by))

        self._database.write(change)

    def revoke(self, name: str, now: int) -> KnownOperator:
        """End an operator, its token and its sessions; errors `operator.unknown`, `operator.last_admin`."""

        def change(connection: Connection) -> KnownOperator:
            row = connection.execute(select(operators).where(operators.c.name == name)).one_or_none()
            if row is None:
                raise ServerError("operator.unknown", f"there is no operator {name!r}", "see: beamfleet operator list")
            good = operators.c.expires.is_(None) | (operators.c.expires > now)
            whole = select(func.count()).where(operators.c.role == ADMIN, operators.c.name != name, good)
            if row.role == ADMIN and not connection.scalar(whole):
                hint = "first: beamfleet operator create NAME --role admin"
                raise ServerError("operator.last_admin", f"{name} is the last admin", hint)
            connection.execute(delete(operators).where(operators.c.id == row.id))
            return KnownOperator(row.name, row.role, tuple(row.scopes), row.created, row.created_by, row.expires)

        return self._database.write(change)
