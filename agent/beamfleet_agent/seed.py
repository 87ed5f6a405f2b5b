"""Owns the bundle that a device is given before it ever sees a network: installed once, when there is no release.

Trust is that of any bundle file. The file goes away when the attempt has ended, whichever way: what it could not do
now it cannot do at the next start. Part of the resident agent.
"""

import os
from typing import Any

from beamfleet_agent.agent import Agent
from beamfleet_agent.errors import AgentError
from beamfleet_agent.log import Log
from beamfleet_agent.paths import Paths

ENDED = ("committed", "reverted", "failed")


class Seed:
    """Follows one agent, which has started. `plant` once; then it hears of every change, before who did so far."""

    def __init__(self, paths: Paths, log: Log, agent: Agent) -> None:
        self._path, self._log, self._agent = paths.seed, log, agent
        self._next = agent.on_change

    def plant(self) -> None:
        """Install the bundle if there is one and no release; go on with an attempt that a restart has interrupted."""
        if not os.path.exists(self._path):
            return
        if not self._agent.boot_state.slot and not self._agent.busy:
            self._log.info("seed", path=self._path)
            try:
                self._agent.install(self._path)
            except AgentError as error:
                self._log.warning("seed not installed", code=error.code, detail=error.message)
                return
        self._agent.on_change = self._changed
        self._changed(self._agent.status())

    def _changed(self, status: dict[str, Any]) -> None:
        ended = self._agent.boot_state.slot or self._agent.state.update.phase in ENDED
        if ended and not self._agent.busy and self._agent.on_change == self._changed:
            self._agent.on_change = self._next
            try:
                os.unlink(self._path)
            except OSError as error:
                self._log.warning("seed not removed", detail=str(error))
        self._next(status)
