"""Owns the shapes of the operators' API that are about who is a device: tokens, enrolments, certificates,
authorities."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from beamfleet_server.api.schemas import Closed, Labels

Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Retirement(Closed):
    """How an authority is retired; with `force` also while devices use it."""

    force: bool = False


class Successor(Closed):
    """Which device replaces another one: an id, of a device that is there or will enrol."""

    by: str = Field(max_length=80)


class Replaced(BaseModel):
    """A device that another one replaces. `handed_over`: since when that has its labels, its pin and its place in
    rollouts; null: it gets them when it enrols. `waits`: it asks without a token to be let in."""

    device: str
    by: str
    retired: str
    handed_over: str | None
    waits: bool


class NewToken(Closed):
    """A token for one device, once; with `replace` for one that is enrolled already, whose certificates then end. Or,
    without a device, for `count` new devices whose ids begin with `prefix`."""

    device: str | None = None
    count: int | None = Field(default=None, ge=1, le=100_000)
    prefix: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    labels: Labels = Field(default_factory=dict, max_length=50)
    expires_in_s: int = Field(default=3600, ge=1, le=366 * 86_400)
    replace: bool = False

    @model_validator(mode="after")
    def _one_or_many(self) -> "NewToken":
        if (self.device is None) == (self.count is None):
            raise ValueError("either `device`, or `count`: how many new devices may use it")
        if self.device is not None and self.prefix:
            raise ValueError("`prefix` goes with `count`")
        if self.device is None and self.replace:
            raise ValueError("`replace` goes with `device`: a token for many never replaces anything")
        return self


class Token(BaseModel):
    """The only time that a token is shown."""

    id: int
    token: str
    device: str | None
    prefix: str
    count: int
    expires: str


class KnownToken(BaseModel):
    """A token as it is listed: `count` uses in all, `left` of them to come."""

    id: int
    device: str | None
    prefix: str
    labels: Labels
    replace: bool
    count: int
    left: int
    state: Literal["open", "used", "expired"]
    created: str
    created_by: str
    expires: str
    used: str | None


class Enrolment(BaseModel):
    """A device without a token that asks to be enrolled. `fingerprint`: the SHA-256 of its key, to be compared with
    what the device shows; `known`: a device of this id is enrolled already."""

    device: str
    fingerprint: str
    state: str
    known: bool
    address: str
    created: str
    asked: str
    decided_by: str
    decided: str | None


class Acceptance(Closed):
    """Which key of a device is meant; with `replace` for an id that is enrolled already."""

    fingerprint: Fingerprint | None = None
    replace: bool = False


class Rejection(Closed):
    """Which key of a device is meant; without one all of them."""

    fingerprint: Fingerprint | None = None


class Decision(BaseModel):
    """What was decided about a device; `fingerprint` of the key that was accepted."""

    device: str
    state: Literal["accepted", "rejected"]
    fingerprint: str | None


class NewCertificate(Closed):
    """A certificate request (PKCS#10, DER, base64) for a device whose key was made elsewhere."""

    request: Annotated[str, Field(max_length=16_384)]
    labels: Labels = Field(default_factory=dict, max_length=50)
    replace: bool = False


class IssuedCertificate(BaseModel):
    """A device's certificate, and the authorities of the fleet that it should trust (PEM)."""

    device: str
    certificate: str
    authorities: str
    serial: str
    not_after: str


class Revocation(Closed):
    """Which certificate of a device is revoked; all without a serial."""

    serial: str | None = Field(default=None, pattern="^[0-9a-f]{1,40}$")


class Revoked(BaseModel):
    """The serials of the certificates that were good until now."""

    device: str
    serials: list[str]
