"""Owns the tokens with which devices enrol: each for one device id, or for some new devices whose ids begin alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from beamfleet_bundles.names import check_device
from sqlalchemy import Connection, delete, insert, select

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.tables import devices, tokens

KEPT_S = 30 * 86_400
"""How long a token is listed after it has expired."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to be kept, as its SHA-256. With an empty `device` it is good for `uses` new devices whose ids begin
    with `prefix`."""

    sha256: str
    device: str
    expires: int
    labels: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False
    prefix: str = ""
    uses: int = 1
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class KeptToken:
    """A token as it is listed; `used` is the last time."""

    id: int
    device: str
    prefix: str
    labels: Mapping[str, str]
    replace: bool
    uses: int
    uses_left: int
    created: int
    created_by: str
    expires: int
    used: int | None


class Tokens:
    """All tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewToken, now: int) -> int:
        """Keep a token; its number. An earlier one for the same device that was not used ends. Error
        `device.exists`."""

        def change(connection: Connection) -> int:
            connection.execute(delete(tokens).where(tokens.c.expires < now - KEPT_S))
            if new.device:
                query = select(devices.c.enrolled).where(devices.c.name == check_device(new.device))
                if connection.scalar(query) is not None and not new.replace:
                    raise ServerError(
                        "device.exists",
                        f"the device {new.device} is enrolled already",
                        "choose another id, or ask to replace the device",
                    )
                connection.execute(delete(tokens).where(tokens.c.device == new.device, tokens.c.used.is_(None)))
            row = {
                "sha256": new.sha256,
                "device": new.device,
                "prefix": new.prefix,
                "labels": dict(new.labels),
                "replace": new.replace,
                "uses": new.uses,
                "uses_left": new.uses,
                "created": now,
                "created_by": new.created_by,
                "expires": new.expires,
            }
            return inserted_id(connection.execute(insert(tokens).values(row)))

        return self._database.write(change)

    def page(self, before: int | None, limit: int) -> list[KeptToken]:
        """At most `limit` tokens, newest first, with numbers below `before`."""
        columns = [tokens.c[name] for name in KeptToken.__dataclass_fields__]
        query = select(*columns).order_by(tokens.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(tokens.c.id < before)
        return self._database.read(lambda connection: [KeptToken(*row) for row in connection.execute(query)])

    def revoke(self, token: int) -> None:
        """End a token; the devices that have used it stay. Error `token.unknown`."""

        def change(connection: Connection) -> None:
            if not connection.execute(delete(tokens).where(tokens.c.id == token)).rowcount:
                raise ServerError("token.unknown", f"there is no token {token}", "see: beamfleet token list")

        self._database.write(change)
