"""Owns what a sample of the running release means: figures for the server, the verdict of a trial. Reads only /proc.

The release speaks through beamfleet_link; what it says is the owner's code talking about itself. A trial is passed when
for the whole period, without a gap, the VM that boot/state names answered, all permanent applications ran, and the
probes of the release succeeded.
"""

import json
import os
from typing import Any, NamedTuple

from beamfleet_agent.update_state import Release


class Sample(NamedTuple):
    """One answer of beamfleet_link. `boot` is the VM start it belongs to; sizes in bytes."""

    boot: int
    uptime_ms: int
    applications: tuple[str, ...]
    memory: dict[str, int]
    processes: int
    ports: int
    run_queue: int


class Host(NamedTuple):
    """The machine: load averages times 100, free bytes of memory and of the slots' filesystem."""

    load: tuple[int, ...]
    memory_free: int
    disk_free: int


def read_sample(line: bytes) -> Sample | None:
    """The sample in a line of beamfleet_link, or None if it is none."""
    try:
        said: dict[str, Any] = json.loads(line)
        if said["v"] != 1:
            return None
        return Sample(
            boot=int(said["boot"]),
            uptime_ms=int(said["uptime_ms"]),
            applications=tuple(str(application["name"]) for application in said["applications"]),
            memory={str(kind): int(size) for kind, size in said["memory"].items()},
            processes=int(said["processes"]),
            ports=int(said["ports"]),
            run_queue=int(said["run_queue"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_host(slots: str) -> Host:
    """The machine now; 0 for what cannot be read."""
    try:
        load = tuple(int(value * 100) for value in os.getloadavg())
    except OSError:
        load = ()
    memory = 0
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    memory = int(line.split()[1]) << 10
                    break
    except (OSError, ValueError, IndexError):
        pass
    try:
        disk = os.statvfs(slots)
        free = disk.f_bavail * disk.f_frsize
    except OSError:
        free = 0
    return Host(load, memory, free)


def finding(sample: Sample | None, starts: int, release: Release | None) -> str:
    """What is wrong with VM start `starts`; empty when all is well."""
    if sample is None:
        return "the release does not answer"
    if sample.boot != starts:
        return f"start {sample.boot} answers, {starts} is wanted"
    missing = [name for name in release.permanent if name not in sample.applications] if release else []
    return f"not running: {', '.join(missing[:8])}" if missing else ""


class Trial:
    """The verdict over a new release, from observations at times that the caller gives."""

    def __init__(self, release: Release, period_s: float) -> None:
        self.release = release
        self._period_s = period_s
        self._well_since: float | None = None
        self._http: str | None = None if release.probe_http else ""
        self._command: str | None = None if release.probe_command else ""

    def http(self, problem: str) -> None:
        """The HTTP probe succeeded ("") or not."""
        self._http = problem

    def command(self, status: int) -> None:
        """The command probe ended."""
        self._command = "" if status == 0 else f"the probe command ended with {status}"

    def observe(self, now: float, sample: Sample | None, starts: int) -> tuple[str, str]:
        """(reason, detail) of what keeps the release from being well, ("", "") if nothing does."""
        unwell = ("health", problem) if (problem := finding(sample, starts, self.release)) else self._probes()
        if unwell[0]:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        return unwell

    def passed(self, now: float) -> bool:
        """Whether it has been well for the whole period."""
        return self._well_since is not None and now - self._well_since >= self._period_s

    def _probes(self) -> tuple[str, str]:
        for problem in (self._http, self._command):
            if problem is None:
                return "probe", "the probes have not ended yet"
            if problem:
                return "probe", problem
        return "", ""
