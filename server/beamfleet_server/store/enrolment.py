"""Owns what devices enrol with and the certificates that they get.

A token is spent in the same transaction in which its certificate is signed and kept: of any number of parallel uses of
a token for one device one gets a certificate. The same public key with the same token gets that same certificate again
while the token lives, so that a lost answer or a power cut does not cost a visit.

An older certificate of a device ends when a newer one has been in use for a week: until then the device may go back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from beamfleet_bundles.names import check_device
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from beamfleet_server.ca import Certificate
from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.draw import lot
from beamfleet_server.store.authorities import trusted
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.gate import REVOKED
from beamfleet_server.store.health_tables import health
from beamfleet_server.store.samples import forget
from beamfleet_server.store.succession import awaited, hand_over
from beamfleet_server.store.tables import (
    applications,
    authorities,
    certificates,
    denials,
    devices,
    events,
    labels,
    token_uses,
    tokens,
)

Issue = Callable[[str], Certificate]
"""Signs a certificate for a device id."""
MAIN = "main"
"""The one application of a device today."""
TOUCHED = "devices"
"""What `touch` is told when devices are new, have other labels, or something of a rollout is due by the clock."""
DAY_S = 86_400
SETTLED_S = 7 * DAY_S
"""How long a newer certificate is in use before the older ones end."""
_MEND = "flash the device again, or write a new token to it: beamfleet token create DEVICE"


@dataclass(frozen=True, slots=True)
class KeptCertificate:
    """A device's newest certificate."""

    serial: str
    not_after: int
    revoked: int | None
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a certificate that is good: the device's name, the row of the certificate, when it was used last."""

    device: str
    certificate: int
    used: int | None


class Enrolment:
    """Devices' certificates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def use_token(self, device: str, token_sha256: str, key_sha256: str, issue: Issue, now: int) -> bytes:
        """The certificate (DER) that this token is good for; errors `token.wrong`, `token.used`, `token.expired`,
        `device.exists`."""

        def change(connection: Connection) -> bytes:
            token = connection.execute(select(tokens).where(tokens.c.sha256 == token_sha256)).one_or_none()
            if token is None or not _fits(token, device):
                raise ServerError("token.wrong", "this is not the device's token", _MEND)
            check_device(device)
            earlier = connection.execute(_given(token.id, device, key_sha256)).one_or_none()
            if earlier is None and not token.uses_left:
                raise ServerError("token.used", f"the token of {device} has been used already", _MEND)
            if token.expires <= now:
                raise ServerError("token.expired", f"the token of {device} has expired", _MEND)
            if earlier is not None:
                if earlier.revoked is not None:
                    raise ServerError("token.used", f"what the token of {device} gave was revoked", _MEND)
                return bytes(earlier.der)
            certificate_id, der = enrol(
                self._database, connection, device, issue, now, cause="token", given=token.labels, replace=token.replace
            )
            spent = {"used": now, "uses_left": token.uses_left - 1}
            connection.execute(update(tokens).where(tokens.c.id == token.id).values(spent))
            use = {"certificate_id": certificate_id, "token_id": token.id, "key_sha256": key_sha256}
            connection.execute(insert(token_uses).values(use))
            return der

        return self._database.write(change)

    def provision(self, device: str, issue: Issue, now: int, *, given: Mapping[str, str], replace: bool) -> bytes:
        """A certificate (DER) for a device whose key was made elsewhere; error `device.exists`."""

        def change(connection: Connection) -> bytes:
            return enrol(
                self._database, connection, device, issue, now, cause="provisioned", given=given, replace=replace
            )[1]

        return self._database.write(change)

    def renew(self, serial: str, der: bytes, issue: Issue, now: int) -> bytes:
        """A further certificate (DER) for the device that holds exactly this one; errors `certificate.unknown`,
        `device.cloned`.

        The dates of the old one do not matter, nor whether its authority is still trusted: an expired certificate, and
        one of a retired authority, may renew, and do nothing else.
        """

        def change(connection: Connection) -> bytes:
            held = (
                select(devices.c.id, devices.c.name, certificates.c.der)
                .join_from(certificates, devices)
                .where(certificates.c.serial == serial, certificates.c.revoked.is_(None))
            )
            device = connection.execute(held).one_or_none()
            if device is None or bytes(device.der) != der:
                raise _unknown()
            stopped = select(denials.c.until).where(denials.c.device_id == device.id, denials.c.cause == "clone")
            if (connection.scalar(stopped) or 0) > now:
                raise cloned(device.name)
            certificate = issue(device.name)
            ended = (certificates.c.revoked.is_not(None), certificates.c.not_after < now)
            connection.execute(delete(certificates).where(certificates.c.device_id == device.id, *ended))
            keep(connection, device.id, certificate)
            append(self._database, connection, [NewEvent(now, "enrolled", "renewed", device_id=device.id)])
            return certificate.der

        return self._database.write(change)

    def holder(self, serial: str, der: bytes) -> Holder | None:
        """Who holds exactly this certificate; None if nobody does, if it was revoked, or if its authority is no longer
        trusted."""
        query = (
            select(devices.c.name, certificates.c.id, certificates.c.used, certificates.c.der)
            .select_from(certificates)
            .join(devices, devices.c.id == certificates.c.device_id)
            .join(authorities, authorities.c.id == certificates.c.authority)
            .where(
                certificates.c.serial == serial,
                certificates.c.revoked.is_(None),
                authorities.c.state.in_(trusted()),
            )
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return Holder(row.name, row.id, row.used) if row is not None and bytes(row.der) == der else None

    def seen(self, holder: Holder, now: int) -> None:
        """A certificate was used; written once a day. The older ones of its device end when it has been in use for a
        week."""
        if holder.used is not None and holder.used <= now < holder.used + DAY_S:
            return

        def change(connection: Connection) -> None:
            this = certificates.c.id == holder.certificate
            first_used = func.coalesce(certificates.c.first_used, now)
            connection.execute(update(certificates).where(this).values(used=now, first_used=first_used))
            row = connection.execute(select(certificates.c.first_used, certificates.c.device_id).where(this)).one()
            if row.first_used > now - SETTLED_S:
                return
            older = (
                certificates.c.device_id == row.device_id,
                certificates.c.id < holder.certificate,
                certificates.c.revoked.is_(None),
            )
            if connection.execute(update(certificates).where(*older).values(revoked=now)).rowcount:
                self._database.touch(REVOKED + holder.device)
                event = NewEvent(now, "revoked", "superseded", "a newer certificate is in use", row.device_id)
                append(self._database, connection, [event])

        self._database.write(change)

    def revoke(self, device: str, serial: str | None, now: int) -> list[str]:
        """Revoke the certificates of a device, or the one of this serial; the serials of those that were good until
        now. Without a serial its tokens end as well: it needs a new one to come back. Errors `device.unknown`,
        `certificate.none`."""

        def change(connection: Connection) -> list[str]:
            device_id = connection.scalar(select(devices.c.id).where(devices.c.name == device))
            if device_id is None:
                raise ServerError("device.unknown", f"there is no device {device[:80]!r}", "see: beamfleet device list")
            of_device = [certificates.c.device_id == device_id]
            if serial is not None:
                of_device.append(certificates.c.serial == serial)
                if connection.scalar(select(certificates.c.id).where(*of_device)) is None:
                    what = f"{device} has no certificate {serial[:80]}"
                    raise ServerError("certificate.none", what, "see: beamfleet device show DEVICE")
            else:
                connection.execute(delete(tokens).where(tokens.c.device == device))
            good = (*of_device, certificates.c.revoked.is_(None))
            ended = list(connection.scalars(select(certificates.c.serial).where(*good).order_by(certificates.c.id)))
            if ended:
                connection.execute(update(certificates).where(*good).values(revoked=now))
                event = NewEvent(now, "revoked", "operator", f"{len(ended)} certificates", device_id)
                append(self._database, connection, [event])
                self._database.touch(REVOKED + device)
            return ended

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
        columns = (
            certificates.c.serial,
            certificates.c.not_after,
            certificates.c.revoked,
            certificates.c.authority,
        )
        query = (
            select(*columns)
            .join_from(certificates, devices)
            .where(devices.c.name == device)
            .order_by(certificates.c.id.desc())
            .limit(1)
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return KeptCertificate(*row) if row else None


def enrol(
    database: Database,
    connection: Connection,
    device: str,
    issue: Issue,
    now: int,
    *,
    cause: str,
    given: Mapping[str, str],
    replace: bool,
) -> tuple[int, bytes]:
    """Inside a change: a certificate for a new device, or, with `replace`, for one that is enrolled already and begins
    anew; its row and its bytes (DER). Errors `name.device`, `device.exists`."""
    device_id = connection.scalar(select(devices.c.id).where(devices.c.name == check_device(device)))
    if device_id is not None and not replace:
        raise ServerError(
            "device.exists",
            f"the device {device} is enrolled already, with another key",
            "choose another id, or ask to replace the device",
        )
    certificate = issue(device)
    if device_id is None:
        device_id = inserted_id(connection.execute(insert(devices).values(name=device, enrolled=now, lot=lot(device))))
        connection.execute(insert(applications).values(device_id=device_id, app=MAIN))
    else:
        _begin_anew(connection, device_id, now)
        database.touch(REVOKED + device)
    for key, value in given.items():
        connection.execute(delete(labels).where(labels.c.device_id == device_id, labels.c.key == key))
        connection.execute(insert(labels).values(device_id=device_id, key=key, value=value))
    append(database, connection, [NewEvent(now, "enrolled", cause, device_id=device_id)])
    replaced = awaited(connection, device)
    if replaced is not None:
        hand_over(database, connection, replaced, device_id, now)
    database.touch(TOUCHED)
    return keep(connection, device_id, certificate), certificate.der


def keep(connection: Connection, device_id: int, certificate: Certificate) -> int:
    """Inside a change: keep a certificate of a device; its row."""
    row = {
        "serial": certificate.serial,
        "authority": certificate.authority,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
    }
    return inserted_id(connection.execute(insert(certificates).values(**row, device_id=device_id, der=certificate.der)))


def cloned(device: str) -> ServerError:
    """The error for a device whose identity two machines use."""
    what = f"two machines are using the identity of {device}; neither may do anything until somebody has decided"
    return ServerError("device.cloned", what, "beamfleet device revoke DEVICE, or accept-clone DEVICE if all is well")


def _fits(token: Row[Any], device: str) -> bool:
    return bool(token.device == device) if token.device else device.startswith(token.prefix)


def _given(token_id: int, device: str, key_sha256: str) -> Any:
    return (
        select(certificates.c.der, certificates.c.revoked)
        .select_from(token_uses)
        .join(certificates, certificates.c.id == token_uses.c.certificate_id)
        .join(devices, devices.c.id == certificates.c.device_id)
        .where(token_uses.c.token_id == token_id, token_uses.c.key_sha256 == key_sha256, devices.c.name == device)
    )


def _begin_anew(connection: Connection, device_id: int, now: int) -> None:
    """A device was replaced or flashed again: its old certificates end, its counters begin at zero, what was held
    against the old one is forgotten, and it is in service, also if it was not."""
    old = (certificates.c.device_id == device_id, certificates.c.revoked.is_(None))
    connection.execute(update(certificates).where(*old).values(revoked=now))
    fresh = {"enrolled": now, "session": 0, "machines": [], "returns": [], "keepalive_s": 0, "interval_s": 0}
    served = {"retired": None, "retired_by": "", "replaced_by": "", "handed_over": None}
    connection.execute(update(devices).where(devices.c.id == device_id).values(fresh | served))
    connection.execute(delete(denials).where(denials.c.device_id == device_id, denials.c.cause == "clone"))
    connection.execute(update(events).where(events.c.device_id == device_id).values(boot=None, seq=None))
    connection.execute(delete(applications).where(applications.c.device_id == device_id))
    connection.execute(insert(applications).values(device_id=device_id, app=MAIN))
    connection.execute(delete(health).where(health.c.device_id == device_id))
    forget(connection, device_id)


def _unknown() -> ServerError:
    return ServerError("certificate.unknown", "this certificate is not, or no longer, one of the fleet's")
