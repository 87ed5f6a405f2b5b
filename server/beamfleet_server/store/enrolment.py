"""Owns one-time tokens and the certificates that they were spent for.

A token is bound to a device id and spent in the same transaction in which its certificate is signed and kept: of any
number of parallel uses one gets a certificate. The same public key with the same token gets that same certificate
again while the token lives, so that a lost answer or a power cut does not cost a visit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from beamfleet_bundles.names import check_device
from sqlalchemy import Connection, Row, delete, insert, select, update

from beamfleet_server.ca import Certificate
from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.gate import REVOKED
from beamfleet_server.store.tables import applications, certificates, devices, events, labels, tokens

Issue = Callable[[str], Certificate]
"""Signs a certificate for a device id."""
MAIN = "main"
"""The one application of a device today."""
_MEND = "flash the device again, or write a new token to it: beamfleet token create DEVICE"


@dataclass(frozen=True, slots=True)
class KeptCertificate:
    """A device's newest certificate."""

    serial: str
    not_after: int
    revoked: int | None


class Enrolment:
    """Tokens and certificates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_token(
        self, device: str, token_sha256: str, given: Mapping[str, str], now: int, expires: int, *, replace: bool
    ) -> None:
        """Keep a token for `device`, which gets the labels `given` when it is used; error `device.exists`."""

        def change(connection: Connection) -> None:
            enrolled = connection.scalar(select(devices.c.enrolled).where(devices.c.name == check_device(device)))
            if enrolled is not None and not replace:
                raise ServerError(
                    "device.exists",
                    f"the device {device} is enrolled already",
                    "choose another id, or ask to replace the device",
                )
            connection.execute(delete(tokens).where(tokens.c.device == device, tokens.c.used.is_(None)))
            row = {"sha256": token_sha256, "device": device, "labels": dict(given), "replace": replace, "created": now}
            connection.execute(insert(tokens).values(**row, expires=expires))

        self._database.write(change)

    def use_token(self, device: str, token_sha256: str, key_sha256: str, issue: Issue, now: int) -> bytes:
        """The certificate (DER) that this token is good for; errors `token.wrong`, `token.used`, `token.expired`."""

        def change(connection: Connection) -> bytes:
            token = connection.execute(select(tokens).where(tokens.c.sha256 == token_sha256)).one_or_none()
            if token is None or token.device != device:
                raise ServerError("token.wrong", "this is not the device's token", _MEND)
            if token.used is not None and token.key_sha256 != key_sha256:
                raise ServerError("token.used", f"the token of {device} has been used already", _MEND)
            if token.expires <= now:
                raise ServerError("token.expired", f"the token of {device} has expired", _MEND)
            if token.used is not None:
                kept = select(certificates.c.der).where(certificates.c.id == token.certificate_id)
                return bytes(connection.execute(kept).scalar_one())
            certificate = issue(device)
            device_id = self._enrol(connection, token, now)
            certificate_id = _keep(connection, device_id, certificate)
            spent = {"used": now, "key_sha256": key_sha256, "certificate_id": certificate_id}
            connection.execute(update(tokens).where(tokens.c.id == token.id).values(spent))
            return certificate.der

        return self._database.write(change)

    def renew(self, serial: str, issue: Issue, now: int) -> bytes:
        """A further certificate (DER) for the device that holds the certificate `serial`; error `certificate.unknown`.

        The dates of the old one do not matter: an expired certificate may renew, and do nothing else.
        """

        def change(connection: Connection) -> bytes:
            held = (
                select(devices.c.id, devices.c.name)
                .join_from(certificates, devices)
                .where(certificates.c.serial == serial, certificates.c.revoked.is_(None))
            )
            device = connection.execute(held).one_or_none()
            if device is None:
                raise ServerError("certificate.unknown", "this certificate is not, or no longer, one of the fleet's")
            certificate = issue(device.name)
            _keep(connection, device.id, certificate)
            append(self._database, connection, [NewEvent(now, "enrolled", "renewed", device_id=device.id)])
            return certificate.der

        return self._database.write(change)

    def device_of(self, serial: str) -> str | None:
        """The device that holds the certificate `serial`, None if there is none or it was revoked."""
        query = (
            select(devices.c.name)
            .join_from(certificates, devices)
            .where(certificates.c.serial == serial, certificates.c.revoked.is_(None))
        )
        return self._database.read(lambda connection: connection.scalar(query))

    def newest_certificate(self, device: str) -> KeptCertificate | None:
        """The certificate that was made last for `device`."""
        query = (
            select(certificates.c.serial, certificates.c.not_after, certificates.c.revoked)
            .join_from(certificates, devices)
            .where(devices.c.name == device)
            .order_by(certificates.c.id.desc())
            .limit(1)
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return KeptCertificate(*row) if row else None

    def _enrol(self, connection: Connection, token: Row[Any], now: int) -> int:
        device_id = connection.scalar(select(devices.c.id).where(devices.c.name == token.device))
        if device_id is None:
            device_id = inserted_id(connection.execute(insert(devices).values(name=token.device, enrolled=now)))
            connection.execute(insert(applications).values(device_id=device_id, app=MAIN))
        else:
            _begin_anew(connection, device_id, now)
            self._database.touch(REVOKED + str(token.device))
        for key, value in token.labels.items():
            connection.execute(delete(labels).where(labels.c.device_id == device_id, labels.c.key == key))
            connection.execute(insert(labels).values(device_id=device_id, key=key, value=value))
        append(self._database, connection, [NewEvent(now, "enrolled", "token", device_id=device_id)])
        return int(device_id)


def _begin_anew(connection: Connection, device_id: int, now: int) -> None:
    """A device was replaced or flashed again: its old certificates end, and its counters begin at zero."""
    old = (certificates.c.device_id == device_id, certificates.c.revoked.is_(None))
    connection.execute(update(certificates).where(*old).values(revoked=now))
    connection.execute(update(devices).where(devices.c.id == device_id).values(enrolled=now, session=0))
    connection.execute(update(events).where(events.c.device_id == device_id).values(boot=None, seq=None))
    connection.execute(delete(applications).where(applications.c.device_id == device_id))
    connection.execute(insert(applications).values(device_id=device_id, app=MAIN))


def _keep(connection: Connection, device_id: int, certificate: Certificate) -> int:
    row = {"serial": certificate.serial, "not_before": certificate.not_before, "not_after": certificate.not_after}
    return inserted_id(connection.execute(insert(certificates).values(**row, device_id=device_id, der=certificate.der)))
