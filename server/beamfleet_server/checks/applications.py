"""Owns the check that a release which answers is whole: its permanent applications run, as far as the device knows."""

from beamfleet_server.checks.finding import LONGEST, Finding
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "applications"


def check(report: Report, _: Thresholds) -> Finding | None:
    """What the device finds failing although the release answers and no probe says why."""
    if report.verdict != "failing" or not report.answers:
        return None
    if any(state == "failed" for state, _ in report.probes.values()):
        return None
    return Finding(NAME, "failing", (report.detail or "the device calls it failing")[:LONGEST])
