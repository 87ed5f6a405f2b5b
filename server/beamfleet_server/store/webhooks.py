"""Owns the webhooks: where events go, which of them, and how each stands. What is sent is the business of `deliveries`.

A webhook's secret is not here: only the salt from which, with the server's key file, it is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.events import Wanted
from beamfleet_server.store.tables import events
from beamfleet_server.store.webhook_tables import deliveries, webhooks

TOUCHED = "webhooks"
MOST = 50
"""Each has one request on its way at most, so this bounds those of the server."""
PENDING, DELIVERED, FAILED = STATES = ("pending", "delivered", "failed")


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook to be kept. `kinds` and `causes` of events: empty for all."""

    url: str
    kinds: Sequence[str]
    causes: Sequence[str]
    salt: str
    created_by: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook and how it stands; times in Unix seconds. `reason`: why it is disabled. `pending` and `failed` count
    its deliveries."""

    id: int
    url: str
    kinds: tuple[str, ...]
    causes: tuple[str, ...]
    salt: str
    old_salt: str
    old_until: int
    created: int
    created_by: str
    enabled: bool
    reason: str
    cursor: int
    failing_since: int | None
    error: str
    pending: int
    failed: int

    @property
    def wanted(self) -> Wanted:
        """The events that it gets."""
        return Wanted(kinds=frozenset(self.kinds), causes=frozenset(self.causes))


class Webhooks:
    """All webhooks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewWebhook, now: int) -> int:
        """Keep a webhook that gets what happens from now on; its number. Errors `webhook.exists`,
        `webhook.too_many`."""

        def change(connection: Connection) -> int:
            if connection.scalar(select(webhooks.c.id).where(webhooks.c.url == new.url)) is not None:
                hint = "see: beamfleet webhook list; delete that one first to have another"
                raise ServerError("webhook.exists", "there is a webhook to this address already", hint)
            if (connection.scalar(select(func.count()).select_from(webhooks)) or 0) >= MOST:
                raise ServerError("webhook.too_many", f"there are {MOST} webhooks already", "delete one first")
            row: dict[str, Any] = {"url": new.url, "kinds": list(new.kinds), "causes": list(new.causes)}
            row |= {"salt": new.salt, "created": now, "created_by": new.created_by, "enabled": True}
            row["cursor"] = connection.scalar(select(func.max(events.c.id))) or 0
            self._database.touch(TOUCHED)
            return inserted_id(connection.execute(insert(webhooks).values(row)))

        return self._database.write(change)

    def all(self) -> list[Webhook]:
        """All of them, oldest first."""
        return self._database.read(_read)

    def find(self, webhook: int) -> Webhook:
        """The webhook of this number; error `webhook.unknown`."""
        found = self._database.read(lambda connection: _read(connection, webhook))
        if not found:
            raise unknown(webhook)
        return found[0]

    def rotate(self, webhook: int, salt: str, old_until: int) -> Webhook:
        """Sign with another secret from now on; with the one before it as well until `old_until`. Error
        `webhook.unknown`."""
        values = {"salt": salt, "old_salt": webhooks.c.salt, "old_until": old_until}
        return self._change(webhook, values)

    def disable(self, webhook: int, reason: str) -> Webhook:
        """Send nothing more; what happens meanwhile waits. Error `webhook.unknown`."""
        return self._change(webhook, {"enabled": False, "reason": reason})

    def enable(self, webhook: int, *, from_now: bool) -> Webhook:
        """Send again: also what happened while it was disabled, unless `from_now`. Error `webhook.unknown`."""
        values: dict[str, Any] = {"enabled": True, "reason": "", "failing_since": None, "error": ""}
        if from_now:
            newest = select(func.coalesce(func.max(events.c.id), 0)).scalar_subquery()
            values["cursor"] = case((webhooks.c.enabled, webhooks.c.cursor), else_=newest)
        return self._change(webhook, values)

    def delete(self, webhook: int) -> Webhook:
        """End it, with the log of its deliveries; what it was. Error `webhook.unknown`."""

        def change(connection: Connection) -> Webhook:
            found = _read(connection, webhook)
            if not found:
                raise unknown(webhook)
            connection.execute(delete(webhooks).where(webhooks.c.id == webhook))
            self._database.touch(TOUCHED)
            return found[0]

        return self._database.write(change)

    def _change(self, webhook: int, values: dict[str, Any]) -> Webhook:
        def change(connection: Connection) -> Webhook:
            if not connection.execute(update(webhooks).where(webhooks.c.id == webhook).values(values)).rowcount:
                raise unknown(webhook)
            self._database.touch(TOUCHED)
            return _read(connection, webhook)[0]

        return self._database.write(change)


def unknown(webhook: int) -> ServerError:
    """The error for a webhook that is not there."""
    return ServerError("webhook.unknown", f"there is no webhook {webhook}", "see: beamfleet webhook list")


def _read(connection: Connection, webhook: int | None = None) -> list[Webhook]:
    counted = select(deliveries.c.webhook_id, deliveries.c.state, func.count()).where(
        deliveries.c.state.in_((PENDING, FAILED))
    )
    query = select(webhooks).order_by(webhooks.c.id)
    if webhook is not None:
        query = query.where(webhooks.c.id == webhook)
        counted = counted.where(deliveries.c.webhook_id == webhook)
    counts = {
        (number, state): count
        for number, state, count in connection.execute(counted.group_by(deliveries.c.webhook_id, deliveries.c.state))
    }
    return [_webhook(row, counts) for row in connection.execute(query)]


def _webhook(row: Row[Any], counts: dict[tuple[int, str], int]) -> Webhook:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 (SQLAlchemy's own public name)
    fields |= {"kinds": tuple(row.kinds), "causes": tuple(row.causes)}
    return Webhook(**fields, pending=counts.get((row.id, PENDING), 0), failed=counts.get((row.id, FAILED), 0))
