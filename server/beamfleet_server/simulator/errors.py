"""Owns the errors of the simulator: a scenario that cannot be understood, devices that cannot be had."""

from beamfleet_bundles.errors import BeamfleetError

CODES = frozenset(
    {"scenario.schema", "scenario.syntax", "simulate.enrolment", "simulate.in_use", "simulate.other_fleet"}
)
"""Every code of the simulator's own; SIMULATOR.md lists them."""


class SimulatorError(BeamfleetError):
    """The simulator refused or could not do something; `code` is one of `CODES`."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise KeyError(code)
        super().__init__(code, message, hint)
