"""Owns the states of the fleet's authorities: exactly one is active, which signs; what the others signed is trusted,
or, when they are retired, good for a renewal only."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database
from beamfleet_server.store.tables import authorities, certificates

TOUCHED = "authorities"
"""What `touch` is told by a change of states: whoever reacts has listeners and broker take it up."""
MOST = 4
"""Authorities that are trusted at the same time."""
ACTIVE, TRUSTED, RETIRED = "active", "trusted", "retired"


@dataclass(frozen=True, slots=True)
class KeptAuthority:
    """An authority; `der` is its certificate."""

    id: str
    state: str
    created: int
    der: bytes


class AuthorityStates:
    """Which authority is what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[KeptAuthority]:
        """Every authority there ever was: the active one first, then the newest first."""
        columns = (authorities.c.id, authorities.c.state, authorities.c.created, authorities.c.der)
        query = select(*columns).order_by(authorities.c.state != ACTIVE, authorities.c.created.desc(), authorities.c.id)
        return self._database.read(lambda connection: [KeptAuthority(*row) for row in connection.execute(query)])

    def begin(self, first: str, der: bytes, now: int) -> None:
        """Keep the first authority, which signed everything so far, unless there are some already."""

        def change(connection: Connection) -> None:
            if connection.scalar(select(func.count()).select_from(authorities)):
                return
            connection.execute(insert(authorities).values(id=first, state=ACTIVE, created=now, der=der))
            connection.execute(update(certificates).where(certificates.c.authority == "").values(authority=first))

        self._database.write(change)

    def add(self, authority: str, der: bytes, now: int) -> None:
        """Trust a further authority; error `authority.too_many`."""

        def change(connection: Connection) -> None:
            _check_number(connection)
            connection.execute(insert(authorities).values(id=authority, state=TRUSTED, created=now, der=der))
            self._database.touch(TOUCHED)

        self._database.write(change)

    def check_number(self) -> None:
        """Whether one more may be trusted; error `authority.too_many`."""
        self._database.read(_check_number)

    def activate(self, authority: str) -> None:
        """Let a trusted authority sign from now on; errors `authority.unknown`, `authority.retired`."""

        def change(connection: Connection) -> None:
            if _state(connection, authority) == RETIRED:
                what = f"the authority {authority} is retired, and its key is gone"
                raise ServerError("authority.retired", what, "make a new one: beamfleet authority new")
            connection.execute(update(authorities).where(authorities.c.state == ACTIVE).values(state=TRUSTED))
            connection.execute(update(authorities).where(authorities.c.id == authority).values(state=ACTIVE))
            self._database.touch(TOUCHED)

        self._database.write(change)

    def retire(self, authority: str, *, force: bool) -> None:
        """End the trust in an authority; what it signed may renew, and do nothing else. Errors `authority.unknown`,
        `authority.active`, `authority.in_use` unless forced."""

        def change(connection: Connection) -> None:
            if _state(connection, authority) == ACTIVE:
                hint = "let another one sign first: beamfleet authority activate ID"
                raise ServerError("authority.active", f"the authority {authority} is the one that signs", hint)
            waiting = _devices(connection).get(authority, 0)
            if waiting and not force:
                what = f"{waiting} devices still use certificates of the authority {authority}"
                hint = "they renew by themselves; with force they renew when they notice, and do nothing else before"
                raise ServerError("authority.in_use", what, hint)
            connection.execute(update(authorities).where(authorities.c.id == authority).values(state=RETIRED))
            self._database.touch(TOUCHED)

        self._database.write(change)

    def devices(self) -> dict[str, int]:
        """How many devices use a certificate of each authority."""
        return self._database.read(_devices)


def _check_number(connection: Connection) -> None:
    lasting = select(func.count()).select_from(authorities).where(authorities.c.state != RETIRED)
    if (connection.scalar(lasting) or 0) >= MOST:
        what = f"there are {MOST} authorities that are trusted"
        raise ServerError("authority.too_many", what, "retire one that no device uses: beamfleet authority list")


def trusted() -> Sequence[str]:
    """The states in which a certificate of an authority is good for everything."""
    return (ACTIVE, TRUSTED)


def _state(connection: Connection, authority: str) -> str:
    state: str | None = connection.scalar(select(authorities.c.state).where(authorities.c.id == authority))
    if state is None:
        hint = "see: beamfleet authority list"
        raise ServerError("authority.unknown", f"there is no authority {authority[:80]!r}", hint)
    return state


def _devices(connection: Connection) -> dict[str, int]:
    """By the newest certificate of each device that it has used, or the newest of all if it has used none."""
    newest = func.coalesce(
        func.max(certificates.c.id).filter(certificates.c.first_used.is_not(None)), func.max(certificates.c.id)
    )
    latest = select(newest).where(certificates.c.revoked.is_(None)).group_by(certificates.c.device_id)
    query = (
        select(certificates.c.authority, func.count())
        .where(certificates.c.id.in_(latest))
        .group_by(certificates.c.authority)
    )
    return {authority: int(count) for authority, count in connection.execute(query)}
