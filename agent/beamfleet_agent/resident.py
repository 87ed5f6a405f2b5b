"""Owns the life of an agent process: claim the root, start, loop, stop. In the background, or in front of a person.

startup: settings, lock, pid -> Agent, Control -> ready -> main loop -> shutdown on TERM: good-bye, socket and pid gone
"""

import signal
from collections.abc import Callable
from typing import Any

from beamfleet_agent import settings
from beamfleet_agent.agent import Agent
from beamfleet_agent.claim import claim, disclaim
from beamfleet_agent.control import Control
from beamfleet_agent.errors import AgentError
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.notify import Notify
from beamfleet_agent.paths import Paths
from beamfleet_agent.seed import Seed

NO_LAUNCHER_S = 15.0


def run(root: str) -> int:
    """Be the device's agent until TERM; 0. Errors: `agent.*`."""
    settled = settings.load(Paths(root).settings)
    paths = Paths(root, settled.app)
    log = Log(device=settled.device)
    claim(paths)
    loop = Loop()
    notify = Notify(loop)
    agent = Agent(loop, log, paths, settled)
    agent.on_sample = notify.alive
    control = Control(loop, log, paths, agent)

    def leave() -> None:
        notify.stopping()
        control.close()
        agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(number, leave)
    agent.start()
    Seed(paths, log, agent).plant()
    notify.ready()
    loop.run()
    loop.close()
    disclaim(paths)
    return 0


def attend(root: str, ask: Callable[[Agent], None], on_change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Be the agent without a server just as long as what `ask` asks for takes; its last status.

    Errors: what `ask` raises, `agent.*`, `update.no_launcher` when nobody takes the request to swap.
    """
    settled = settings.load(Paths(root).settings)
    paths = Paths(root, settled.app)
    claim(paths)
    loop = Loop()
    agent = Agent(loop, Log(), paths, settled, offline=True)
    stuck = False

    def changed(status: dict[str, Any]) -> None:
        on_change(status)
        if not agent.busy:
            loop.stop()

    def given_up() -> None:
        nonlocal stuck
        stuck = agent.state.update.phase == "swapping"
        loop.after("attend.launcher", NO_LAUNCHER_S, given_up)
        if stuck:
            loop.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(number, loop.stop)
    agent.start()
    ask(agent)
    agent.on_change = changed
    loop.after("attend.launcher", NO_LAUNCHER_S, given_up)
    if agent.busy:
        loop.run()
    agent.stop()
    loop.close()
    disclaim(paths)
    if stuck:
        hint = "start the launcher (DIR/run, or your init): it takes the request when it comes"
        raise AgentError("update.no_launcher", "the release is staged, but no launcher swaps to it", hint)
    return agent.status()
