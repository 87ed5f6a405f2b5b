"""Owns the check of ETS tables."""

from beamfleet_server.checks.finding import Finding, above, percent
from beamfleet_server.checks.report import Report, used
from beamfleet_server.checks.thresholds import Thresholds

NAME = "ets"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of the limit is used."""
    share = used(report.ets)
    detail = f"{percent(share)} of the limit of ETS tables"
    return above(NAME, share, at.ets_degraded, at.ets_failing, detail)
