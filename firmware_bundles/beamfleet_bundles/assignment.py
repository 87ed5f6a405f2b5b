"""Owns the assignment: which already signed manifest one device is to run, or none. Signed by the director role.

A TUF `Targets` document with at most one target, `PRODUCT/VERSION/TARGET/manifest`; its version is the sequence. Who it
is for stands in the signed object `beamfleet`. An assignment can only choose: `check_match` holds it against what the
product role signed, `check_fit` and `check_floor` against the device. The order of the device's checks:

    verify (size, type, director's keys, shape, device, app, sequence, time, nonce)
    -> check_match (same bytes as the image metadata) -> check_fit -> check_floor -> quarantine (the agent's)
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, TargetFile, Targets

from beamfleet_bundles import chain
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.names import check_app, check_device, parse_target_path

MAX_SIZE = 8_192
"""Largest assignment in bytes; a usual one has about 900."""
MAX_SEQUENCE = 2**53 - 1
LIFETIME = timedelta(days=30)

_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
_Nonce = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32,64}\Z")]
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Traceparent = Annotated[str, msgspec.Meta(pattern=r"\A00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01\Z")]
"""W3C Trace Context, version 00, sampled."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one application of one device is to run; `path` None is a hold: keep what runs, drop what is not swapped."""

    device: str
    app: str
    sequence: int
    """Order among this device's assignments; see `repository.next_version`."""
    attempt: int
    """From 1; changes only when the same manifest is to be tried again."""
    time: int
    """When it was signed, in Unix seconds."""
    nonce: str | None = None
    """32 to 64 lower-case hex digits of the device that asked for it, None in one that was pushed."""
    path: str | None = None
    length: int = 0
    sha256: str = ""
    force: bool = False
    """Hooks may not put it off, and it may state a lower data_schema than what runs. An agent that does not say the
    `network` in its inventory takes an assignment with it for malformed: give it one without."""
    traceparent: str = ""
    """The span of a trace that this is part of; empty where nobody traces. An agent that does not say `keepalive_s` at
    its birth takes an assignment with it for malformed."""


class _For(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The object `beamfleet` in the signed part, a closed schema."""

    v: Literal[1] = 1
    device: str
    app: str
    attempt: _Positive
    time: _Positive
    nonce: _Nonce | None = None
    force: bool = False
    traceparent: _Traceparent | None = None


class _Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The one target, a closed schema."""

    length: _Positive
    sha256: _Hash


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device is, as far as a release can ask for it; `libc_version` and `agent` fit where they are not known."""

    arch: str
    libc: str
    libc_version: str | None = None
    hardware: str | None = None
    """The owner's name of the board; None for a device without one, which runs only what any board runs."""
    agent: int | None = None
    """The newest generation of manifests that its agent runs (`manifest.MIN_AGENT_PROBES`)."""
    oldest_otp: int = 25
    """The oldest OTP on which the agent's part inside the BEAM loads."""


def sign(assignment: Assignment, signer: Signer, expires: datetime) -> bytes:
    """The signed bytes of `assignment`; errors `assignment.malformed`, `name.*` for what no device would accept."""
    described = {
        "v": 1,
        "device": assignment.device,
        "app": assignment.app,
        "attempt": assignment.attempt,
        "time": assignment.time,
        "nonce": assignment.nonce,
        **({"force": True} if assignment.force else {}),
        **({"traceparent": assignment.traceparent} if assignment.traceparent else {}),
    }
    targets = {}
    if assignment.path is not None:
        hashes = {"sha256": assignment.sha256}
        targets[assignment.path] = TargetFile(assignment.length, hashes, assignment.path)
    signed = Targets(
        assignment.sequence, expires=expires, targets=targets, unrecognized_fields={"beamfleet": described}
    )
    if _read(signed) != assignment:
        raise BundleError("assignment.malformed", "an assignment does not read back as it was meant")
    document = Metadata(signed)
    with chain.translated("signing an assignment"):
        document.sign(signer)
        return document.to_bytes()


def verify(
    data: bytes, targets: Targets, *, device: str, app: str, last: int, now: datetime, nonce: str | None = None
) -> Assignment:
    """The assignment in `data`, if it is for this device and not older than what it knows.

    targets: the verified top targets metadata, which names the director's keys. last: the highest sequence accepted so
    far; it may come again. now: see `trust.reference_time`. nonce: the one asked for, for a pulled assignment only.
    Errors: `assignment.too_large|malformed|signature|wrong_device|wrong_app|replayed|expired|nonce`.
    """
    signed = _verified(data, targets)
    assignment = _read(signed)
    if assignment.device != device:
        raise BundleError("assignment.wrong_device", f"the assignment is for {assignment.device}, not for {device}")
    if assignment.app != app:
        raise BundleError("assignment.wrong_app", f"the assignment is for {assignment.app}, not for {app}")
    if assignment.sequence < last:
        raise BundleError(
            "assignment.replayed", f"assignment {assignment.sequence} is older than {last}, which was accepted before"
        )
    if signed.is_expired(now):
        raise BundleError(
            "assignment.expired",
            f"assignment {assignment.sequence} expired at {signed.expires:%Y-%m-%dT%H:%M:%SZ}",
            "ask the server for a fresh one",
        )
    if nonce is not None and assignment.nonce != nonce:
        raise BundleError("assignment.nonce", "the assignment does not answer what was asked", "ask the server again")
    return assignment


def director_keys(targets: Targets) -> list[str]:
    """Ids of the keys that `targets` lets sign assignments, in their order."""
    roles = (targets.delegations and targets.delegations.roles) or {}
    return sorted(roles[chain.DIRECTOR].keyids) if chain.DIRECTOR in roles else []


def check_match(assignment: Assignment, facts: Facts) -> None:
    """The director may only choose what the product role signed: same path, length, hash; `assignment.mismatch`."""
    if (assignment.path, assignment.length, assignment.sha256) != (facts.path, facts.length, facts.sha256):
        raise BundleError(
            "assignment.mismatch", f"the assigned {assignment.path} is not the {facts.path} that its product signs"
        )


def check_fit(facts: Facts, device: DeviceFacts, missing: tuple[str, ...] = ()) -> None:
    """The release can run on the device. missing: those of `facts.custom.libraries` that the device does not have.

    Errors: `assignment.wrong_target|wrong_hardware|old_libc|old_otp|old_agent|missing_library`.
    """
    needs, has = facts.custom, device
    if (needs.arch, needs.libc) != (has.arch, has.libc):
        raise _misfit(
            "assignment.wrong_target", facts, f"is for {needs.arch}-{needs.libc}", f"is {has.arch}-{has.libc}"
        )
    if needs.hardware is not None and needs.hardware != has.hardware:
        raise _misfit(
            "assignment.wrong_hardware", facts, f"is for {needs.hardware}", f"is {has.hardware or 'no named board'}"
        )
    if needs.libc_version and has.libc_version and _numbers(has.libc_version) < _numbers(needs.libc_version):
        raise _misfit(
            "assignment.old_libc", facts, f"needs {needs.libc} {needs.libc_version}", f"has {has.libc_version}"
        )
    if needs.otp < has.oldest_otp:
        raise _misfit("assignment.old_otp", facts, f"is OTP {needs.otp}", f"supervises OTP {has.oldest_otp} and newer")
    if has.agent is not None and has.agent < needs.min_agent:
        raise _misfit(
            "assignment.old_agent", facts, f"needs an agent of generation {needs.min_agent}", f"has {has.agent}"
        )
    if missing:
        raise _misfit("assignment.missing_library", facts, f"needs {', '.join(missing[:8])}", "lacks that")


def check_floor(facts: Facts, floor: int) -> None:
    """The release is not below the highest floor that this device has committed; error `assignment.below_floor`."""
    if facts.custom.counter < floor:
        raise BundleError(
            "assignment.below_floor",
            f"{facts.path} has the counter {facts.custom.counter}; this device takes {floor} and above",
            "an older release that was withdrawn is not installed again",
        )


def _verified(data: bytes, targets: Targets) -> Targets:
    if len(data) > MAX_SIZE:
        raise BundleError("assignment.too_large", f"an assignment of {len(data)} bytes is larger than {MAX_SIZE}")
    try:
        document = chain.parse_targets(data, chain.DIRECTOR)
    except BundleError as error:
        raise BundleError("assignment.malformed", error.message) from error
    try:
        with chain.translated("assignment"):
            targets.verify_delegate(chain.DIRECTOR, document.signed_bytes, document.signatures)
    except BundleError as error:
        raise BundleError("assignment.signature", error.message, "refresh: the director's key may be new") from error
    return document.signed


def _read(signed: Targets) -> Assignment:
    """The content of an assignment, every part of it known; errors `assignment.malformed`, `name.*`."""
    known = set(signed.unrecognized_fields) == {"beamfleet"} and signed.delegations is None and len(signed.targets) <= 1
    if not known or type(signed.version) is not int or signed.version > MAX_SEQUENCE:
        raise BundleError("assignment.malformed", "the document is not an assignment")
    try:
        said = msgspec.convert(signed.unrecognized_fields["beamfleet"], _For, strict=True)
        path = chosen = None
        for path, target in signed.targets.items():
            chosen = msgspec.convert({"length": target.length, **target.hashes, **target.unrecognized_fields}, _Chosen)
            parse_target_path(path)
    except msgspec.ValidationError as error:
        raise BundleError("assignment.malformed", f"the assignment is not understood: {error}") from None
    return Assignment(
        device=check_device(said.device),
        app=check_app(said.app),
        sequence=signed.version,
        attempt=said.attempt,
        time=said.time,
        nonce=said.nonce,
        path=path,
        length=chosen.length if chosen else 0,
        sha256=chosen.sha256 if chosen else "",
        force=said.force,
        traceparent=said.traceparent or "",
    )


def _numbers(version: str) -> tuple[int, ...]:
    """`2.36` as (2, 36); what is not a number ends it, as in a distribution's `2.36-9`."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _misfit(code: str, facts: Facts, needs: str, has: str) -> BundleError:
    hint = "build and publish a bundle that fits, or change the device"
    return BundleError(code, f"{facts.path} {needs}; this device {has}", hint)
