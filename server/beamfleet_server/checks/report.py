"""Owns the report that is checked: the merged sections of a device as plain values, None for what is not known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LARGEST = 10**15
"""What a headline is cut at: sums of them are kept in 64 bits."""

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Report:
    """What a device has said. `answers`: whether the release does; pairs are (used, limit) of the release and (free,
    total) of the machine; `restarts_per_min`: of supervised children, since the report before; `falls`: how often the
    release ended unasked within the last hour; `clock_offset_s`: how far the device's clock is ahead."""

    verdict: str = "healthy"
    detail: str = ""
    answers: bool = True
    memory: Mapping[str, int] = field(default_factory=dict)
    processes: Pair | None = None
    ports: Pair | None = None
    atoms: Pair | None = None
    ets: Pair | None = None
    run_queue: int | None = None
    schedulers: int | None = None
    restarts: int | None = None
    restarts_per_min: int | None = None
    uptime_ms: int | None = None
    queues: Sequence[tuple[str, int]] | None = None
    said: tuple[str, str] | None = None
    probes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    load: int | None = None
    host_memory: Pair | None = None
    disk: Pair | None = None
    inodes: Pair | None = None
    temperature: int | None = None
    wear: int | None = None
    clock_offset_s: int | None = None
    falls: int = 0

    @property
    def longest_queue(self) -> tuple[str, int] | None:
        """Whose queue is the longest, and how long it is."""
        return max(self.queues or (), key=lambda queue: queue[1], default=None)

    def headlines(self) -> dict[str, int | None]:
        """The numbers that lists show and histories keep, by the names of their columns."""
        queue = self.longest_queue
        found: dict[str, int | None] = {
            "memory": self.memory.get("total"),
            "processes": self.processes[0] if self.processes else None,
            "run_queue": self.run_queue,
            "schedulers": self.schedulers,
            "queue": queue[1] if queue else None if self.queues is None else 0,
            "atoms_permille": used(self.atoms),
            "load": self.load,
            "host_memory_permille": spent(self.host_memory),
            "disk_permille": spent(self.disk),
            "temperature": self.temperature,
            "restarts": self.restarts,
        }
        return {name: None if value is None else max(-LARGEST, min(value, LARGEST)) for name, value in found.items()}


def read(sections: Mapping[str, Any], **told: Any) -> Report:
    """The report of merged sections; `told`: fields that are in none of them."""
    said = sections.get("beam")
    beam = said or {}
    host = sections.get("host") or {}
    load = host.get("load")
    return Report(
        answers=said is not None,
        memory=beam.get("memory") or {},
        processes=_pair(beam.get("processes")),
        ports=_pair(beam.get("ports")),
        atoms=_pair(beam.get("atoms")),
        ets=_pair(beam.get("ets")),
        run_queue=beam.get("run_queue"),
        schedulers=beam.get("schedulers"),
        restarts=beam.get("restarts"),
        uptime_ms=beam.get("uptime_ms"),
        queues=beam.get("queues"),
        said=_words(beam.get("said")),
        probes={kind: (state, detail) for kind, (state, detail) in (sections.get("probes") or {}).items()},
        load=load[0] if load else None,
        host_memory=_pair(host.get("memory")),
        disk=_pair(host.get("disk")),
        inodes=_pair(host.get("inodes")),
        temperature=host.get("temperature"),
        wear=host.get("wear"),
        **told,
    )


def used(pair: Pair | None) -> int | None:
    """Permille of a limit that are used, at most all of it; None without a limit."""
    if pair is None or pair[1] <= 0:
        return None
    return min(1000, pair[0] * 1000 // pair[1])


def left(pair: Pair | None) -> int | None:
    """Permille of a whole that are free, at most all of it; None without a whole."""
    return used(pair)


def spent(pair: Pair | None) -> int | None:
    """Permille of a whole that are not free."""
    free = left(pair)
    return None if free is None else 1000 - free


def _pair(value: Any) -> Pair | None:
    return (value[0], value[1]) if value else None


def _words(value: Any) -> tuple[str, str] | None:
    return (value[0], value[1]) if value else None
