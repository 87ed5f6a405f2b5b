"""Owns what a rollout looks like as spans: from rows of the store and what devices measured themselves. Pure.

Devices' clocks may be wrong, and our record of them has whole seconds: phases are laid back to back before the moment
when we heard of the end, each as long as the device says that it took."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from beamfleet_server.fleet.states import Progress, State
from beamfleet_server.refusals import shown
from beamfleet_server.store.parts import Part, Whole
from beamfleet_server.tracing.ids import TraceIds

PHASES = ("downloading", "verified", "staged", "swapping", "trial")
"""Of a device, in their order; `PHASE_ms` in the event of its end."""
LONGEST_MS = 30 * 86_400_000
"""No phase is believed to take longer: an assignment lives that long."""
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has ended. `parent` is empty for a rollout; `error`: what went wrong, or empty."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int]
    error: str = ""


def of_rollout(ids: TraceIds, whole: Whole) -> Span:
    """The span of a rollout that has ended."""
    attributes = {
        "beamfleet.rollout": whole.id,
        "beamfleet.product": whole.product,
        "beamfleet.version": whole.version,
        "beamfleet.state": whole.state,
        "beamfleet.reason": shown(whole.reason),
        **{f"beamfleet.devices.{state}": number for state, number in sorted(whole.members.items())},
    }
    name = f"rollout {whole.product} {whole.version}"
    error = "" if whole.state == Progress.COMPLETED else whole.state
    end = max(whole.finished, whole.created)
    root = (ids.trace(whole.id), ids.root(whole.id), "")
    return Span(name, *root, whole.created * SECOND, end * SECOND, attributes, error)


def of_silent(ids: TraceIds, part: Part) -> Span:
    """The span of a device that never told how its update ended."""
    ours = (ids.trace(part.rollout), ids.device(part.rollout, part.device, part.attempt), ids.root(part.rollout))
    start, end = part.offered_at, max(part.offered_at, part.updated)
    facts = _facts(part, part.attempt, part.state, part.reason)
    return Span(f"device {part.device}", *ours, start * SECOND, end * SECOND, facts, part.reason)


def of_device(ids: TraceIds, part: Part, time: int, phase: str, cause: str, said: Mapping[str, Any]) -> Iterator[Span]:
    """The span of a device that tells its update's end (`phase`, `cause`) at `time`, Unix seconds, and those of its
    phases; `said` is the event's data. Nothing if it speaks of another trace than its own."""
    attempt = said.get("attempt")
    if not isinstance(attempt, int):
        return
    trace, own = ids.trace(part.rollout), ids.device(part.rollout, part.device, attempt)
    if (said.get("trace_id"), said.get("span_id")) != (trace, own):
        return
    laps = [(name, said[key]) for name in PHASES if isinstance(said.get(key := f"{name}_ms"), int)]
    laps = [(name, min(taken, LONGEST_MS) * 1_000_000) for name, taken in laps]
    end = time * SECOND
    begin = end - sum(taken for _, taken in laps)
    start = min(begin, part.offered_at * SECOND) if part.attempt == attempt else begin
    error = "" if phase == State.COMMITTED else shown(cause or phase)
    facts = _facts(part, attempt, phase, cause)
    yield Span(f"device {part.device}", trace, own, ids.root(part.rollout), start, end, facts, str(error))
    for name, taken in laps:
        span = ids.phase(part.rollout, part.device, attempt, name)
        yield Span(name, trace, span, own, begin, begin + taken, {"beamfleet.device": part.device})
        begin += taken


def _facts(part: Part, attempt: int, state: str, reason: str) -> dict[str, str | int]:
    return {
        "beamfleet.rollout": part.rollout,
        "beamfleet.device": part.device,
        "beamfleet.product": part.product,
        "beamfleet.version": part.version,
        "beamfleet.attempt": attempt,
        "beamfleet.state": shown(state),
        "beamfleet.reason": shown(reason),
    }
