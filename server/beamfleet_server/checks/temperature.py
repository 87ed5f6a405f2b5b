"""Owns the check of the temperature."""

from beamfleet_server.checks.finding import Finding, above
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "temperature"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How hot it is."""
    detail = f"{(report.temperature or 0) / 1000:.1f} °C"
    return above(NAME, report.temperature, at.temperature_degraded, at.temperature_failing, detail)
