"""Owns the check of the atom table, which is never emptied."""

from beamfleet_server.checks.finding import Finding, above, percent
from beamfleet_server.checks.report import Report, used
from beamfleet_server.checks.thresholds import Thresholds

NAME = "atoms"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of the limit is used."""
    share = used(report.atoms)
    detail = f"{percent(share)} of the limit of atoms"
    return above(NAME, share, at.atoms_degraded, at.atoms_failing, detail)
