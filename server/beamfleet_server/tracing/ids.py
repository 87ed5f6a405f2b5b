"""Owns the ids of traces and spans: always the same for the same rollout, device and attempt, so that nothing has to
be kept, and a server that was killed goes on with them. Pure."""

from dataclasses import dataclass
from hashlib import sha256

TRACE_DIGITS, SPAN_DIGITS = 32, 16


@dataclass(frozen=True, slots=True)
class TraceIds:
    """The ids of one server; `fleet` is what tells it apart from others, such as the id of its director's key."""

    fleet: str

    def trace(self, rollout: int) -> str:
        """The trace of a rollout, 32 hex digits."""
        return self._hash("trace", rollout)[:TRACE_DIGITS]

    def root(self, rollout: int) -> str:
        """The span of the rollout itself, 16 hex digits."""
        return self._hash("rollout", rollout)[:SPAN_DIGITS]

    def device(self, rollout: int, device: str, attempt: int) -> str:
        """The span of one attempt of a device."""
        return self._hash("device", rollout, device, attempt)[:SPAN_DIGITS]

    def phase(self, rollout: int, device: str, attempt: int, phase: str) -> str:
        """The span of one phase of it."""
        return self._hash("phase", rollout, device, attempt, phase)[:SPAN_DIGITS]

    def parent(self, rollout: int, device: str, attempt: int) -> str:
        """What the device's assignment carries: W3C `traceparent`, sampled."""
        return f"00-{self.trace(rollout)}-{self.device(rollout, device, attempt)}-01"

    def _hash(self, *parts: object) -> str:
        return sha256("\0".join(map(str, (self.fleet, *parts))).encode()).hexdigest()
