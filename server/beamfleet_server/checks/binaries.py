"""Owns the check of binaries: memory that is often held by somebody who forgot it."""

from beamfleet_server.checks.finding import Finding, above, size
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "binaries"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much they are."""
    held = report.memory.get("binary")
    return above(NAME, held, at.binaries_degraded, at.binaries_failing, f"binaries have {size(held or 0)}")
