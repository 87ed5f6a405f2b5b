"""Owns the check of the inodes on the filesystem of the slots."""

from beamfleet_server.checks.finding import Finding, below, percent
from beamfleet_server.checks.report import Report, left
from beamfleet_server.checks.thresholds import Thresholds

NAME = "inodes"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How many of them are free."""
    share = left(report.inodes)
    return below(NAME, share, at.inodes_degraded, at.inodes_failing, f"{percent(share)} of the inodes are free")
