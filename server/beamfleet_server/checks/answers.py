"""Owns the check that the release runs and answers, by the device's own verdict."""

from beamfleet_server.checks.finding import LONGEST, Finding
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "answers"


def check(report: Report, _: Thresholds) -> Finding | None:
    """Stopped on purpose is degraded; a release that should answer and does not is failing."""
    if report.verdict == "stopped":
        return Finding(NAME, "degraded", (report.detail or "the release is stopped")[:LONGEST])
    if report.verdict == "failing" and not report.answers:
        return Finding(NAME, "failing", (report.detail or "the release does not answer")[:LONGEST])
    return None
