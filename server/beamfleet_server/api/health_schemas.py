"""Owns the shapes of devices' health: verdicts with their reasons, the numbers of a list, a history. Times are RFC 3339
in UTC."""

from typing import Any, Literal

from pydantic import BaseModel

Verdict = Literal["failing", "degraded", "unknown", "offline", "healthy"]
Pair = tuple[int, int]
"""(average, largest)."""


class Standing(BaseModel):
    """A device's verdict of this moment; `time`: when its newest report came."""

    verdict: Verdict
    time: str | None


class Reason(BaseModel):
    """What a check has found: `level` is `degraded` or `failing`, or the verdict itself of a device that is silent."""

    check: str
    level: Literal["degraded", "failing", "offline", "unknown"]
    detail: str


class HealthDetails(Standing):
    """With the reasons and all that the device said: `sections` are those of PROTOCOL.md, merged. `clock_offset_s`: how
    far its clock is ahead; `dropped`: samples that were lost while it had no session."""

    reasons: list[Reason]
    starts: int
    clock_offset_s: int
    dropped: int
    sections: dict[str, Any]


class BeamNumbers(BaseModel):
    """The running release: bytes, counts, permille; `queue` is the longest one, of `queue_name`."""

    memory: int | None
    processes: int | None
    run_queue: int | None
    schedulers: int | None
    queue: int | None
    queue_name: str
    atoms_permille: int | None
    restarts: int | None
    uptime_ms: int | None


class HostNumbers(BaseModel):
    """The machine: load over a minute times 100, permille used, thousandths of a degree."""

    load: int | None
    memory_permille: int | None
    disk_permille: int | None
    temperature: int | None


class DeviceHealth(BaseModel):
    """A device in the list of health; `beam` and `host` are null where it has said nothing of them."""

    id: str
    labels: dict[str, str]
    verdict: Verdict
    reasons: list[Reason]
    time: str | None
    online: bool
    last_seen: str | None
    product: str
    version: str
    profile: str
    starts: int
    beam: BeamNumbers | None
    host: HostNumbers | None


class Counts(BaseModel):
    """Devices by verdict."""

    failing: int
    degraded: int
    unknown: int
    offline: int
    healthy: int


class HealthList(BaseModel):
    """Devices by health; `counts` are of all that the selector means, whatever their verdict."""

    items: list[DeviceHealth]
    next: str | None
    counts: Counts


class Sample(BaseModel):
    """A bucket that begins at `time`: `n` reports, of each number (average, largest), null where there is none."""

    time: str
    n: int
    memory: Pair | None
    processes: Pair | None
    run_queue: Pair | None
    schedulers: Pair | None
    queue: Pair | None
    atoms_permille: Pair | None
    load: Pair | None
    host_memory_permille: Pair | None
    disk_permille: Pair | None
    temperature: Pair | None
    restarts: Pair | None


class Samples(BaseModel):
    """The history of a device, oldest first."""

    resolution_s: int
    items: list[Sample]
