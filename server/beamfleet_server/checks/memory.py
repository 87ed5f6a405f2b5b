"""Owns the check of the VM's memory against that of the machine."""

from beamfleet_server.checks.finding import Finding, above, percent, size
from beamfleet_server.checks.report import Report, used
from beamfleet_server.checks.thresholds import Thresholds

NAME = "memory"


def check(report: Report, at: Thresholds) -> Finding | None:
    """How much of the machine's memory the VM has."""
    total = report.memory.get("total")
    if total is None or report.host_memory is None:
        return None
    share = used((total, report.host_memory[1]))
    detail = f"the VM has {size(total)}, {percent(share)} of the machine's memory"
    return above(NAME, share, at.memory_degraded, at.memory_failing, detail)
