"""Owns the check of processes."""

from beamfleet_server.checks.finding import Finding, above, percent
from beamfleet_server.checks.report import Report, used
from beamfleet_server.checks.thresholds import Thresholds

NAME = "processes"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of the limit is used."""
    share = used(report.processes)
    detail = f"{percent(share)} of the limit of processes"
    return above(NAME, share, at.processes_degraded, at.processes_failing, detail)
