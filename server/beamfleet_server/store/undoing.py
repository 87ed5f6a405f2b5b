"""Owns what an undo asks for: the plan of a rollout turned back.

Every function works inside a change of `advancing`.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, func, select

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.store.joining import undoable
from beamfleet_server.store.tables import bundles, rollout_devices


def returning(connection: Connection, row: Row[Any], plan: Plan) -> Plan:
    """The plan for going back, with the same care; its version is the one that most devices go back to. Error
    `rollout.nothing_to_undo`."""
    member = rollout_devices.alias("undone")
    number = func.count()
    query = (
        select(bundles.c.version, number)
        .join_from(member, bundles, bundles.c.id == member.c.before_id)
        .where(*undoable(member, row.id))
        .group_by(bundles.c.version)
        .order_by(number.desc(), bundles.c.version)
        .limit(1)
    )
    most = connection.execute(query).first()
    if most is None:
        what = f"nobody has committed in rollout {row.id} and can go back"
        raise ServerError("rollout.nothing_to_undo", what, f"see: beamfleet rollout status {row.id}")
    return replace(plan, version=most.version, steps=(), note=f"undo of rollout {row.id}", notes="")
