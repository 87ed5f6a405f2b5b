"""Owns the check of the flash's life."""

from beamfleet_server.checks.finding import Finding, above
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "wear"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of it is used."""
    detail = f"{report.wear} % of the flash's life are used"
    return above(NAME, report.wear, at.wear_degraded, at.wear_failing, detail)
