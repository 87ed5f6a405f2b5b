"""Owns the shape of every JSON message on MQTT: closed schemas, sizes and limits; PROTOCOL.md has them as tables.

`decode` is for whoever receives, on the server above all: everything in a message is hostile until it fits. Objects
have exactly the fields below, strings are short and carry no control characters and none that hide or turn text,
integers are at least 0 and below 2^63, nesting ends where the schema ends. What does not fit is refused, never mended:
the resident agent builds the same JSON without this module, and shortens and cleans its strings itself.
"""

from typing import Annotated, Final, Literal

import msgspec

from beamfleet_bundles.errors import BundleError

_HOSTILE = r"\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
_PRINTABLE = rf"\A[^{_HOSTILE}]*\Z"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Short = Annotated[str, msgspec.Meta(max_length=64, pattern=_PRINTABLE)]
Line = Annotated[str, msgspec.Meta(max_length=256, pattern=_PRINTABLE)]
Detail = Annotated[str, msgspec.Meta(max_length=1024, pattern=_PRINTABLE)]
Word = Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[0-9A-Za-z._:+-]*\Z")]
"""An identifier, a cause or an error's code; may be empty."""
Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_]{0,31}\Z")]
"""A key of `data`, `memory` and `metrics`."""
Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float
"""What a release measures about itself: the only numbers that may be below 0 or have a fraction."""
LogLine = Annotated[str, msgspec.Meta(max_length=512, pattern=_PRINTABLE)]
CommandId = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[0-9A-Za-z-]*\Z")]
Pair = tuple[Count, Count]
"""What there is of something that has an end: (used, limit) in `Beam`, (free, total) in `Host`."""
Slot = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
Hash = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
Product = Annotated[str, msgspec.Meta(pattern=r"\A([a-z][a-z0-9-]{0,30})?\Z")]
ProductName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,30}\Z")]
Version = Annotated[str, msgspec.Meta(pattern=r"\A([0-9A-Za-z][0-9A-Za-z.+-]{0,63})?\Z")]
BootId = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
"""The kernel's id of this boot without its dashes: two machines never share one."""
_ZONE = r"\A([A-Za-z][0-9A-Za-z_+-]*(/[0-9A-Za-z][0-9A-Za-z_+-]*)*)?\Z"
Zone = Annotated[str, msgspec.Meta(max_length=64, pattern=_ZONE)]
"""A time zone as the IANA names it, such as `Europe/Berlin`; empty where the device does not know."""
Network = Literal["wired", "wifi", "cellular", "unknown"]
"""The class of the network that the device reaches the server by."""
Profile = Literal["", "wired", "metered"]
"""How much a device may say."""
MAX_PRODUCTS: Final = 8
Cause = Literal[
    "", "update", "rollback", "revert", "fallback", "operator", "crash", "hang", "oom", "power", "exit", "killed",
    "probe", "deadline", "unconfirmed", "hook", "uncounted",
]  # fmt: skip
"""Why a release runs or stopped running, in the words of `boot/state`."""
Permille = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Temperature = Annotated[int, msgspec.Meta(ge=-273_150, le=1_000_000)]
"""Thousandths of a degree Celsius."""
ProbeKind = Literal["startup", "readiness", "liveness"]
ProbeState = Literal["ok", "failed", "waiting"]
UpdatePhase = Literal[
    "idle", "downloading", "verified", "staged", "swapping", "trial", "committed", "reverted", "failed"
]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all messages have in common."""

    v: Literal[1]


class Presence(Message, frozen=True, kw_only=True):
    """`up/presence`, birth and will. `offline` of a session counts only while no newer session is known."""

    session: Positive
    """Counts the agent's starts and reconnects."""
    online: bool
    reason: Line
    time: Count
    """Unix seconds by the device's clock."""
    agent: Short
    """Version of the agent."""
    profile: Profile
    machine: BootId | msgspec.UnsetType = msgspec.UNSET
    """Older agents do not say it, nor what follows."""
    keepalive_s: Positive | msgspec.UnsetType = msgspec.UNSET
    """A device that is online says something, or pings, at least this often."""
    interval_s: Positive | msgspec.UnsetType = msgspec.UNSET
    """And reports its health at least this often."""


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The update that is under way or was the last."""

    phase: UpdatePhase
    product: Product
    version: Version
    manifest: Hash
    attempt: Count
    reason: Word
    detail: Detail


class Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the device is."""

    agent: Short
    arch: Short
    libc: Short
    libc_version: Short
    machine: Short
    hardware: Short
    kernel: Line
    os: Line
    python: Short
    filesystem: Short
    unsafe_filesystem: bool
    free_bytes: Count
    cpus: Count
    memory_bytes: Count
    timezone: Zone | msgspec.UnsetType = msgspec.UNSET
    """Older agents do not say it, nor what follows."""
    network: Network | msgspec.UnsetType = msgspec.UNSET


class Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The versions of the verified metadata that a device keeps, 0 for none: a server must not go back behind them."""

    root: Count
    timestamp: Count
    snapshot: Count
    targets: Count
    products: Annotated[dict[ProductName, Count], msgspec.Meta(max_length=MAX_PRODUCTS)]


class State(Message, frozen=True, kw_only=True):
    """`up/state`: what `boot/state` and the journal say. Ordered by (boot, seq); the last write wins."""

    boot: Count
    seq: Count
    time: Count
    slot: Slot
    previous: Slot
    manifest: Hash
    product: Product
    version: Version
    phase: Literal["none", "trial", "committed", "reverted", "fallback"]
    attempt: Count
    sequence: Count
    """Highest assignment seen."""
    update: Update | None
    starts: Count
    cause: Cause
    power_losses: Count
    stopped: bool
    failed: Line
    """`ID:ATTEMPT:CAUSE` of the newest release that did not pass its trial, or empty."""
    inventory: Inventory
    metadata: Versions | msgspec.UnsetType = msgspec.UNSET
    """Older agents do not say it."""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a release left behind that ended by itself, redacted on the device."""

    slogan: Line
    """Of the crash dump, or empty."""
    status: Line
    """How the VM ended, or empty."""
    log: Annotated[tuple[Line, ...], msgspec.Meta(max_length=20)]
    """Its last lines."""


class Event(Message, frozen=True, kw_only=True):
    """`up/event`: something happened. Ordered and acknowledged like `State`."""

    boot: Count
    seq: Count
    time: Count
    kind: Literal["restart", "update", "enrolled", "error", "request", "hook"]
    cause: Word
    detail: Detail
    slot: Slot
    data: Annotated[dict[Name, Count | Line], msgspec.Meta(max_length=16)]
    evidence: Evidence | msgspec.UnsetType = msgspec.UNSET
    """Of a restart that nobody asked for."""


class Progress(Message, frozen=True, kw_only=True):
    """`up/progress`: how far an update is, in bytes; `total` 0 where it is not known yet."""

    manifest: Hash
    phase: UpdatePhase
    done: Count
    total: Count


class Beam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The running release, as beamfleet_link tells it: the owner's code talking about itself. Missing: as before."""

    uptime_ms: Count | msgspec.UnsetType = msgspec.UNSET
    memory: Annotated[dict[Name, Count], msgspec.Meta(max_length=16)] | msgspec.UnsetType = msgspec.UNSET
    """Bytes by kind, as the BEAM counts them."""
    processes: Pair | msgspec.UnsetType = msgspec.UNSET
    ports: Pair | msgspec.UnsetType = msgspec.UNSET
    atoms: Pair | msgspec.UnsetType = msgspec.UNSET
    ets: Pair | msgspec.UnsetType = msgspec.UNSET
    run_queue: Count | msgspec.UnsetType = msgspec.UNSET
    schedulers: Permille | msgspec.UnsetType = msgspec.UNSET
    """Of the time of all schedulers, what was used since the sample before."""
    restarts: Count | msgspec.UnsetType = msgspec.UNSET
    """Children that supervisors started again, since the VM started."""
    gc: Count | msgspec.UnsetType = msgspec.UNSET
    """Garbage collections since the VM started."""
    queues: Annotated[tuple[tuple[Short, Count], ...], msgspec.Meta(max_length=5)] | msgspec.UnsetType = msgspec.UNSET
    """The longest message queues: whose, and how long; the longest first."""
    said: tuple[Literal["ok", "degraded", "failing"], Line] | msgspec.UnsetType = msgspec.UNSET
    """What the release says of its own health, and why."""
    metrics: Annotated[dict[Name, Number], msgspec.Meta(max_length=16)] | msgspec.UnsetType = msgspec.UNSET
    otp: Word | msgspec.UnsetType = msgspec.UNSET


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The machine. Missing: as before, or not to be read there."""

    load: tuple[Count, Count, Count] | msgspec.UnsetType = msgspec.UNSET
    """Load averages over 1, 5 and 15 minutes, times 100."""
    memory: Pair | msgspec.UnsetType = msgspec.UNSET
    disk: Pair | msgspec.UnsetType = msgspec.UNSET
    """Bytes of the filesystem of the slots."""
    inodes: Pair | msgspec.UnsetType = msgspec.UNSET
    temperature: Temperature | msgspec.UnsetType = msgspec.UNSET
    wear: Annotated[int, msgspec.Meta(ge=0, le=200)] | msgspec.UnsetType = msgspec.UNSET
    """Percent of the flash's life that are used."""
    uptime_s: Count | msgspec.UnsetType = msgspec.UNSET
    network: Network | msgspec.UnsetType = msgspec.UNSET


class Health(Message, frozen=True, kw_only=True, omit_defaults=True):
    """`up/health`: a sample of the running release and of the device.

    A section or a field of one that is missing is as in the last report of this session; a list or an object inside a
    section is replaced as a whole. A `full` report begins anew: what is missing there is not known.
    """

    time: Count
    """Of the sample, by the device's clock."""
    verdict: Literal["healthy", "failing", "stopped", "unknown"]
    """The device's own: whether the release answers, its permanent applications run, its probes succeed."""
    detail: Line = ""
    starts: Count
    full: bool = False
    late_s: Count = 0
    """Seconds from the sample to the report, of samples that waited for a session: history, and nothing to merge."""
    dropped: Count = 0
    """Samples that were lost since the last report."""
    beam: Beam | msgspec.UnsetType | None = msgspec.UNSET
    """None: the release does not answer."""
    applications: Annotated[tuple[Short, ...], msgspec.Meta(max_length=256)] | msgspec.UnsetType = msgspec.UNSET
    """`NAME VERSION` of what runs."""
    probes: dict[ProbeKind, tuple[ProbeState, Line]] | msgspec.UnsetType = msgspec.UNSET
    host: Host | msgspec.UnsetType = msgspec.UNSET


class Logs(Message, frozen=True, kw_only=True):
    """`up/logs`: lines of the release's log, as an answer to the command `logs`; never kept."""

    id: CommandId
    """Of the command."""
    lines: Annotated[tuple[LogLine, ...], msgspec.Meta(max_length=50)]
    missed: Count
    """Lines that were left out since the message before: there were too many."""
    end: bool
    """Whether this is the last message."""


class Command(Message, frozen=True, kw_only=True, omit_defaults=True):
    """`down/command`: a wish, without authority over what runs."""

    id: CommandId
    name: Literal["refresh", "report", "diagnose", "logs"]
    lines: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """`logs`: so many of the newest."""
    follow_s: Annotated[int, msgspec.Meta(ge=0, le=600)] = 0
    """`logs`: and those that come within this time."""


class Ack(Message, frozen=True, kw_only=True):
    """`down/ack`: the newest state or event that is committed in the database; the device sends again until then."""

    boot: Count
    seq: Count


MAX_SIZES: Final = {
    "presence": 1_024,
    "state": 16_384,
    "event": 16_384,
    "progress": 1_024,
    "health": 32_768,
    "logs": 32_768,
    "command": 512,
    "ack": 256,
}
"""Largest message in bytes, by kind; the broker lets nothing above 65,536 pass."""

AnyMessage = Presence | State | Event | Progress | Health | Logs | Command | Ack

_DECODERS: Final[dict[str, msgspec.json.Decoder[AnyMessage]]] = {
    "presence": msgspec.json.Decoder(Presence),
    "state": msgspec.json.Decoder(State),
    "event": msgspec.json.Decoder(Event),
    "progress": msgspec.json.Decoder(Progress),
    "health": msgspec.json.Decoder(Health),
    "logs": msgspec.json.Decoder(Logs),
    "command": msgspec.json.Decoder(Command),
    "ack": msgspec.json.Decoder(Ack),
}
_ENCODER: Final = msgspec.json.Encoder()


def decode(kind: str, data: bytes) -> AnyMessage:
    """The message of `kind`, the last part of its topic, in `data`.

    Errors: `message.kind`, `message.too_large`, `message.syntax` (not JSON), `message.schema` (JSON that does not fit).
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise BundleError("message.kind", f"{kind[:80]!r} is no kind of message")
    if len(data) > MAX_SIZES[kind]:
        raise BundleError("message.too_large", f"message {kind} has {len(data)} bytes, the limit is {MAX_SIZES[kind]}")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise BundleError("message.schema", f"message {kind} does not fit: {_shown(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError("message.syntax", f"message {kind} is not JSON: {_shown(error)}") from None


def encode(message: AnyMessage) -> bytes:
    """`message` as it travels; for what the server sends and for tests."""
    return _ENCODER.encode(message)


def _shown(error: Exception) -> str:
    """What msgspec says, without its regular expressions, and without a character that the sender chose."""
    text, _, place = str(error).rpartition(" - at ")
    if "matching regex" in text:
        text = "Characters that have no place there"
    return ascii(f"{text[:200]} - at {place[:80]}" if text else place[:200])[1:-1]
