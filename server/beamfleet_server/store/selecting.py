"""Owns a plan's selection as SQL: conditions on `devices` joined with `applications`, which is what it asks of them.

It is `fleet.selection` for a whole fleet at once; a test holds them equal.
"""

from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    and_,
    bindparam,
    exists,
    func,
    literal,
    select,
)

from beamfleet_server.fleet.draw import P, bound, mixed
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.tables import IN_SERVICE, applications, devices, labels

Condition = ColumnElement[bool]
TIMEZONE = "timezone"
"""The label that says better than the device in which zone it stands."""
UTC = "UTC"
UNKNOWN_NETWORK = "unknown"


def these(device_ids: Sequence[int]) -> BindParameter[Sequence[int]]:
    """Devices by id, for `in_`: as one parameter, not as an expression for each."""
    return bindparam("these", list(device_ids), expanding=True, unique=True)


def population() -> FromClause:
    """Every device in service with its application."""
    ours = and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN, IN_SERVICE)
    return devices.join(applications, ours)


def conditions(connection: Connection, plan: Plan) -> list[Condition]:
    """What holds for the devices that the plan means, on `population`."""
    return [condition for _, condition in reasons(connection, plan)]


def reasons(connection: Connection, plan: Plan) -> list[tuple[str, Condition]]:
    """The same one by one, with the word for devices that fail it, in the order of `Selection.excluded`."""
    asked = plan.devices
    found: list[tuple[str, Condition]] = []
    if asked.ids:
        found.append(("ids", devices.c.name.in_(asked.ids)))
    for key, values in asked.labels:
        ours = (labels.c.device_id == devices.c.id, labels.c.key == key, labels.c.value.in_(values))
        found.append((f"labels.{key}", exists().where(*ours)))
    facts = {
        "agent": devices.c.agent,
        "arch": applications.c.arch,
        "libc": applications.c.libc,
        "hardware": applications.c.hardware,
        "network": network(),
        "timezone": zone(),
    }
    found += [(f"facts.{key}", facts[key].in_(values)) for key, values in asked.facts]
    if asked.versions:
        runs: Sequence[str] = asked.runs(connection.scalars(select(applications.c.version).distinct()).all())
        found.append(("versions", applications.c.version.in_(runs)))
    if asked.percent < 100:
        found.append(("percent", drawn(plan.salt) < bound(asked.percent)))
    return found


def drawn(salt: str) -> ColumnElement[int]:
    """`fleet.draw.draw`."""
    factor, shift = mixed(salt)
    whole = BigInteger()
    return (devices.c.lot * literal(factor, whole) + literal(shift, whole)) % literal(P, whole)


def zone() -> ColumnElement[str]:
    """The time zone of a device: its label, or what it says, or UTC."""
    label = select(labels.c.value).where(labels.c.device_id == devices.c.id, labels.c.key == TIMEZONE)
    return func.coalesce(label.scalar_subquery(), func.nullif(applications.c.timezone, ""), UTC)


def network() -> ColumnElement[str]:
    """The class of the network that a device is in."""
    return func.coalesce(func.nullif(applications.c.network, ""), UNKNOWN_NETWORK)
