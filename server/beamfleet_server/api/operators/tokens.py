"""Owns the routes of the tokens with which devices enrol: making, listing, ending them."""

from typing import Annotated, Any

from beamfleet_bundles.names import check_device, check_label
from fastapi import APIRouter, Depends

from beamfleet_server.api import problems
from beamfleet_server.api.authentication import Authentication, token_hash
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.identity_schemas import KnownToken, NewToken, Token
from beamfleet_server.api.operators.cursors import Cursor, Limit, Number, number
from beamfleet_server.api.schemas import Ended, Page
from beamfleet_server.clock import Clock, rfc3339
from beamfleet_server.enrolment_tokens import new_enrolment_token
from beamfleet_server.store import Store
from beamfleet_server.store import tokens as kept
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator


def router(store: Store, authentication: Authentication, clock: Clock) -> APIRouter:
    """`/tokens`."""
    routes = guarded("tokens")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.post("/tokens", status_code=201, responses=problems.told("device.exists"))
    def create(new: NewToken, operator: Admitted) -> Token:
        """Make a token with which one device can enrol once, or `count` new devices can. An earlier one for the same
        device that was not used ends."""
        if new.device is not None:
            check_device(new.device)
        for key, value in new.labels.items():
            check_label(key, value)
        count = new.count or 1
        about(new.device or f"{new.prefix}*", "" if new.device else f"{count} devices")
        token, now = new_enrolment_token(), clock()
        expires = now + new.expires_in_s
        row = kept.NewToken(
            token_hash(token),
            new.device or "",
            expires,
            new.labels,
            replace=new.replace,
            prefix=new.prefix,
            uses=count,
            created_by=operator.name,
        )
        made = store.tokens.create(row, now)
        told: dict[str, Any] = {"device": new.device, "prefix": new.prefix, "count": count}
        return Token(id=made, token=token, expires=rfc3339(expires), **told)

    @routes.get("/tokens", responses=problems.told("request.cursor"))
    def listed(cursor: Cursor = None, limit: Limit = 100) -> Page[KnownToken]:
        """Tokens, newest first, until a month after they expired. The tokens themselves are not kept."""
        rows, now = store.tokens.page(number(cursor), limit + 1), clock()
        items = [_described(row, now) for row in rows[:limit]]
        return Page(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    @routes.delete("/tokens/{token}", responses=problems.told("token.unknown"))
    def revoke(token: Number) -> Ended:
        """End a token. The devices that have used it stay."""
        store.tokens.revoke(token)
        return Ended(ended=str(token))

    return routes


def _described(token: kept.KeptToken, now: int) -> KnownToken:
    return KnownToken(
        id=token.id,
        device=token.device or None,
        prefix=token.prefix,
        labels=dict(token.labels),
        replace=token.replace,
        count=token.uses,
        left=token.uses_left,
        state="used" if not token.uses_left else "expired" if token.expires <= now else "open",
        created=rfc3339(token.created),
        created_by=token.created_by,
        expires=rfc3339(token.expires),
        used=rfc3339(token.used),
    )
