"""Owns the shapes of the operators' API. Requests are closed: an unknown key is refused. Times are RFC 3339 in UTC."""

import base64
import binascii
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from beamfleet_server.api.health_schemas import HealthDetails, Standing
from beamfleet_server.errors import ServerError

T = TypeVar("T")
Labels = dict[str, str]
Base64 = Annotated[str, Field(max_length=4 << 20)]
Role = Literal["viewer", "operator", "publisher", "admin"]


class Closed(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", strict=True)


def decoded(name: str, text: str) -> bytes:
    """The bytes of a base64 field; error `request.schema`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ServerError("request.schema", f"{name[:80]} is not base64") from None


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


class Authority(BaseModel):
    """An authority of the fleet: `active` (it signs), `trusted`, or `retired` (its certificates may only renew).
    `devices`: how many use a certificate of it."""

    id: str
    state: str
    created: str
    not_after: str
    devices: int
    pem: str


class ServerFacts(BaseModel):
    """What a client needs to know of a server. `fleet_ca`: the certificates of all trusted authorities, the active
    one first."""

    version: str
    name: str
    development: bool
    listeners: dict[str, Address]
    fleet_ca: str
    authorities: list[Authority]
    online_keys: dict[str, dict[str, Any]]
    metadata: MetadataVersions


class MetadataUpload(Closed):
    """New versions of signed metadata, base64. With `roots`, every root from the first one on, the server takes back
    what it has lost."""

    roots: list[Base64] = Field(default_factory=list, max_length=1000)
    root: Base64 | None = None
    targets: Base64 | None = None
    products: dict[str, Base64] = Field(default_factory=dict, max_length=100)


class MetadataNumbers(BaseModel):
    """Versions of a role: `held` by the server, the highest one `reported` by devices when they were ahead of it (0:
    they never were), and the `next` one that it takes."""

    held: int
    reported: int
    next: int


class MetadataNext(BaseModel):
    """Which versions are next."""

    roles: dict[str, MetadataNumbers]


class OfferedMetadata(Closed):
    """What a device keeps of signed metadata, base64: `N.root`, `targets`, and products by name."""

    documents: dict[str, Base64] = Field(max_length=300)


class AdoptedMetadata(BaseModel):
    """What of it was new to the server."""

    adopted: list[str]


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


class Update(BaseModel):
    """The update that runs on a device, or the last one; `done` and `total` are bytes."""

    phase: str
    product: str
    version: str
    reason: str
    done: int
    total: int


class Device(BaseModel):
    """A device as it last described itself. What it says is not proof of anything but that it said so. `clone`: when
    its identity was last seen to be used by two machines; `pinned`: why rollouts leave it alone; `retired`: since when
    it is out of service; `replaced_by`: which one has its place, or gets it when it enrols."""

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
    health: Standing
    rollout: int | None
    unsafe_filesystem: bool
    clone: str | None
    pinned: str
    retired: str | None
    replaced_by: str


class Certificate(BaseModel):
    """A device's newest certificate; `serial` in hexadecimal, `authority` the id of the one that signed it."""

    serial: str
    not_after: str
    revoked: str | None
    authority: str


class Denial(BaseModel):
    """Why a device is not taken, and until when; null: until somebody decides."""

    cause: str
    reason: str
    until: str | None


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
    """A device with everything that is known about it; `history` is its newest events, newest first; `replaces`: the
    device whose place it has."""

    health: HealthDetails
    agent: str
    profile: str
    retired_by: str
    replaces: str
    inventory: dict[str, Any]
    previous: str
    failed: str
    power_losses: int
    stopped: bool
    certificate: Certificate | None
    denial: Denial | None
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
