"""Owns the error of the device side; never logs, never imports more than its root.

BeamfleetError                 beamfleet_bundles.errors: every error a user may see
└── AgentError                 agent.* boot.* slot.* update.* worker.* enrol.* setup.* (README.md lists the codes)
"""

from beamfleet_bundles.errors import BeamfleetError


class AgentError(BeamfleetError):
    """The device refused or could not do something."""
