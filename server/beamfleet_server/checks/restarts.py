"""Owns the check of supervisors' restarts: something inside crashes again and again, and the release lives with it."""

from beamfleet_server.checks.finding import Finding, above
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "restarts"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How many there were in a minute."""
    rate = report.restarts_per_min
    detail = f"supervisors started {rate} children again in a minute"
    return above(NAME, rate, at.restarts_degraded, at.restarts_failing, detail)
