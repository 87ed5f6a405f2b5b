"""Owns the routes of webhooks: making, changing, testing them, and the log of what was delivered."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit, Number, number
from beamfleet_server.api.schemas import Ended, Page
from beamfleet_server.api.webhook_schemas import (
    Delivery,
    DeliveryState,
    Enabling,
    NewWebhook,
    Redelivered,
    Redelivery,
    Rotation,
    SecretWebhook,
    Webhook,
)
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.store import Store
from beamfleet_server.store import webhooks as kept
from beamfleet_server.store.acts import about
from beamfleet_server.store.deliveries import Delivery as KeptDelivery
from beamfleet_server.store.operators import Operator
from beamfleet_server.store.webhooks import PENDING
from beamfleet_server.webhooks.addresses import Addresses, parsed
from beamfleet_server.webhooks.signing import Secrets, new_salt, shown

UNKNOWN = problems.told("webhook.unknown")
BY_OPERATOR = "disabled by"


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the routes need beside the store: where requests may go, the secrets, and a test of one webhook."""

    addresses: Addresses
    secrets: Secrets
    test: Callable[[int], Awaitable[KeptDelivery]]


def router(store: Store, authentication: Authentication, hooks: Hooks, clock: Clock) -> APIRouter:
    """`/webhooks`."""
    routes = guarded("webhooks")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)
    refused = problems.told("webhook.url", "webhook.address", "webhook.exists", "webhook.too_many")

    def with_secret(hook: kept.Webhook) -> SecretWebhook:
        return SecretWebhook(**_described(hook, clock()), secret=shown(hooks.secrets.of(hook.salt)))

    @routes.post("/webhooks", status_code=201, responses=refused)
    def create(new: NewWebhook, operator: Admitted) -> SecretWebhook:
        """Send what happens from now on to an address. The answer has the secret with which it is signed."""
        target = parsed(new.url)
        about(target.origin, " ".join([*new.kinds, *new.causes]))
        hooks.addresses.check(target)
        made = kept.NewWebhook(new.url, new.kinds, new.causes, new_salt(), operator.name)
        return with_secret(store.webhooks.find(store.webhooks.create(made, clock())))

    @routes.get("/webhooks")
    def listed() -> Page[Webhook]:
        """All webhooks, without their secrets."""
        return Page(items=[Webhook(**_described(hook, clock())) for hook in store.webhooks.all()])

    @routes.get("/webhooks/{webhook}", responses=UNKNOWN)
    def one(webhook: Number) -> Webhook:
        """One webhook, without its secret."""
        return Webhook(**_described(store.webhooks.find(webhook), clock()))

    @routes.delete("/webhooks/{webhook}", responses=UNKNOWN)
    def delete(webhook: Number) -> Ended:
        """End a webhook, with what waits for it and with its log."""
        hook = store.webhooks.find(webhook)
        about(str(webhook), parsed(hook.url).origin)
        store.webhooks.delete(webhook)
        return Ended(ended=str(webhook))

    @routes.post("/webhooks/{webhook}/rotate", responses=UNKNOWN)
    def rotate(webhook: Number, wish: Rotation) -> SecretWebhook:
        """Sign with a new secret, and for a while with the one before as well: a receiver takes either."""
        until = clock() + wish.overlap_s
        about(str(webhook), f"the secret before is good until {rfc3339(until)}")
        return with_secret(store.webhooks.rotate(webhook, new_salt(), until))

    @routes.post("/webhooks/{webhook}/enable", responses=UNKNOWN)
    def enable(webhook: Number, wish: Enabling) -> Webhook:
        """Send again, also what happened while it was disabled."""
        about(str(webhook), "from now" if wish.from_now else "")
        return Webhook(**_described(store.webhooks.enable(webhook, from_now=wish.from_now), clock()))

    @routes.post("/webhooks/{webhook}/disable", responses=UNKNOWN)
    def disable(webhook: Number, operator: Admitted) -> Webhook:
        """Send nothing until it is enabled again."""
        about(str(webhook))
        return Webhook(**_described(store.webhooks.disable(webhook, f"{BY_OPERATOR} {operator.name}"), clock()))

    @routes.post("/webhooks/{webhook}/test", responses=UNKNOWN)
    async def test(webhook: Number) -> Delivery:
        """Send a message of the type `webhook.test` at once, one time; the answer is what came of it."""
        about(str(webhook))
        return _delivery(await hooks.test(webhook))

    @routes.get("/webhooks/{webhook}/deliveries", responses=problems.told("webhook.unknown", "request.cursor"))
    def deliveries(
        webhook: Number,
        state: Annotated[DeliveryState | None, Query(description="only those")] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[Delivery]:
        """What was sent or is to be, newest first."""
        rows = store.deliveries.page(webhook, number(cursor), limit + 1, state)
        items = [_delivery(row) for row in rows[:limit]]
        return Page(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    @routes.post(
        "/webhooks/{webhook}/redeliver",
        responses=problems.told("webhook.unknown", "webhook.disabled", "webhook.no_delivery"),
    )
    def redeliver(webhook: Number, wish: Redelivery) -> Redelivered:
        """Send deliveries again, under the ids that they had."""
        about(str(webhook), "failed" if wish.deliveries is None else ",".join(map(str, wish.deliveries)))
        return Redelivered(redelivered=store.deliveries.redeliver(webhook, wish.deliveries, clock()))

    return routes


def _described(hook: kept.Webhook, now: int) -> dict[str, Any]:
    failing = hook.failing_since is not None
    return {
        "id": hook.id,
        "url": hook.url,
        "kinds": list(hook.kinds),
        "causes": list(hook.causes),
        "state": "disabled" if not hook.enabled else "failing" if failing else "ok",
        "reason": hook.reason,
        "failing_since": rfc3339(hook.failing_since),
        "error": hook.error,
        "pending": hook.pending,
        "failed": hook.failed,
        "old_secret_until": rfc3339(hook.old_until) if hook.old_salt and hook.old_until > now else None,
        "created": rfc3339(hook.created),
        "created_by": hook.created_by,
    }


def _delivery(row: KeptDelivery) -> Delivery:
    return Delivery(
        id=row.id,
        message=row.message,
        event=row.event,
        type=row.type,
        state=row.state,  # type: ignore[arg-type]  # the store has these words and no others
        tries=row.tries,
        status=row.status,
        error=row.error,
        created=rfc3339(row.created),
        time=rfc3339(row.time),
        next_try=rfc3339(row.next_try) if row.state == PENDING else None,
    )
