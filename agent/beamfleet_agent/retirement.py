"""Owns the end of a device: identity, secrets, releases, data and settings go, and the files that setup was given.

What runs is stopped first, where systemd runs it; else somebody has to. The package stays, and hooks in it that were
not given to setup. Deleted is not overwritten: what flash memory keeps of a deleted file nobody but the memory's own
erase can take away. Tells no server: that is the operator's `beamfleet device decommission`.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from beamfleet_bundles import durable

from beamfleet_agent import claim, settings, system_root
from beamfleet_agent.errors import AgentError
from beamfleet_agent.given_files import listed
from beamfleet_agent.paths import Paths

UNITS = ("beamfleet-setup.service", "beamfleet-agent.service", "beamfleet-launcher.service")
STOP_S = 180


class Retirement:
    """Of the device in `root`, "" being the machine itself. Error: `agent.not_set_up` where there is nothing to end."""

    def __init__(self, root: str) -> None:
        self._root = root
        try:
            settled = settings.load(Paths(root).settings)
        except AgentError:
            settled = None
        self._paths = Paths(root, settled.app if settled else "main")
        self._runs_here = not root or (settled is not None and settled.single_user)
        """Not so a system in a directory, whose /run is nothing, or a link to ours."""
        self.device = settled.device if settled else "this machine"
        if settled is None and not any(map(os.path.lexists, (self._paths.provision, self._paths.identity))):
            raise AgentError(
                "agent.not_set_up", f"there is no device in {root or '/'}", "name its directory with --root"
            )

    def carry_out(self) -> list[str]:
        """Stop, then remove; what was removed, as the device names it. To be done again if it was cut short.

        Errors: `setup.running`, `agent.io`.
        """
        self._stop()
        return [*self.removing()]

    def removing(self) -> Iterator[str]:
        """What goes, one after the other, each gone for good when it is told."""
        paths = self._paths
        given = [path for path in listed(paths) if path.startswith("/") and ".." not in path.split("/")]
        places = [
            paths.identity, *_set_aside(paths), paths.app_env, f"{paths.etc}/app.d", paths.provision,
            *_torn(paths.etc), *_content(paths.var), *(f"{self._root}{path}" for path in given),
            *(f"{self._root}{os.path.dirname(path)}/.{os.path.basename(path)}.new" for path in given), paths.given,
            *(_content(paths.run_app) if self._runs_here else ()), paths.launcher_conf, paths.ca, paths.trust_root,
            paths.settings,
        ]  # fmt: skip
        """The settings last: until then this can be asked for again."""
        for place in places:
            if self._remove(place):
                yield place.removeprefix(self._root)

    def _stop(self) -> None:
        if not self._root and os.path.isdir("/run/systemd/system") and os.geteuid() == 0:
            try:
                subprocess.run(
                    ["systemctl", "stop", *UNITS], stdin=subprocess.DEVNULL, capture_output=True, check=False,
                    timeout=STOP_S,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired):
                pass  # what still runs holds its lock
        locks = {"agent": self._paths.lock}
        if self._runs_here:
            locks["launcher"] = f"{self._paths.run_app}/launcher.lock"
        for name, lock in locks.items():
            if pid := claim.holder_of(lock):
                hint = "end what keeps it running (DIR/run, or its line in inittab), then do this again"
                raise AgentError("setup.running", f"the {name}, process {pid}, runs in {self._root or '/'}", hint)

    def _remove(self, place: str) -> bool:
        """Durable when it returns. False: there was nothing."""
        system_root.inside(self._root, os.path.dirname(place).removeprefix(self._root))
        if not os.path.lexists(place):
            return False
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        else:
            os.unlink(place)
        durable.sync_directory(os.path.dirname(place))
        return True


def _set_aside(paths: Paths) -> list[str]:
    return sorted(str(place) for place in Path(paths.var).glob("identity.*"))


def _torn(folder: str) -> list[str]:
    """What a power cut in the midst of a write has left."""
    return [place for place in _content(folder) if place.endswith(".new")]


def _content(folder: str) -> list[str]:
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
    except FileNotFoundError:
        return []
