"""Owns what is delivered to webhooks: the outbox that events go into, what is due, what became of it, the log.

    events ── fill (with the cursor, one transaction) ──► pending ── delivered
                                                             │ └──── tried again later
                                                             └────── failed ── redeliver ──► pending

Nothing is lost: the cursor of a webhook moves only with the rows that it passes. What was sent and not yet noted when
the server died is pending, and is sent again under the same `message`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.store.database import Database, inserted_id
from beamfleet_server.store.events import Event, NewEvent, append, select_events
from beamfleet_server.store.tables import events
from beamfleet_server.store.webhook_tables import deliveries, webhooks
from beamfleet_server.store.webhooks import DELIVERED, FAILED, PENDING, TOUCHED, Webhook, Webhooks, unknown

BACKLOG = 1000
"""Most deliveries of one webhook that wait as rows; what happens above that waits behind the cursor."""
STRIDE = 1000
"""After so many events that a webhook does not want, its cursor is moved all the same."""
PIECE = 500
"""Rows that are pruned in one transaction."""
KEPT = 10_000
"""Most ended deliveries of one webhook in the log."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be sent: `id` is the receiver's key against doubles, `body` is JSON."""

    id: str
    type: str
    body: str


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery whose time has come. `began`: when it was first tried, None before."""

    id: int
    message: str
    body: str
    tries: int
    began: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a try: HTTP's `status`, 0 without an answer, and what was wrong ("" if it was taken)."""

    status: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A line of the log; times in Unix seconds, `time` of the last change. `event` is None for a test."""

    id: int
    event: int | None
    message: str
    type: str
    created: int
    state: str
    tries: int
    next_try: int
    time: int
    status: int
    error: str


class Deliveries:
    """The deliveries of all webhooks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def fill(self, webhook: int, after: int, compose: Callable[[Webhook, Event], Message], now: int) -> int:
        """Make deliveries of the events after the webhook's cursor that it wants, as far as there is room; the newest
        event that was looked at. `after`: one that was looked at already, in vain."""
        hook = Webhooks(self._database).find(webhook)
        room = BACKLOG - hook.pending
        if not hook.enabled or room <= 0:
            return after
        start = max(hook.cursor, after)
        query = select_events(hook.wanted).where(events.c.id > start).order_by(events.c.id).limit(room)

        def look(connection: Connection) -> tuple[list[Event], int]:
            found = [Event(*row) for row in connection.execute(query)]
            newest = connection.scalar(select(func.max(events.c.id))) or 0
            return found, found[-1].id if len(found) == room else max(newest, start)

        found, seen = self._database.read(look)
        if found or seen - hook.cursor > STRIDE:
            rows = [_row(webhook, event.id, compose(hook, event), now) for event in found]
            self._database.write(lambda connection: _enter(connection, hook, rows, seen))
        return seen

    def add(self, webhook: int, message: Message, outcome: Outcome, now: int) -> int:
        """Note a delivery that is about no event, with what came of it; its number."""
        row = _row(webhook, None, message, now)
        row |= {"state": FAILED if outcome.error else DELIVERED, "tries": 1, "status": outcome.status}
        row |= {"error": outcome.error, "began": now}
        return self._database.write(lambda connection: inserted_id(connection.execute(insert(deliveries), row)))

    def due(self, webhook: int, now: int, limit: int) -> list[Due]:
        """At most `limit` deliveries of an enabled webhook whose time has come, in the order of events."""
        columns = [deliveries.c[name] for name in Due.__dataclass_fields__]
        query = (
            select(*columns)
            .join_from(deliveries, webhooks)
            .where(deliveries.c.webhook_id == webhook, deliveries.c.state == PENDING, deliveries.c.next_try <= now)
            .where(webhooks.c.enabled)
            .order_by(deliveries.c.id)
            .limit(limit)
        )
        return self._database.read(lambda connection: [Due(*row) for row in connection.execute(query)])

    def next_try(self, webhook: int) -> int | None:
        """When the next delivery of an enabled webhook is due, None if none waits."""
        query = (
            select(func.min(deliveries.c.next_try))
            .join_from(deliveries, webhooks)
            .where(deliveries.c.webhook_id == webhook, deliveries.c.state == PENDING, webhooks.c.enabled)
        )
        found: int | None = self._database.read(lambda connection: connection.scalar(query))
        return found

    def delivered(self, webhook: int, delivery: int, status: int, now: int, *, hasten: bool) -> None:
        """It was taken. `hasten`: the receiver is well again, and whatever waits for a later try is due now."""

        def change(connection: Connection) -> None:
            values = {"state": DELIVERED, "tries": deliveries.c.tries + 1, "time": now, "status": status, "error": ""}
            connection.execute(update(deliveries).where(deliveries.c.id == delivery).values(values))
            well = update(webhooks).where(webhooks.c.id == webhook, webhooks.c.failing_since.is_not(None))
            connection.execute(well.values(failing_since=None, error=""))
            if hasten:
                waiting = (deliveries.c.webhook_id == webhook) & (deliveries.c.state == PENDING)
                connection.execute(update(deliveries).where(waiting).values(next_try=now))

        self._database.write(change)

    def not_delivered(
        self,
        webhook: int,
        delivery: int,
        outcome: Outcome,
        now: int,
        *,
        next_try: int | None,
        failing_limit: int,
        gone: bool = False,
    ) -> None:
        """It was not taken: tried again at `next_try`, or `failed` for good. A webhook that has taken nothing since
        `failing_limit`, or whose receiver is `gone`, is disabled, and an event says why."""

        def change(connection: Connection) -> None:
            values: dict[str, Any] = {"tries": deliveries.c.tries + 1, "time": now, "status": outcome.status}
            values |= {"error": outcome.error, "began": func.coalesce(deliveries.c.began, now)}
            values |= {"state": FAILED} if next_try is None else {"next_try": next_try}
            connection.execute(update(deliveries).where(deliveries.c.id == delivery).values(values))
            of_hook = update(webhooks).where(webhooks.c.id == webhook)
            since = func.coalesce(webhooks.c.failing_since, now)
            connection.execute(of_hook.values(failing_since=since, error=outcome.error))
            began = connection.scalar(select(webhooks.c.failing_since).where(webhooks.c.id == webhook))
            if gone or (began is not None and began <= failing_limit):
                why = f"{outcome.error}: the receiver is gone" if gone else f"failing for days: {outcome.error}"
                self._disable(connection, webhook, why, now)

        self._database.write(change)

    def _disable(self, connection: Connection, webhook: int, why: str, now: int) -> None:
        enabled = update(webhooks).where(webhooks.c.id == webhook, webhooks.c.enabled)
        if connection.execute(enabled.values(enabled=False, reason=why)).rowcount:
            told = NewEvent(now, "webhook", "disabled", f"webhook {webhook}: {why}", data={"webhook": webhook})
            append(self._database, connection, [told])
            self._database.touch(TOUCHED)

    def page(self, webhook: int, before: int | None, limit: int, state: str | None = None) -> list[Delivery]:
        """At most `limit` deliveries of a webhook, newest first, with numbers below `before`. Error
        `webhook.unknown`."""
        query = _log().where(deliveries.c.webhook_id == webhook).order_by(deliveries.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(deliveries.c.id < before)
        if state is not None:
            query = query.where(deliveries.c.state == state)

        def look(connection: Connection) -> list[Delivery]:
            if connection.scalar(select(webhooks.c.id).where(webhooks.c.id == webhook)) is None:
                raise unknown(webhook)
            return [Delivery(*row) for row in connection.execute(query)]

        return self._database.read(look)

    def find(self, webhook: int, delivery: int) -> tuple[Delivery, str]:
        """A delivery with its body; error `webhook.no_delivery`."""
        query = (
            _log().add_columns(deliveries.c.body).where(deliveries.c.webhook_id == webhook, deliveries.c.id == delivery)
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise _no_delivery(webhook, delivery)
        return Delivery(*row[:-1]), str(row[-1])

    def redeliver(self, webhook: int, wanted: Sequence[int] | None, now: int) -> int:
        """Send these deliveries again, or all that failed; how many. They keep their `message`. Errors
        `webhook.unknown`, `webhook.disabled`, `webhook.no_delivery`."""

        def change(connection: Connection) -> int:
            enabled = connection.scalar(select(webhooks.c.enabled).where(webhooks.c.id == webhook))
            if enabled is None:
                raise unknown(webhook)
            if not enabled:
                hint = f"first: beamfleet webhook enable {webhook}"
                raise ServerError("webhook.disabled", f"webhook {webhook} is disabled", hint)
            meant = deliveries.c.state == FAILED if wanted is None else deliveries.c.id.in_(list(wanted))
            ours = (deliveries.c.webhook_id == webhook) & meant
            if wanted is not None:
                known = set(connection.scalars(select(deliveries.c.id).where(ours)))
                for number in wanted:
                    if number not in known:
                        raise _no_delivery(webhook, number)
            values = {"state": PENDING, "tries": 0, "began": None, "next_try": now, "time": now}
            changed = connection.execute(update(deliveries).where(ours, deliveries.c.state != PENDING).values(values))
            self._database.touch(TOUCHED)
            return changed.rowcount

        return self._database.write(change)

    def prune(self, delivered_before: int, failed_before: int) -> int:
        """Forget what ended before these times, and what is too much; how many. A piece at a time: ask again while it
        is not 0."""
        old = (deliveries.c.state == DELIVERED) & (deliveries.c.time < delivered_before) | (
            deliveries.c.state == FAILED
        ) & (deliveries.c.time < failed_before)

        def change(connection: Connection) -> int:
            gone = list(connection.scalars(select(deliveries.c.id).where(old).limit(PIECE)))
            if not gone:
                for webhook in connection.scalars(select(webhooks.c.id)).all():
                    ended = (
                        select(deliveries.c.id)
                        .where(deliveries.c.webhook_id == webhook, deliveries.c.state != PENDING)
                        .order_by(deliveries.c.id.desc())
                    )
                    gone += connection.scalars(ended.offset(KEPT).limit(PIECE)).all()
            connection.execute(delete(deliveries).where(deliveries.c.id.in_(gone)))
            return len(gone)

        return self._database.write(change)


def _log() -> Select[Any]:
    names = list(Delivery.__dataclass_fields__)
    return select(*(deliveries.c["event_id" if name == "event" else name] for name in names))


def _row(webhook: int, event: int | None, message: Message, now: int) -> dict[str, Any]:
    return {
        "webhook_id": webhook,
        "event_id": event,
        "message": message.id,
        "type": message.type,
        "body": message.body,
        "created": now,
        "state": PENDING,
        "next_try": now,
        "time": now,
    }


def _enter(connection: Connection, hook: Webhook, rows: Sequence[dict[str, Any]], seen: int) -> None:
    """Move the cursor together with the rows, unless somebody else has moved it. An event that was deleted meanwhile
    has no delivery."""
    here = update(webhooks).where(webhooks.c.id == hook.id, webhooks.c.cursor == hook.cursor)
    if not connection.execute(here.values(cursor=seen)).rowcount:
        return
    wanted = [row["event_id"] for row in rows]
    left = set(connection.scalars(select(events.c.id).where(events.c.id.in_(wanted)))) if wanted else set()
    kept = [row for row in rows if row["event_id"] in left]
    if kept:
        connection.execute(insert(deliveries), kept)


def _no_delivery(webhook: int, delivery: int) -> ServerError:
    hint = f"see: beamfleet webhook deliveries {webhook}"
    return ServerError("webhook.no_delivery", f"webhook {webhook} has no delivery {delivery}", hint)
