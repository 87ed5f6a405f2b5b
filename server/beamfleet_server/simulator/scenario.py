"""Owns the scenario: what a simulated fleet is made of and how it behaves, as people write it. Closed schema, pure.

Shares are `5%` or a number from 0 to 1; times are `90s`, `15m`, `1h` or seconds, and where a range makes sense two of
them, between which each device and update draws. SIMULATOR.md has it all as tables.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
import yaml
from beamfleet_bundles import messages
from beamfleet_bundles.names import check_label, check_product, check_version

from beamfleet_server.simulator.errors import SimulatorError

MAX_BYTES = 1 << 20
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|[smhd]?)")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")
_DOCUMENTED = "see SIMULATOR.md"

Cause = Literal["crash", "hang", "oom", "exit", "probe", "deadline", "unconfirmed", "uncounted", "hook", "power"]


class Share(float):
    """A part of the fleet, 0 to 1."""


class Span:
    """Seconds, from `low` to `high`."""

    __slots__ = ("high", "low")

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def at(self, draw: float) -> float:
        """The point that a draw from 0 to 1 means."""
        return self.low + (self.high - self.low) * draw


class _Closed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What knows no other fields than its own."""


class Target(_Closed, frozen=True, kw_only=True):
    """What a part of the fleet is; `weight` against those of the others."""

    arch: str = "x86_64"
    libc: str = "glibc"
    libc_version: str = "2.36"
    hardware: str = ""
    weight: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0


class Times(_Closed, frozen=True, kw_only=True):
    """How long each part of an update takes."""

    download: Span = Span(2, 10)
    verify: Span = Span(0.2, 1)
    stage: Span = Span(0.2, 1)
    swap: Span = Span(0.5, 2)
    trial: Span = Span(10, 15)


class Rhythm(_Closed, frozen=True, kw_only=True):
    """There for `up`, away for `down`, and again."""

    up: Span
    down: Span


class Revert(_Closed, frozen=True, kw_only=True):
    """The trial ends after so long."""

    after: Span = Span(1, 5)
    cause: Cause = "crash"


class Fall(_Closed, frozen=True, kw_only=True):
    """The committed release falls back after so long."""

    after: Span
    cause: Cause = "crash"


class Stick(_Closed, frozen=True, kw_only=True):
    """Somebody comes with a stick so long after the commit, and installs `PRODUCT VERSION`."""

    after: Span
    installs: Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,30} [0-9A-Za-z][0-9A-Za-z.+-]{0,63}\Z")]


class Failure(_Closed, frozen=True, kw_only=True):
    """The update fails before the swap, with this code."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[0-9A-Za-z._:+-]*\Z")]
    at: Literal["downloading", "verified", "staged"] = "downloading"


class Behaviour(_Closed, frozen=True, kw_only=True):
    """What a share of the devices does; exactly one of `KINDS`.

    versions, attempts: only in updates to these, and in the first so many attempts (0: in all). each: whether a device
    is drawn once for ever, or for each (manifest, attempt) anew; behaviour on the network is drawn once in any case.
    """

    share: Share = Share(1)
    versions: tuple[str, ...] = ()
    attempts: Annotated[int, msgspec.Meta(ge=0)] = 0
    each: Literal["device", "update"] = "device"
    offline: Literal["always", "once"] | Rhythm | None = None
    flaps: Rhythm | None = None
    clone: bool = False
    late: Span | None = None
    slow: Span | None = None
    reverts: Revert | None = None
    falls: Fall | None = None
    stick: Stick | None = None
    fails: Failure | None = None
    stuck: Literal["downloading", "verified", "staged", "swapping"] | None = None
    lies: Literal["committed", "order", "replay"] | None = None
    ails: Literal["degraded", "failing"] | None = None

    def __post_init__(self) -> None:
        if len(self.kinds) != 1:
            raise ValueError(f"a behaviour is exactly one of {', '.join(KINDS)}; this one is {len(self.kinds)} of them")

    @property
    def kinds(self) -> list[str]:
        """Which of `KINDS` it is."""
        return [kind for kind in KINDS if getattr(self, kind)]


KINDS = ("offline", "flaps", "clone", "late", "slow", "reverts", "falls", "stick", "fails", "stuck", "lies", "ails")


class Scenario(_Closed, frozen=True, kw_only=True):
    """A fleet. runs: `PRODUCT VERSION` that a new device runs, or empty. networks: by weight; cellular is metered."""

    seed: Annotated[int, msgspec.Meta(ge=0)] = 1
    runs: str = ""
    labels: dict[str, str | tuple[str, ...]] = {}
    targets: Annotated[tuple[Target, ...], msgspec.Meta(min_length=1)] = (Target(),)
    timezones: Annotated[tuple[messages.Zone, ...], msgspec.Meta(min_length=1)] = ("",)
    networks: Annotated[dict[messages.Network, float], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: {"wired": 1.0}
    )
    times: Times = Times()
    health: Span | None = None
    """Between samples of health; 0 sends none; None is the profile's."""
    behaviours: tuple[Behaviour, ...] = ()

    @property
    def release(self) -> tuple[str, str]:
        """(product, version) that a new device runs, or two empty texts."""
        product, _, version = self.runs.partition(" ")
        return product, version


def parse(document: object) -> Scenario:
    """The scenario in decoded YAML; errors `scenario.schema`, `name.*`."""
    try:
        scenario = msgspec.convert({} if document is None else document, Scenario, dec_hook=_special)
    except msgspec.ValidationError as error:
        raise _unfit(str(error)) from None
    if scenario.runs:
        product, version = scenario.release
        check_product(product)
        check_version(version)
    for key, value in scenario.labels.items():
        if not value:
            raise _unfit(f"the label {key} has no value")
        for each in (value,) if isinstance(value, str) else value:
            check_label(key, each)
    if min(scenario.networks.values()) < 0 or not any(scenario.networks.values()):
        raise _unfit("the weights of the networks are not above zero")
    return scenario


def read(text: bytes) -> Scenario:
    """The scenario in a YAML file; errors `scenario.syntax` and those of `parse`."""
    if len(text) > MAX_BYTES:
        raise SimulatorError("scenario.syntax", f"a scenario of {len(text)} bytes is larger than {MAX_BYTES}")
    try:
        return parse(yaml.safe_load(text))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = " ".join(str(error).split())[:200]
        raise SimulatorError("scenario.syntax", f"the scenario is not YAML: {where}", _DOCUMENTED) from None


def _unfit(what: str) -> SimulatorError:
    return SimulatorError("scenario.schema", f"the scenario does not fit: {what[:300]}", _DOCUMENTED)


def _special(kind: type, value: Any) -> Any:
    if kind is Share:
        return _share(value)
    if kind is Span:
        ends = [_seconds(end) for end in value] if isinstance(value, list) else [_seconds(value)] * 2
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError("a range has two times, the shorter one first")
        return Span(*ends)
    raise NotImplementedError(kind)


def _share(value: Any) -> Share:
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    share = float(match[1]) / 100 if match else value
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError("a share is 0% to 100%, or a number from 0 to 1")
    return Share(share)


def _seconds(value: Any) -> float:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    seconds = float(match[1]) * _UNITS[match[2]] if match else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ValueError("a time is a number and a unit: 500ms, 90s, 15m, 1h, 7d")
    return float(seconds)
