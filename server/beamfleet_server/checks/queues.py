"""Owns the check of the longest message queue: who does not keep up with what is sent to it."""

from beamfleet_server.checks.finding import Finding, above
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "queues"


def check(report: Report, at: Thresholds) -> Finding | None:
    """Whose queue is too long."""
    longest = report.longest_queue
    if longest is None:
        return None
    name, length = longest
    return above(NAME, length, at.queue_degraded, at.queue_failing, f"{length} messages wait for {name}")
