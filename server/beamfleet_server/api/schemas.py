"""Owns the shapes of the operators' API. Requests are closed: an unknown key is refused. Times are RFC 3339 in UTC."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
Labels = dict[str, str]
Base64 = Annotated[str, Field(max_length=4 << 20)]
Role = Literal["viewer", "operator", "publisher", "admin"]


class Closed(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Page(BaseModel, Generic[T]):
    """Part of a list; `next` is the cursor of the rest, null at the end."""

    items: list[T]
    next: str | None = None


class Who(BaseModel):
    """The operator behind a token or a web session. `scopes`: the operations the token is limited to, empty for all
    of its role."""

    name: str
    role: str
    expires: str | None
    scopes: list[str] = []
    session: int | None = None


class NewOperator(Closed):
    """A further operator with a token of its own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9._@-]{0,62}$")
    role: Role
    expires_in_s: int = Field(default=90 * 86_400, ge=60, le=366 * 86_400)
    scopes: list[str] = Field(default_factory=list, max_length=50)


class KnownOperator(BaseModel):
    """An operator; the token itself is shown when it is made, and never again."""

    name: str
    role: str
    scopes: list[str]
    created: str
    created_by: str
    expires: str | None


class CreatedOperator(KnownOperator):
    """The only time that an operator's token is shown."""

    token: str


class Approval(BaseModel):
    """A rollout that needs a second operator; `devices`: how many it meant when it was asked for."""

    id: int
    product: str
    version: str
    selector: str
    canary: int
    note: str
    devices: int
    asked_by: str
    created: str
    expires: str
    state: str
    decided_by: str
    decided: str | None
    rollout: int | None


class WebSession(BaseModel):
    """A log-in on the web; `current` is the one that asks."""

    id: int
    name: str
    role: str
    created: str
    used: str
    expires: str
    address: str
    agent: str
    current: bool


class BegunSession(WebSession):
    """A session and what its changes must carry in `X-CSRF-Token`."""

    csrf_token: str


class Ended(BaseModel):
    """Something that has ended."""

    ended: str


class AuditEntry(BaseModel):
    """Who did what; `time` in Unix seconds, `hash` in hexadecimal, as they go into the next entry's hash."""

    id: int
    time: int
    actor: str
    address: str
    action: str
    target: str
    outcome: str
    detail: str
    hash: str


class Setting(BaseModel):
    """A setting of the server and where its value came from."""

    key: str
    value: str
    source: Literal["default", "file", "environment", "flag"]
    description: str


class Address(BaseModel):
    """Where a listener is reached."""

    host: str
    port: int


class MetadataVersions(BaseModel):
    """The newest versions that the server holds; null before `init`."""

    root: int | None
    targets: int | None
    products: dict[str, int]
    root_json_base64: str | None


class ServerFacts(BaseModel):
    """What a client needs to know of a server."""

    version: str
    name: str
    development: bool
    listeners: dict[str, Address]
    fleet_ca: str
    online_keys: dict[str, dict[str, Any]]
    metadata: MetadataVersions


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "degraded"]
    broker: Literal["up", "down"]
    devices: int
    online: int
    refused_messages: dict[str, int]


class MetadataUpload(Closed):
    """New versions of signed metadata, base64."""

    root: Base64 | None = None
    targets: Base64 | None = None
    products: dict[str, Base64] = Field(default_factory=dict, max_length=100)


class NewProduct(Closed):
    """A further product: targets metadata that delegates to it, and its first, empty metadata, base64."""

    name: str
    targets: Base64
    product: Base64


class Product(BaseModel):
    """A product."""

    name: str
    created: str
    version: int


class Release(BaseModel):
    """What an OTP release says of itself."""

    name: str
    kind: str
    erts: str
    otp: int


class Bundle(BaseModel):
    """A published bundle: `manifest` is its SHA-256, `size` the pack's bytes, `unpacked` those of all files."""

    product: str
    version: str
    target: str
    counter: int
    manifest: str
    size: int
    unpacked: int
    created: str
    release: Release


class BundleUpload(Bundle):
    """What came of an upload; `already` if the same bundle was there."""

    already: bool


class BundleContent(Bundle):
    """A bundle with the manifest itself."""

    content: dict[str, Any]


class NewToken(Closed):
    """A one-time token for a device; with `replace` for one that is enrolled already, whose certificates then end."""

    device: str
    labels: Labels = Field(default_factory=dict, max_length=50)
    expires_in_s: int = Field(default=3600, ge=1, le=366 * 86_400)
    replace: bool = False


class Token(BaseModel):
    """The only time that a token is shown."""

    token: str
    device: str
    expires: str


class Update(BaseModel):
    """The update that runs on a device, or the last one; `done` and `total` are bytes."""

    phase: str
    product: str
    version: str
    reason: str
    done: int
    total: int


class Verdict(BaseModel):
    """A device's newest word on its health."""

    verdict: str
    time: str


class Device(BaseModel):
    """A device as it last described itself. What it says is not proof of anything but that it said so."""

    id: str
    labels: Labels
    online: bool
    last_seen: str | None
    enrolled: str | None
    product: str
    version: str
    slot: str
    manifest: str
    phase: str
    attempt: int
    update: Update | None
    starts: int
    cause: str
    health: Verdict | None
    rollout: int | None
    unsafe_filesystem: bool


class Certificate(BaseModel):
    """A device's newest certificate; `serial` in hexadecimal."""

    serial: str
    not_after: str


class Event(BaseModel):
    """Something that happened."""

    id: int
    time: str
    device: str | None
    kind: str
    cause: str
    detail: str
    rollout: int | None
    data: dict[str, Any]


class DeviceDetails(Device):
    """A device with everything that is known about it; `history` is its newest events, newest first."""

    agent: str
    profile: str
    inventory: dict[str, Any]
    previous: str
    failed: str
    power_losses: int
    stopped: bool
    certificate: Certificate | None
    history: list[Event]


class LabelChanges(Closed):
    """New values by key; null takes a label away."""

    labels: dict[str, str | None] = Field(max_length=50)


class NewCommand(Closed):
    """Something that a device is asked to do now; it carries no authority over what runs."""

    name: Literal["refresh", "report"]


class Command(BaseModel):
    """A command that was handed to the broker."""

    id: str
    device: str
    name: str


class NewRollout(Closed):
    """A release for the devices that `selector` means; an empty one only together with `all`.

    `key` is of the caller's choice: a second request with the same one, after an answer was lost, starts nothing and is
    answered with the rollout of the first.
    """

    product: str
    version: str
    selector: str = Field(default="", max_length=2000)
    all: bool = False
    canary: int = Field(default=1, ge=0, le=1_000_000)
    key: str | None = Field(default=None, min_length=8, max_length=64)
    note: str = Field(default="", max_length=500)


class RolloutSummary(BaseModel):
    """A rollout with the number of its devices by state."""

    id: int
    product: str
    version: str
    selector: str
    canary: int
    note: str
    state: str
    phase: str
    reason: str
    created: str
    finished: str | None
    counts: dict[str, int]


class Member(BaseModel):
    """A device in a rollout; `done` and `total` are bytes of its download."""

    id: str
    state: str
    canary: bool
    reason: str
    done: int
    total: int
    updated: str


class Rollout(RolloutSummary):
    """A rollout with its devices."""

    devices: list[Member]
