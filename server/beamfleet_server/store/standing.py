"""Owns the verdict of this moment over devices, as SQL on `devices` joined with `health`, and its reasons.

What `checks` said of the newest report holds while the device is online and keeps reporting: a device that is offline
is that, one that has not reported for three intervals is unknown, and one whose identity was seen on two machines is
degraded at least."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, FromClause, Text, and_, case, cast, func, literal

from beamfleet_server.clock import rfc3339
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.health_tables import health
from beamfleet_server.store.silence import BROKER, DEADLINE, SERVER
from beamfleet_server.store.tables import applications, devices

HEALTHY, DEGRADED, FAILING, OFFLINE, UNKNOWN = "healthy", "degraded", "failing", "offline", "unknown"
WORST_FIRST = (FAILING, DEGRADED, UNKNOWN, OFFLINE, HEALTHY)
CLONE = "clone"
"""The reason of a device whose identity was copied."""
INTERVALS = 3
"""So many intervals without a report, and nothing is known any more."""
INTERVAL_S, METERED_INTERVAL_S = 60, 900
"""Of devices that do not say how often they report."""
METERED = "metered"
SILENCES = {
    DEADLINE: "nothing was heard",
    BROKER: "nothing was heard, the broker was away",
    SERVER: "nothing was heard, the server was away",
}

Reason = tuple[str, str, str]
"""(check, level, detail)."""


def reporting(of: FromClause = devices) -> FromClause:
    """Every device, or each one in `of`, with its application and the newest report, if there is one."""
    ours = and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN)
    newest = and_(health.c.device_id == devices.c.id, health.c.app == MAIN)
    return of.join(applications, ours).outerjoin(health, newest)


def verdict(now: int | ColumnElement[int]) -> ColumnElement[str]:
    """On `reporting`: one of `WORST_FIRST`."""
    usual = case((devices.c.profile == METERED, METERED_INTERVAL_S), else_=INTERVAL_S)
    interval = case((devices.c.interval_s > 0, devices.c.interval_s), else_=usual)
    stale = health.c.received + INTERVALS * interval < now
    known = func.coalesce(health.c.verdict, UNKNOWN)
    copied = and_(cast(devices.c.returns, Text) != "[]", known.in_((HEALTHY, UNKNOWN)))
    offline = (~devices.c.online, literal(OFFLINE))
    return case(offline, (stale, literal(UNKNOWN)), (copied, literal(DEGRADED)), else_=known)


def reasons(
    standing: str,
    found: Sequence[Sequence[str]] | None,
    received: int | None,
    offline: tuple[str, int | None, int | None],
    clone: int | None = None,
) -> list[Reason]:
    """Why the verdict is what it is. found: those of the newest report, which was `received` then; offline: the reason,
    since when, and when the device was heard last; clone: when one of two machines with its identity came back last."""
    if clone is not None:
        seen_twice = f"two machines were seen with its identity, last {rfc3339(clone)}"
        return [(CLONE, DEGRADED, seen_twice), *reasons(standing, found, received, offline)]
    why, since, seen = offline
    if standing == OFFLINE:
        if seen is None:
            return [(OFFLINE, OFFLINE, "it was never here")]
        words = SILENCES.get(why, why or "it went")
        return [(OFFLINE, OFFLINE, f"since {rfc3339(since or seen)}: {words}; heard last {rfc3339(seen)}")]
    if received is None:
        return [("report", UNKNOWN, "it has not reported yet")]
    told = [(each[0], each[1], each[2]) for each in found or ()]
    if standing == UNKNOWN and not told:
        return [("report", UNKNOWN, f"reported last {rfc3339(received)}")]
    if standing == UNKNOWN:
        return [("report", UNKNOWN, f"reported last {rfc3339(received)}"), *told]
    return told
