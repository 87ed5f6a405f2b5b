"""Owns the devices that ask to be enrolled without a token, and what a person says to that.

A request is a device id with a key. Anybody may claim any id, so a person compares the key's fingerprint; of one id
several keys may wait beside each other. How many wait is bounded: in all, of one address, and for one id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beamfleet_bundles.names import check_device
from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database
from beamfleet_server.store.enrolment import Issue, enrol
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.tables import certificates, devices, enrolment_requests

PENDING, ACCEPTED, REJECTED = "pending", "accepted", "rejected"
MOST, MOST_OF_ADDRESS, MOST_OF_DEVICE = 2000, 200, 4
SILENT_S = 86_400
"""A request is forgotten when its device has not asked for so long."""
COLLECTED_S = 7 * 86_400
"""How long an acceptance waits for its device."""
WRITTEN_S = 60
"""That a device asks again is written at most this often."""


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request as it is listed: `known` if a device of this id is enrolled already."""

    device: str
    fingerprint: str
    address: str
    created: int
    asked: int
    state: str
    decided_by: str
    decided: int | None
    known: bool


class Requests:
    """All requests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, device: str, key_sha256: str, address: str, issue: Issue, now: int) -> bytes | int:
        """The certificate (DER) for a request that was accepted, or since when (Unix seconds) it waits. Errors
        `name.device`, `enrolment.rejected`, `enrolment.full`."""
        check_device(device)
        this = (enrolment_requests.c.device == device, enrolment_requests.c.key_sha256 == key_sha256)
        query = select(enrolment_requests).where(*this)
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is not None and row.state == PENDING and row.asked <= now < row.asked + WRITTEN_S:
            return int(row.created)

        def change(connection: Connection) -> bytes | int | ServerError:
            _forget(connection, now)
            row = connection.execute(query).one_or_none()
            if row is None:
                self._begin(connection, device, key_sha256, address, now)
                return now
            connection.execute(update(enrolment_requests).where(*this).values(asked=now))
            match row.state:
                case "accepted":
                    return self._collect(connection, row, issue, now)
                case "rejected":  # returned, not raised: that it was asked for is kept
                    return ServerError("enrolment.rejected", f"the enrolment of {device} with this key was rejected")
                case _:
                    return int(row.created)

        answer = self._database.write(change)
        if isinstance(answer, ServerError):
            raise answer
        return answer

    def all(self, state: str | None = None) -> list[KeptRequest]:
        """Requests, the oldest first; at most `MOST`."""
        known = select(devices.c.id).where(devices.c.name == enrolment_requests.c.device).exists()
        names = ("device", "key_sha256", "address", "created", "asked", "state", "decided_by", "decided")
        columns: list[Any] = [*(enrolment_requests.c[name] for name in names), known.label("known")]
        query = select(*columns).order_by(enrolment_requests.c.id).limit(MOST)
        if state is not None:
            query = query.where(enrolment_requests.c.state == state)
        return self._database.read(lambda connection: [KeptRequest(*row) for row in connection.execute(query)])

    def accept(self, device: str, fingerprint: str | None, by: str, now: int, *, replace: bool) -> str:
        """Let a device in with this key, or with its only one; the key's fingerprint. What it asks for with other keys
        is rejected. Errors `enrolment.unknown`, `enrolment.ambiguous`, `enrolment.decided`, `device.exists` for an
        enrolled one unless it is to be replaced."""

        def change(connection: Connection) -> str:
            row = _chosen(connection, device, fingerprint)
            if row.certificate_id is not None:
                raise ServerError("enrolment.decided", f"{device} has its certificate already")
            if connection.scalar(select(devices.c.id).where(devices.c.name == device)) is not None and not replace:
                hint = "reject it, or ask to replace the device"
                raise ServerError("device.exists", f"the device {device} is enrolled already", hint)
            others = (enrolment_requests.c.device == device, enrolment_requests.c.id != row.id)
            decided = {"decided_by": by, "decided": now}
            still = enrolment_requests.c.certificate_id.is_(None)
            connection.execute(update(enrolment_requests).where(*others, still).values(state=REJECTED, **decided))
            accepted = {"state": ACCEPTED, "replace": replace, **decided}
            connection.execute(update(enrolment_requests).where(enrolment_requests.c.id == row.id).values(accepted))
            return str(row.key_sha256)

        return self._database.write(change)

    def reject(self, device: str, fingerprint: str | None, by: str, now: int) -> int:
        """Refuse a device with this key, or with all its keys that wait or were accepted; how many. Error
        `enrolment.unknown`."""

        def change(connection: Connection) -> int:
            of_device = [enrolment_requests.c.device == device, enrolment_requests.c.certificate_id.is_(None)]
            if fingerprint is not None:
                of_device.append(enrolment_requests.c.key_sha256 == fingerprint)
            values = {"state": REJECTED, "decided_by": by, "decided": now}
            rejected = connection.execute(update(enrolment_requests).where(*of_device).values(values)).rowcount
            if not rejected:
                raise _unknown(device)
            return rejected

        return self._database.write(change)

    def _begin(self, connection: Connection, device: str, key_sha256: str, address: str, now: int) -> None:
        waiting = select(func.count()).select_from(enrolment_requests)
        if (
            (connection.scalar(waiting) or 0) >= MOST
            or (connection.scalar(waiting.where(enrolment_requests.c.address == address)) or 0) >= MOST_OF_ADDRESS
            or (connection.scalar(waiting.where(enrolment_requests.c.device == device)) or 0) >= MOST_OF_DEVICE
        ):
            hint = "decide about those that wait: beamfleet device pending"
            raise ServerError("enrolment.full", "too many enrolments wait for approval", hint)
        row = {"device": device, "key_sha256": key_sha256, "address": address, "created": now, "asked": now}
        connection.execute(insert(enrolment_requests).values(**row, state=PENDING))
        event = NewEvent(now, "pending", "enrolment", f"{device} with the key {key_sha256}")
        append(self._database, connection, [event])

    def _collect(self, connection: Connection, row: Row[Any], issue: Issue, now: int) -> bytes | ServerError:
        """The certificate of an accepted request, which stays for a while: the answer may get lost."""
        if row.certificate_id is not None:
            kept = select(certificates.c.der, certificates.c.revoked).where(certificates.c.id == row.certificate_id)
            given = connection.execute(kept).one()
            if given.revoked is not None:
                return ServerError("enrolment.rejected", f"what {row.device} got was revoked", "give it a token")
            return bytes(given.der)
        certificate_id, der = enrol(
            self._database, connection, row.device, issue, now, cause="approved", given={}, replace=row.replace
        )
        this = enrolment_requests.c.id == row.id
        connection.execute(update(enrolment_requests).where(this).values(certificate_id=certificate_id, decided=now))
        return der


def _forget(connection: Connection, now: int) -> None:
    silent = enrolment_requests.c.asked < now - SILENT_S
    collected = enrolment_requests.c.decided < now - COLLECTED_S
    over = or_(
        silent & (enrolment_requests.c.state != ACCEPTED),
        collected & (enrolment_requests.c.state == ACCEPTED),
    )
    connection.execute(delete(enrolment_requests).where(over))


def _chosen(connection: Connection, device: str, fingerprint: str | None) -> Row[Any]:
    query: Sequence[Any] = [enrolment_requests.c.device == device]
    if fingerprint is None:
        query = [*query, enrolment_requests.c.state == PENDING]
    else:
        query = [*query, enrolment_requests.c.key_sha256 == fingerprint]
    rows = connection.execute(select(enrolment_requests).where(*query)).all()
    if not rows:
        raise _unknown(device)
    if len(rows) > 1:
        what = f"{len(rows)} keys ask to be {device}"
        raise ServerError("enrolment.ambiguous", what, "say which one: compare fingerprints at the device")
    return rows[0]


def _unknown(device: str) -> ServerError:
    hint = "see: beamfleet device pending"
    return ServerError("enrolment.unknown", f"no enrolment of {device[:80]!r} waits for an answer", hint)
