"""Owns what an answer of beamfleet_link means: a section of the health report, and what is wrong with the release.

The release speaks through beamfleet_link. It is another user, and what it says is its owner's code talking about
itself: nothing is believed before it fits, texts are cleaned and cut, and what does not fit is left out.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from beamfleet_agent.reports import clean, word
from beamfleet_agent.update_state import Release

PROBES = ("startup", "readiness", "liveness")
MAX_APPLICATIONS, MAX_QUEUES, MAX_ENTRIES = 256, 5, 16
_LIMIT = 2**63
_HUGE = 1e300
_NAME = frozenset("0123456789abcdefghijklmnopqrstuvwxyz_")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Sample(NamedTuple):
    """One answer of beamfleet_link. `boot` is the VM start it belongs to; `applications` are the names of what runs."""

    boot: int
    applications: tuple[str, ...]
    running: tuple[str, ...] = ()
    """`NAME VERSION` of the applications, as a report has them."""
    beam: Mapping[str, Any] = _NOTHING
    """The section of a report."""
    probes: Mapping[str, tuple[str, str]] = _NOTHING
    """What came of the probes that beamfleet_link runs: (status, why) by kind."""
    confirm: bool = False
    """Whether the release has confirmed itself in this VM."""


def read_sample(line: bytes) -> Sample | None:
    """The sample in a line of beamfleet_link, or None if it is none."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("v") != 2:
        return None
    boot, applications = _count(said.get("boot")), _applications(said.get("applications"))
    if boot is None or applications is None:
        return None
    beam = {name: found for name, read in _FIELDS.items() if (found := read(said.get(name))) is not None}
    return Sample(
        boot=boot,
        applications=tuple(name for name, _ in applications),
        running=tuple(sorted(f"{word(name)} {word(version)}"[:64] for name, version in applications)),
        beam={"queues": [], **beam},
        probes=_probed(said.get("probes")),
        confirm=said.get("confirm") is True,
    )


def finding(sample: Sample | None, starts: int, release: Release | None) -> str:
    """What is wrong with VM start `starts`; empty when all is well."""
    if sample is None:
        return "the release does not answer"
    if sample.boot != starts:
        return f"start {sample.boot} answers, {starts} is wanted"
    missing = [name for name in release.permanent if name not in sample.applications] if release else []
    return f"not running: {', '.join(missing[:8])}" if missing else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _LIMIT else None


def _pair(value: Any) -> list[int] | None:
    """Used and limit."""
    return value if _is_list(value, 2) and None not in map(_count, value) else None


def _permille(value: Any) -> int | None:
    """Of [schedulers, per mille of their time]."""
    return value[1] if _pair(value) and value[1] <= 1000 else None


def _text(value: Any) -> str | None:
    return word(value) if isinstance(value, str) else None


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _applications(value: Any) -> list[tuple[str, str]] | None:
    if not isinstance(value, list) or len(value) > MAX_APPLICATIONS:
        return None
    found = [(each[0], each[1]) for each in value if _is_list(each, 2) and all(isinstance(part, str) for part in each)]
    return found if len(found) == len(value) else None


def _memory(value: Any) -> dict[str, int] | None:
    if not isinstance(value, dict):
        return None
    sizes = {key: size for key, size in value.items() if _is_name(key) and _count(size) is not None}
    return dict(list(sizes.items())[:MAX_ENTRIES])


def _metrics(value: Any) -> dict[str, float] | None:
    """Numbers by name, fractions with nine digits: what a metric is worth on the wire."""
    if not isinstance(value, dict):
        return None
    kept = dict[str, float]()
    for key, number in value.items():
        if _is_name(key) and type(number) is int and -_LIMIT <= number < _LIMIT:
            kept[key] = number
        elif _is_name(key) and type(number) is float and -_HUGE < number < _HUGE:
            kept[key] = float(f"{number:.9g}")
    return dict(list(kept.items())[:MAX_ENTRIES]) or None


def _queues(value: Any) -> list[list[Any]] | None:
    if not isinstance(value, list):
        return None
    fit = [each for each in value if _is_list(each, 2) and isinstance(each[0], str) and _count(each[1]) is not None]
    return [[clean(name, 64), length] for name, length in fit[:MAX_QUEUES]]


def _said(value: Any) -> list[str] | None:
    if not _is_list(value, 2) or value[0] not in ("ok", "degraded", "failing") or not isinstance(value[1], str):
        return None
    return [value[0], clean(value[1], 256)]


def _probed(value: Any) -> dict[str, tuple[str, str]]:
    found = {kind: value.get(kind) for kind in PROBES} if isinstance(value, dict) else {}
    return {
        kind: (word(each[0]), clean(each[1], 256))
        for kind, each in found.items()
        if isinstance(each, list) and len(each) == 2 and all(isinstance(part, str) for part in each)
    }


def _is_name(key: str) -> bool:
    return 0 < len(key) <= 32 and "a" <= key[0] <= "z" and _NAME.issuperset(key)


_FIELDS: Mapping[str, Callable[[Any], Any]] = MappingProxyType({
    "uptime_ms": _count, "memory": _memory, "processes": _pair, "ports": _pair, "atoms": _pair, "ets": _pair,
    "run_queue": _count, "schedulers": _permille, "restarts": _count, "gc": _count, "queues": _queues, "said": _said,
    "metrics": _metrics, "otp": _text,
})  # fmt: skip
