"""Owns the check of what the release says of itself with `beamfleet_link:health/1`."""

from beamfleet_server.checks.finding import LONGEST, Finding
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "said"


def check(report: Report, _: Thresholds) -> Finding | None:
    """Its own word, with its own reason."""
    if report.said is None:
        return None
    status, reason = report.said
    match status:
        case "failing" | "degraded":
            return Finding(NAME, status, (reason or "the release says so")[:LONGEST])
        case _:
            return None
