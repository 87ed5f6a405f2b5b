"""Owns the operators and their tokens, of which only the SHA-256 is kept."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import operators


@dataclass(frozen=True, slots=True)
class Operator:
    """Who may use the operators' API; `expires` in Unix seconds or None."""

    name: str
    role: str
    expires: int | None


class Operators:
    """The operators by the hash of their token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, token_sha256: str) -> Operator | None:
        """The operator with this token, expired or not."""
        columns = (operators.c.name, operators.c.role, operators.c.expires)
        query = select(*columns).where(operators.c.token_sha256 == token_sha256)
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return Operator(*row) if row else None

    def exists(self, name: str) -> bool:
        """True if there is an operator of this name."""
        query = select(operators.c.id).where(operators.c.name == name)
        return self._database.read(lambda connection: connection.scalar(query)) is not None

    def put(self, name: str, role: str, token_sha256: str, now: int, expires: int | None = None) -> None:
        """Make the operator, or give it this token in place of its old one."""

        def change(connection: Connection) -> None:
            connection.execute(delete(operators).where(operators.c.name == name))
            row = {"name": name, "role": role, "token_sha256": token_sha256, "created": now, "expires": expires}
            connection.execute(insert(operators).values(row))

        self._database.write(change)
