"""Owns the check of the machine's memory."""

from beamfleet_server.checks.finding import Finding, below, percent
from beamfleet_server.checks.report import Report, left
from beamfleet_server.checks.thresholds import Thresholds

NAME = "host_memory"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of it is available."""
    share = left(report.host_memory)
    detail = f"{percent(share)} of the memory are available"
    return below(NAME, share, at.host_memory_degraded, at.host_memory_failing, detail)
