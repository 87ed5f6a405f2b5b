"""Owns the log-ins on the web: the SHA-256 of their secret, who they are, and when they end.

A session ends when nobody has used it for `IDLE_S`, at its absolute end, with the operator whose token began it, and
when it is revoked."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.operators import Operator
from beamfleet_server.store.tables import operators, sessions

LONGEST_AGENT = 120


@dataclass(frozen=True, slots=True)
class KnownSession:
    """A session as the list shows one; times in Unix seconds."""

    id: int
    name: str
    role: str
    created: int
    used: int
    expires: int
    address: str
    agent: str


class Sessions:
    """The sessions by the hash of their secret. `idle_s`: how long one lives unused, `life_s`: at most."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.idle_s = 1800
        self.life_s = 12 * 3600

    def begin(self, secret_sha256: str, operator: Operator, address: str, agent: str, now: int) -> KnownSession:
        """A session of `operator`, which lives no longer than its token."""
        expires = min(now + self.life_s, operator.expires or now + self.life_s)
        row = {"name": operator.name, "role": operator.role, "scopes": sorted(operator.scopes), "created": now}
        row |= {"used": now, "expires": expires, "address": address, "agent": agent[:LONGEST_AGENT]}

        def change(connection: Connection) -> KnownSession:
            connection.execute(delete(sessions).where(self._over(now)))
            whose = connection.scalar(select(operators.c.id).where(operators.c.name == operator.name))
            given = connection.execute(insert(sessions).values(**row, sha256=secret_sha256, operator_id=whose))
            found = connection.execute(select(sessions).where(sessions.c.id == inserted_id(given))).one()
            return KnownSession(*(getattr(found, name) for name in KnownSession.__dataclass_fields__))

        return self._database.write(change)

    def find(self, secret_sha256: str, now: int) -> Operator | None:
        """Who is in the session, None if it is over. Its last use is noted once a minute."""
        query = select(sessions).where(sessions.c.sha256 == secret_sha256, ~self._over(now))
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return None
        if now - row.used >= 60:
            used = update(sessions).where(sessions.c.id == row.id).values(used=now)
            self._database.write(lambda connection: connection.execute(used))
        return Operator(row.name, row.role, row.expires, frozenset(row.scopes), row.id)

    def all(self, now: int, name: str | None = None) -> list[KnownSession]:
        """Those that go on, of one operator if a name is given, newest first."""
        columns = [sessions.c[name] for name in KnownSession.__dataclass_fields__]
        query = select(*columns).where(~self._over(now)).order_by(sessions.c.id.desc())
        if name is not None:
            query = query.where(sessions.c.name == name)
        return self._database.read(lambda connection: [KnownSession(*row) for row in connection.execute(query)])

    def end(self, session: int, name: str | None = None) -> None:
        """End a session, of this operator only if a name is given; error `session.unknown`."""

        def change(connection: Connection) -> None:
            one = delete(sessions).where(sessions.c.id == session)
            ended = connection.execute(one if name is None else one.where(sessions.c.name == name))
            if not ended.rowcount:
                raise ServerError("session.unknown", f"there is no session {session}", "see: GET /api/v1/sessions")

        self._database.write(change)

    def _over(self, now: int) -> ColumnElement[bool]:
        return (sessions.c.expires <= now) | (sessions.c.used <= now - self.idle_s)
