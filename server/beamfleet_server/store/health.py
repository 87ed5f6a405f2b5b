"""Owns reading the fleet's health: devices in service with their verdict of this moment, sorted, filtered and counted,
in one statement each.

Statements are composed once for each selector and order that is asked for: for a small fleet that takes longer than to
answer."""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
)

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store.database import Database
from beamfleet_server.store.devices import matching
from beamfleet_server.store.health_tables import health
from beamfleet_server.store.label_text import labels_as_text
from beamfleet_server.store.standing import WORST_FIRST, reporting, verdict
from beamfleet_server.store.tables import IN_SERVICE, applications, devices

Sort = Literal["verdict", "name", "memory", "processes", "queue", "schedulers", "load", "restarts", "seen"]
SORTS: Sequence[Sort] = get_args(Sort)
"""By verdict the worst first, by `seen` who was heard longest ago; by numbers the largest first, who has none last."""
NONE = -(2**62)
PREPARED = 128
"""Statements that are kept."""
_CURSOR = re.compile(r"(-?[0-9]{1,19}):(.{1,63})")


class HealthPage(NamedTuple):
    """Rows of `COLUMNS`, and the cursor of what follows them."""

    rows: Sequence[Any]
    next: str | None


class Health:
    """Devices by health."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, selector: Selector, verdicts: Collection[str], sort: Sort, cursor: str | None, limit: int, now: int
    ) -> tuple[HealthPage, dict[str, int]]:
        """At most `limit` devices that match and have one of these verdicts (none given: any), and how many of those
        that match have which. Error `request.cursor`."""
        query = _page(selector, sort, filtered=bool(verdicts), continued=cursor is not None)
        values: dict[str, Any] = {"now": now, "limit": limit + 1}
        if verdicts:
            values["verdicts"] = sorted(verdicts)
        if cursor is not None:
            values["value"], values["name"] = _parsed(cursor)

        def ask(connection: Connection) -> tuple[HealthPage, dict[str, int]]:
            rows = connection.execute(query, values).all()
            shown = rows[:limit]
            following = f"{shown[-1].number}:{shown[-1].name}" if len(rows) > limit else None
            return HealthPage(shown, following), counts(connection, selector, now)

        return self._database.read(ask)

    def counts(self, selector: Selector, now: int) -> dict[str, int]:
        """How many devices have which verdict; every verdict is there."""
        return self._database.read(lambda connection: counts(connection, selector, now))


def counts(connection: Connection, selector: Selector, now: int) -> dict[str, int]:
    """The same inside a query."""
    rows = connection.execute(_counting(selector), {"now": now})
    found: dict[str, int] = {row[0]: row[1] for row in rows}
    return {each: found.get(each, 0) for each in WORST_FIRST}


@lru_cache(PREPARED)
def _counting(selector: Selector) -> Select[str, int]:
    """How many devices have which verdict, with the parameter `now`."""
    standing = _standing().label("standing")
    meant = (IN_SERVICE, *matching(selector))
    return select(standing, func.count()).select_from(reporting()).where(*meant).group_by(standing)


@lru_cache(PREPARED)
def _page(selector: Selector, sort: Sort, *, filtered: bool, continued: bool) -> Select[Any]:
    """A page, with the parameters `now` and `limit`; `verdicts` if it is filtered; `value` and `name` if it goes on.

    First who is on it, by the few columns that say so: the rest, labels above all, is read of those alone."""
    standing = _standing()
    number = _number(sort, standing)
    chosen = (
        select(devices.c.id, standing.label("standing"), number.label("number"))
        .select_from(reporting())
        .where(IN_SERVICE, *matching(selector))
        .order_by(number.desc(), devices.c.name)
        .limit(bindparam("limit", type_=Integer))
    )
    if filtered:
        chosen = chosen.where(standing.in_(bindparam("verdicts", expanding=True)))
    if continued:
        value, name = bindparam("value", type_=BigInteger), bindparam("name", type_=String)
        chosen = chosen.where(or_(number < value, and_(number == value, devices.c.name > name)))
    page = chosen.subquery("page")
    return (
        select(*_columns(page.c.standing), page.c.number)
        .select_from(reporting(page.join(devices, devices.c.id == page.c.id)))
        .order_by(page.c.number.desc(), devices.c.name)
    )


def _standing() -> ColumnElement[str]:
    return verdict(bindparam("now", type_=BigInteger))


def _columns(standing: ColumnElement[str]) -> Sequence[ColumnElement[Any]]:
    return (
        devices.c.name,
        labels_as_text().label("labels"),
        standing.label("verdict"),
        health.c.reasons,
        health.c.received,
        health.c.starts,
        devices.c.online,
        devices.c.last_seen,
        devices.c.offline_reason,
        devices.c.offline_since,
        devices.c.profile,
        applications.c.product,
        applications.c.version,
        health.c.memory,
        health.c.processes,
        health.c.run_queue,
        health.c.schedulers,
        health.c.queue,
        health.c.queue_name,
        health.c.atoms_permille,
        health.c.restarts,
        health.c.uptime_ms,
        health.c.load,
        health.c.host_memory_permille,
        health.c.disk_permille,
        health.c.temperature,
        devices.c.returns,
    )


def _number(sort: Sort, standing: ColumnElement[str]) -> ColumnElement[int]:
    """What a list is sorted by, downwards."""
    match sort:
        case "name":
            return literal(0)
        case "verdict":
            return case({word: len(WORST_FIRST) - place for place, word in enumerate(WORST_FIRST)}, value=standing)
        case "seen":
            return -func.coalesce(devices.c.last_seen, 0)
        case _:
            return func.coalesce(health.c[sort], NONE)


def _parsed(cursor: str) -> tuple[int, str]:
    found = _CURSOR.fullmatch(cursor)
    if found is None or abs(int(found[1])) > -NONE:
        raise ServerError("request.cursor", f"{cursor!r} is no cursor of this list", "use `next` of the page before")
    return int(found[1]), found[2]
