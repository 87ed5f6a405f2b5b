"""A resident agent in the test's own process and loop, with its log and what it asked the launcher for."""

import json
import os
from pathlib import Path
from typing import Any

from beamfleet_agent import settings
from beamfleet_agent.agent import Agent
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths


class Device:
    """An agent in this process, and its log."""

    def __init__(self, loop: Loop, paths: Paths, log: Path) -> None:
        self.paths, self._log = paths, log
        self.agent = Agent(
            loop, Log(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)), paths, settings.load(paths.settings)
        )
        self.samples = 0
        self.agent.on_sample = self._sampled
        self.agent.start()

    def _sampled(self) -> None:
        self.samples += 1

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def requests(self) -> list[str]:
        return [path.read_text().strip() for path in sorted(Path(self.paths.requests).glob("[0-9]*"))]
