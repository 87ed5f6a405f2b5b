"""Owns the check for a release that ends again and again without being asked to."""

from beamfleet_server.checks.finding import Finding, above
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "restart_loop"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How often within the last hour."""
    detail = f"it ended {report.falls} times within an hour"
    return above(NAME, report.falls, at.falls_degraded, at.falls_failing, detail)
