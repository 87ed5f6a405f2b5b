"""Owns the verdict over a device's report, and the order in which its reasons are told."""

from collections.abc import Callable, Sequence
from typing import Literal

from beamfleet_server.checks import (
    answers,
    applications,
    atoms,
    binaries,
    clock,
    disk,
    ets,
    host_memory,
    inodes,
    memory,
    ports,
    probes,
    processes,
    queues,
    restart_loop,
    restarts,
    run_queue,
    said,
    temperature,
    wear,
)
from beamfleet_server.checks.finding import Finding
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

Judged = Literal["healthy", "degraded", "failing", "unknown"]
Verdict = Literal["healthy", "degraded", "failing", "offline", "unknown"]
"""With what is said of devices that are silent."""

CHECKS: Sequence[Callable[[Report, Thresholds], Finding | None]] = tuple(
    each.check
    for each in (
        answers,
        applications,
        restart_loop,
        probes,
        said,
        queues,
        atoms,
        processes,
        ports,
        ets,
        memory,
        binaries,
        run_queue,
        restarts,
        host_memory,
        disk,
        inodes,
        wear,
        temperature,
        clock,
    )
)


def judge(report: Report, thresholds: Thresholds) -> tuple[Judged, list[Finding]]:
    """The verdict, and what it stands on, the worst first."""
    findings = [found for check in CHECKS if (found := check(report, thresholds)) is not None]
    findings.sort(key=lambda found: found.level != "failing")
    if findings:
        return findings[0].level, findings
    return ("unknown" if report.verdict == "unknown" else "healthy"), findings
