"""Owns the shapes of the operators' API that are about webhooks and what is delivered to them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from beamfleet_server.api.schemas import Closed

Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]
Words = Annotated[list[Word], Field(max_length=20)]
Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
DeliveryState = Literal["pending", "delivered", "failed"]
DAY_S = 86_400


class NewWebhook(Closed):
    """Where events are sent, and which of them: `kinds` and `causes`, empty for all."""

    url: str = Field(min_length=1, max_length=2000)
    kinds: Words = Field(default_factory=list)
    causes: Words = Field(default_factory=list)


class Rotation(Closed):
    """For how long the secret before is good as well; 0 for one that somebody else knows."""

    overlap_s: int = Field(default=DAY_S, ge=0, le=30 * DAY_S)


class Enabling(Closed):
    """Whether what happened while it was disabled is left out."""

    from_now: bool = False


class Redelivery(Closed):
    """The numbers of the deliveries that are sent again; without any, all that failed."""

    deliveries: list[Id] | None = Field(default=None, min_length=1, max_length=1000)


class Webhook(BaseModel):
    """A webhook and how it stands. `state`: `ok`, `failing` since `failing_since` with `error`, or `disabled` for
    `reason`. `old_secret_until`: until when the secret before is good as well."""

    id: int
    url: str
    kinds: list[str]
    causes: list[str]
    state: Literal["ok", "failing", "disabled"]
    reason: str
    failing_since: str | None
    error: str
    pending: int
    failed: int
    old_secret_until: str | None
    created: str
    created_by: str


class SecretWebhook(Webhook):
    """With its secret, which is shown this once."""

    secret: str


class Delivery(BaseModel):
    """One message to one webhook. `message` is the header `webhook-id`; `event` is null for a test; `status` is HTTP's,
    0 without an answer; `time` is that of the last try, `next_try` is null when there is none."""

    id: int
    message: str
    event: int | None
    type: str
    state: DeliveryState
    tries: int
    status: int
    error: str
    created: str
    time: str
    next_try: str | None


class Redelivered(BaseModel):
    """How many are sent again."""

    redelivered: int
