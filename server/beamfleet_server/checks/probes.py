"""Owns the check of the probes of the manifest."""

from beamfleet_server.checks.finding import LONGEST, Finding, Level
from beamfleet_server.checks.report import Report
from beamfleet_server.checks.thresholds import Thresholds

NAME = "probes"
LEVELS: tuple[tuple[str, str, Level, str], ...] = (
    ("startup", "failed", "failing", "it does not start"),
    ("liveness", "failed", "failing", "it is not alive"),
    ("readiness", "failed", "degraded", "it is not ready"),
    ("startup", "waiting", "degraded", "it is starting"),
)
"""(kind, state) with what they mean, the worst first."""


def check(report: Report, _: Thresholds) -> Finding | None:
    """The worst of what they say."""
    for kind, state, level, meaning in LEVELS:
        said = report.probes.get(kind)
        if said is not None and said[0] == state:
            return Finding(NAME, level, f"{kind}: {said[1] or meaning}"[:LONGEST])
    return None
