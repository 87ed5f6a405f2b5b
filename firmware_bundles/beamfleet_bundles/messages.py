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
"""A key of `data` and `memory`."""
Slot = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
Hash = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
Product = Annotated[str, msgspec.Meta(pattern=r"\A([a-z][a-z0-9-]{0,30})?\Z")]
Version = Annotated[str, msgspec.Meta(pattern=r"\A([0-9A-Za-z][0-9A-Za-z.+-]{0,63})?\Z")]
Cause = Literal[
    "", "update", "rollback", "revert", "fallback", "operator", "crash", "hang", "oom", "power", "exit", "killed",
    "probe", "deadline", "unconfirmed", "hook", "uncounted",
]  # fmt: skip
"""Why a release runs or stopped running, in the words of `boot/state`."""
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
    profile: Short


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


class Progress(Message, frozen=True, kw_only=True):
    """`up/progress`: how far an update is, in bytes; `total` 0 where it is not known yet."""

    manifest: Hash
    phase: UpdatePhase
    done: Count
    total: Count


class Health(Message, frozen=True, kw_only=True):
    """`up/health`: a sample of the running release and of the device."""

    time: Count
    verdict: Word
    uptime_ms: Count
    memory: Annotated[dict[Name, Count], msgspec.Meta(max_length=16)]
    """Bytes by kind, as the BEAM counts them."""
    processes: Count
    ports: Count
    run_queue: Count
    applications: Annotated[tuple[Short, ...], msgspec.Meta(max_length=256)]
    load: Annotated[tuple[Count, ...], msgspec.Meta(max_length=3)]
    """Load averages over 1, 5 and 15 minutes, times 100."""
    memory_free: Count
    disk_free: Count
    starts: Count


class Command(Message, frozen=True, kw_only=True):
    """`down/command`: a wish, without authority over what runs."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[0-9A-Za-z-]*\Z")]
    name: Literal["refresh", "report", "diagnose"]


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
    "command": 512,
    "ack": 256,
}
"""Largest message in bytes, by kind; the broker lets nothing above 65,536 pass."""

AnyMessage = Presence | State | Event | Progress | Health | Command | Ack

_DECODERS: Final[dict[str, msgspec.json.Decoder[AnyMessage]]] = {
    "presence": msgspec.json.Decoder(Presence),
    "state": msgspec.json.Decoder(State),
    "event": msgspec.json.Decoder(Event),
    "progress": msgspec.json.Decoder(Progress),
    "health": msgspec.json.Decoder(Health),
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
    """`message` as it travels, every field written; for what the server sends and for tests."""
    return _ENCODER.encode(message)


def _shown(error: Exception) -> str:
    """What msgspec says, without its regular expressions, and without a character that the sender chose."""
    text, _, place = str(error).rpartition(" - at ")
    if "matching regex" in text:
        text = "Characters that have no place there"
    return ascii(f"{text[:200]} - at {place[:80]}" if text else place[:200])[1:-1]
