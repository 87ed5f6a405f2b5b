"""Owns which of the things that run out the fleet's log has told of already, so that each is said once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, delete, insert, select

from beamfleet_server.clock import rfc3339
from beamfleet_server.store.database import Database
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import expiries_told

State = Literal["ok", "due", "expired"]
OK: Final = "ok"
DUE: Final = "due"
EXPIRED: Final = "expired"
KIND = "expiry"


@dataclass(frozen=True, slots=True)
class Expiry:
    """Something that runs out, in Unix seconds; `mend`: the command that renews it. `vital`: without it devices are
    kept from updates."""

    what: str
    issued: int
    expires: int
    half_life: int
    state: State
    mend: str
    vital: bool


class ToldExpiries:
    """What was told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tell(self, rows: Sequence[Expiry], now: int) -> list[Expiry]:
        """Make an event of each row that is `due` or `expired`, unless that was done before; these rows."""
        wrong = {row.what: row for row in rows if row.state != OK}
        told = self._database.read(_told)
        new = [row for what, row in wrong.items() if told.get(what) != (row.expires, row.state)]
        gone = told.keys() - wrong.keys()
        if new or gone:
            self._database.write(lambda connection: self._keep(connection, new, gone, now))
        return new

    def _keep(self, connection: Connection, new: Sequence[Expiry], gone: set[str], now: int) -> None:
        over = {row.what for row in new} | gone
        connection.execute(delete(expiries_told).where(expiries_told.c.what.in_(sorted(over))))
        for row in new:
            kept = {"what": row.what, "expires": row.expires, "state": row.state}
            connection.execute(insert(expiries_told).values(kept))
        append(self._database, connection, [_event(row, now) for row in new])


def _told(connection: Connection) -> dict[str, tuple[int, str]]:
    return {row.what: (row.expires, row.state) for row in connection.execute(select(expiries_told))}


def _event(row: Expiry, now: int) -> NewEvent:
    verb = "expired" if row.state == EXPIRED else "expires"
    detail = f"{row.what} {verb} at {rfc3339(row.expires)}: {row.mend}"
    return NewEvent(now, KIND, row.state, detail, data={"what": row.what, "expires": rfc3339(row.expires)})
