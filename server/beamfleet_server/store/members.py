"""Owns the members of rollouts: devices joined with what they last said, as the rules want to see them.

Every function works inside a change of `advancing`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, select, update

from beamfleet_server.fleet.rollout import Member, Report, State
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.fleet.targets import choose
from beamfleet_server.store.bundles import PublishedBundle
from beamfleet_server.store.devices import matching
from beamfleet_server.store.enrolment import MAIN
from beamfleet_server.store.tables import applications, bundles, devices, rollout_devices

NO_BUNDLE = "no bundle for its target"


def join(connection: Connection, rollout_id: int, selector: Selector, now: int) -> list[int]:
    """Make the devices that `selector` means members, all of them pending; their ids."""
    query = select(devices.c.id).where(*matching(selector)).order_by(devices.c.name)
    ids = [int(device_id) for device_id in connection.scalars(query)]
    begun = {"rollout_id": rollout_id, "bundle_id": None, "attempt": 1, "state": State.PENDING, "updated": now}
    rows = [begun | {"device_id": device_id, "canary": False, "offered": False, "reason": ""} for device_id in ids]
    if rows:
        connection.execute(insert(rollout_devices), rows)
    return ids


def resolve(connection: Connection, rollout_id: int, release: Iterable[PublishedBundle], now: int) -> None:
    """Give members that have said what they are their bundle of the release, or skip them if there is none.

    The attempt counts on from the rollouts that have offered this bundle to this device before.
    """
    query = (
        select(rollout_devices.c.device_id, applications.c.state)
        .join_from(rollout_devices, applications, applications.c.device_id == rollout_devices.c.device_id)
        .where(
            rollout_devices.c.rollout_id == rollout_id,
            rollout_devices.c.state == State.PENDING,
            rollout_devices.c.bundle_id.is_(None),
            applications.c.app == MAIN,
            applications.c.state_seq >= 0,
        )
    )
    chosen = {row.device_id: choose(release, row.state["inventory"]) for row in connection.execute(query)}
    earlier = _attempts(connection, {bundle.id for bundle in chosen.values() if bundle}, rollout_id)
    rows: dict[int, dict[str, Any]] = {}
    for device_id, bundle in chosen.items():
        if bundle is None:
            rows[device_id] = {"bundle_id": None, "attempt": 1, "state": State.SKIPPED, "reason": NO_BUNDLE}
        else:
            attempt = earlier.get((device_id, bundle.id), 0) + 1
            rows[device_id] = {"bundle_id": bundle.id, "attempt": attempt, "state": State.PENDING, "reason": ""}
    save(connection, rollout_id, rows, now)


def read(connection: Connection, rollout_id: int) -> list[Member]:
    """The members by name."""
    other = rollout_devices.alias("other")
    newest = (
        select(func.max(other.c.rollout_id)).where(other.c.device_id == rollout_devices.c.device_id).scalar_subquery()
    )
    query = (
        select(
            rollout_devices,
            devices.c.name,
            devices.c.online,
            bundles.c.manifest,
            applications.c.state.label("report"),
            newest.label("newest"),
        )
        .join_from(rollout_devices, devices)
        .join(applications, and_(applications.c.device_id == devices.c.id, applications.c.app == MAIN))
        .join(bundles, bundles.c.id == rollout_devices.c.bundle_id, isouter=True)
        .where(rollout_devices.c.rollout_id == rollout_id)
        .order_by(devices.c.name)
    )
    return [_member(row) for row in connection.execute(query)]


def bundle_ids(connection: Connection, rollout_id: int) -> dict[int, int | None]:
    """The id of the bundle of each member, by the device's id."""
    columns = (rollout_devices.c.device_id, rollout_devices.c.bundle_id)
    query = select(*columns).where(rollout_devices.c.rollout_id == rollout_id)
    return {row.device_id: row.bundle_id for row in connection.execute(query)}


def save(connection: Connection, rollout_id: int, rows: Mapping[int, Mapping[str, Any]], now: int) -> None:
    """Change members by the device's id; all rows have the same columns."""
    if rows:
        statement = update(rollout_devices).where(
            rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.device_id == bindparam("key_device_id")
        )
        values = [{**row, "key_device_id": device_id, "updated": now} for device_id, row in sorted(rows.items())]
        connection.execute(statement, values)


def _attempts(connection: Connection, bundles_: set[int], before: int) -> dict[tuple[int, int], int]:
    """How many rollouts before this one have offered a bundle to a device, by (device, bundle)."""
    query = (
        select(rollout_devices.c.device_id, rollout_devices.c.bundle_id, func.count())
        .where(
            rollout_devices.c.bundle_id.in_(bundles_),
            rollout_devices.c.offered,
            rollout_devices.c.rollout_id < before,
        )
        .group_by(rollout_devices.c.device_id, rollout_devices.c.bundle_id)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def _member(row: Row[Any]) -> Member:
    """A report belongs to the newest rollout of its device: an older one is no longer told by it."""
    return Member(
        device=row.device_id,
        name=row.name,
        manifest=row.manifest or "",
        attempt=row.attempt,
        online=row.online,
        state=State(row.state),
        canary=row.canary,
        offered=row.offered,
        reason=row.reason,
        report=_report(row.report) if row.report and row.newest == row.rollout_id else Report(),
    )


def _report(state: Mapping[str, Any]) -> Report:
    work = state["update"] or {}
    return Report(
        manifest=state["manifest"],
        phase=state["phase"],
        failed=state["failed"],
        update_phase=work.get("phase", ""),
        update_manifest=work.get("manifest", ""),
        update_attempt=work.get("attempt", 0),
        update_reason=": ".join(filter(None, (work.get("reason", ""), work.get("detail", "")))),
    )
