"""Owns the check of the run queue: who waits for a scheduler."""

from beamfleet_server.checks.finding import Finding, above
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "run_queue"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How many are ready and do not run."""
    waiting = report.run_queue
    detail = f"{waiting} processes wait for a scheduler"
    return above(NAME, waiting, at.run_queue_degraded, at.run_queue_failing, detail)
