"""Owns the check of the device's clock: certificates and windows are judged by it."""

from beamfleet_server.checks.finding import Finding, above
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "clock"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How wrong it is."""
    offset = report.clock_offset_s
    if offset is None:
        return None
    detail = f"the clock is {abs(offset)} s {'ahead' if offset > 0 else 'behind'}"
    return above(NAME, abs(offset), at.clock_degraded, at.clock_failing, detail)
