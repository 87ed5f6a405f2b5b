"""Owns taking devices out of service: decommissioned, or replaced by another one.

What is known of such a device stays and is shown, its certificates and tokens end, and no selector, rollout or verdict
means it any more. A token that is made for it with `replace` brings it back."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from beamfleet_bundles.names import check_device
from sqlalchemy import Connection, Row, delete, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.states import FINAL, REPLACED, RETIRED, State
from beamfleet_server.store.assignments import Sign, keep_publication
from beamfleet_server.store.database import Database
from beamfleet_server.store.devices import unknown, withdraw_offers
from beamfleet_server.store.enrolment import TOUCHED
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.gate import REVOKED
from beamfleet_server.store.requests import REJECTED
from beamfleet_server.store.succession import hand_over
from beamfleet_server.store.tables import (
    assignments,
    certificates,
    denials,
    devices,
    enrolment_requests,
    rollout_devices,
    tokens,
)

KIND = "retired"
"""The kind of the event; its cause is `decommissioned` or `replaced`."""
MEMBERS = rollout_devices.c


@dataclass(frozen=True, slots=True)
class Replacement:
    """How a replacement stands, times in Unix seconds. `retired`: since when the older device is out of service;
    `handed_over`: since when the newer one has its place, None: it gets it when it enrols. `waits`: it asks without a
    token, and nobody has let it in."""

    retired: int
    handed_over: int | None
    waits: bool


class Retirement:
    """Takes devices out of service; `sign` withdraws what a device was offered that is pinned from now on."""

    def __init__(self, database: Database, sign: Sign) -> None:
        self._database = database
        self._sign = sign

    def decommission(self, name: str, by: str, now: int) -> None:
        """Take a device out of service; once more changes nothing. Of one that waits for its successor that one is
        expected no longer. Error `device.unknown`."""

        def change(connection: Connection) -> None:
            device = _find(connection, name)
            if device is None:
                raise unknown(name)
            if device.retired is None:
                self._retire(connection, device, RETIRED, "", by, now)
            elif device.replaced_by and device.handed_over is None:
                alone = {"replaced_by": "", "retired_by": by, "offline_reason": RETIRED}
                connection.execute(update(devices).where(devices.c.id == device.id).values(alone))
                append(self._database, connection, [NewEvent(now, KIND, RETIRED, f"by {by}", device.id)])

        self._database.write(change)

    def replace(self, old: str, new: str, by: str, now: int) -> Replacement:
        """Take `old` out of service, and give its labels, its pin and its place in rollouts to `new`: now, or when that
        enrols. The same again changes nothing; until `new` is there it may be another. Errors `name.device`,
        `device.unknown`, `device.itself`, `device.retired`, `device.replaced`, `device.successor`."""
        return self._database.write(partial(self._replace, old=old, new=check_device(new), by=by, now=now))

    def _replace(self, connection: Connection, old: str, new: str, by: str, now: int) -> Replacement:
        device, successor = _find(connection, old), _find(connection, new)
        if device is None:
            raise unknown(old)
        again = device.replaced_by == new
        if again and device.handed_over is not None:
            return Replacement(device.retired, device.handed_over, waits=False)
        _check(connection, device, new, successor)
        if device.retired is None:
            self._retire(connection, device, REPLACED, new, by, now)
        elif not again:
            named = {"replaced_by": new, "retired_by": by}
            connection.execute(update(devices).where(devices.c.id == device.id).values(named))
            append(self._database, connection, [NewEvent(now, KIND, REPLACED, f"by {new}", device.id)])
        handed_over = None
        if successor is not None:
            if hand_over(self._database, connection, device.id, successor.id, now):
                withdraw_offers(self._database, connection, successor.id, self._sign, now)
            self._database.touch(TOUCHED)
            handed_over = now
        waiting = (enrolment_requests.c.device == new, enrolment_requests.c.state == "pending")
        waits = connection.scalar(select(enrolment_requests.c.id).where(*waiting).limit(1)) is not None
        retired = now if device.retired is None else int(device.retired)
        return Replacement(retired, handed_over, waits and handed_over is None)

    def _retire(self, connection: Connection, device: Row[Any], cause: str, successor: str, by: str, now: int) -> None:
        connection.execute(delete(tokens).where(tokens.c.device == device.name))
        asks = (enrolment_requests.c.device == device.name, enrolment_requests.c.certificate_id.is_(None))
        rejected = {"state": REJECTED, "decided_by": by, "decided": now}
        connection.execute(update(enrolment_requests).where(*asks).values(rejected))
        good = (certificates.c.device_id == device.id, certificates.c.revoked.is_(None))
        connection.execute(update(certificates).where(*good).values(revoked=now))
        connection.execute(delete(denials).where(denials.c.device_id == device.id))
        underway = (MEMBERS.device_id == device.id, MEMBERS.state.not_in(FINAL))
        out = {"state": State.SKIPPED, "reason": cause, "detail": "", "next_try": None, "deadline": None}
        connection.execute(update(rollout_devices).where(*underway).values(**out, updated=now))
        keep_publication(connection)
        connection.execute(delete(assignments).where(assignments.c.device_id == device.id))
        state: dict[str, Any] = {
            "retired": now,
            "retired_by": by,
            "replaced_by": successor,
            "handed_over": None,
            "returns": [],
            "online": False,
            "offline_reason": cause,
            "offline_since": now if device.online else device.offline_since,
        }
        connection.execute(update(devices).where(devices.c.id == device.id).values(state))
        told = f"by {successor}" if successor else f"by {by}"
        append(self._database, connection, [NewEvent(now, KIND, cause, told, device.id)])
        self._database.touch(REVOKED + device.name)
        self._database.touch(TOUCHED)


def _find(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(devices).where(devices.c.name == name)).one_or_none()


def _check(connection: Connection, device: Row[Any], new: str, successor: Row[Any] | None) -> None:
    """Refuse what is no replacement."""
    if device.name == new:
        raise ServerError(
            "device.itself",
            f"{new} cannot replace itself",
            "the same id on another board: beamfleet token create DEVICE --replace",
        )
    if device.handed_over is not None:
        what = f"{device.name} was replaced by {device.replaced_by} already"
        raise ServerError(
            "device.replaced", what, f"replace that one: beamfleet device replace {device.replaced_by} {new}"
        )
    if successor is not None and successor.retired is not None:
        what = f"{new} is out of service itself"
        raise ServerError("device.retired", what, "name a device that is in service, or enrol it again first")
    has = (devices.c.replaced_by == new, devices.c.replaced_by != "", devices.c.id != device.id)
    other = connection.scalar(select(devices.c.name).where(*has).limit(1))
    if other is not None:
        what = f"{new} has the place of {other} already, and cannot have two"
        raise ServerError("device.successor", what, f"beamfleet device decommission {device.name} ends it without one")
