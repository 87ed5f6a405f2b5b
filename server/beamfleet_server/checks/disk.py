"""Owns the check of the space on the filesystem of the slots."""

from beamfleet_server.checks.finding import Finding, below, percent
from beamfleet_server.checks.report import Report, left
from beamfleet_server.checks.thresholds import Thresholds

NAME = "disk"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of it is free."""
    share = left(report.disk)
    return below(NAME, share, at.disk_degraded, at.disk_failing, f"{percent(share)} of the disk are free")
