"""Owns the shapes of how the server is: health, alarms, what runs out. Times are RFC 3339 in UTC."""

from typing import Literal

from pydantic import BaseModel

from beamfleet_server.api.health_schemas import Counts


class Alarm(BaseModel):
    """Something that is wrong with the server now."""

    name: str
    detail: str
    since: str


class ExpiryCounts(BaseModel):
    """How much of what runs out is past half of its life, and how much has run out."""

    due: int
    expired: int


class Expiry(BaseModel):
    """Something that runs out: `due` when half of its life is over, and what the server renews by itself when that did
    not happen; `mend` is the command that renews it."""

    what: str
    state: Literal["ok", "due", "expired"]
    issued: str
    half_life: str
    expires: str
    mend: str


class Health(BaseModel):
    """How the server is. It is degraded without its broker, while an alarm sounds, and when something has run out
    without which devices get no updates."""

    status: Literal["ok", "degraded"]
    broker: Literal["up", "down"]
    devices: int
    online: int
    verdicts: Counts
    refused_messages: dict[str, int]
    alarms: list[Alarm]
    expiries: ExpiryCounts
