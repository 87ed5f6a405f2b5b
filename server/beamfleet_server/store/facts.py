"""Owns single values that the server remembers in the database, such as the broker's epoch."""

from collections.abc import Callable

from sqlalchemy import Connection, insert, select

from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import facts


class Facts:
    """Values by key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def once(self, key: str, make: Callable[[], str]) -> str:
        """The value of `key`; made by `make` and kept at the first call."""

        def change(connection: Connection) -> str:
            value = connection.scalar(select(facts.c.value).where(facts.c.key == key))
            if value is None:
                value = make()
                connection.execute(insert(facts).values(key=key, value=value))
            return str(value)

        return self._database.write(change)
