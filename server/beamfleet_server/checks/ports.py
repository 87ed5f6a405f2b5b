"""Owns the check of ports: sockets, files, programs."""

from beamfleet_server.checks.finding import Finding, above, percent
from beamfleet_server.checks.report import Report, used
from beamfleet_server.checks.thresholds import Thresholds

NAME = "ports"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of the limit is used."""
    share = used(report.ports)
    detail = f"{percent(share)} of the limit of ports"
    return above(NAME, share, at.ports_degraded, at.ports_failing, detail)
