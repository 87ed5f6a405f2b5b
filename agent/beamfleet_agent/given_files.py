"""Owns the files outside our own directories that setup lays down because the owner gave them: `files`, Wi-Fi, modem.

Their names are noted in /etc/beamfleet/given, so that decommissioning finds them. Never lays one down over ours.
"""

import os
from pathlib import Path
from typing import Any

from beamfleet_bundles import durable

from beamfleet_agent import connections, system_root
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.setup_words import GivenFile


class GivenFiles:
    """What the words `files`, `wifi` and `apn` come to in `root`. Errors: `setup.words`, `setup.no_network`,
    `setup.directory`."""

    def __init__(self, root: str, given: dict[str, Any], *, in_directory: bool) -> None:
        if in_directory and (given["wifi"] or given["apn"]):
            hint = "leave wifi and apn to the machine that the directory lies on"
            raise AgentError("setup.words", "a device in a directory has no network of its own", hint)
        self._root, self._paths = root, Paths(root)
        self._links: dict[str, str] = {}
        self._files: list[GivenFile] = list(given["files"])
        if given["wifi"]:
            found, self._links = connections.wifi(root, given["wifi"])
            self._files += found
        if given["apn"]:
            self._files += connections.modem(root, given["apn"])
        for path in (*(file.path for file in self._files), *self._links):
            place = self._place(path)
            if place.is_dir() and not place.is_symlink():
                raise AgentError("setup.directory", f"{place} is a directory", "name a file")

    def lay(self) -> None:
        """All of them, noted first."""
        paths = [*(file.path for file in self._files), *self._links]
        if not paths:
            return
        noted = sorted({*listed(self._paths), *paths})
        durable.replace(Path(self._paths.given), "".join(f"{path}\n" for path in noted).encode(), 0o600)
        changed = False
        for file in self._files:
            place = self._ready(file.path)
            changed |= durable.replace(place, file.data, file.mode)
            os.chmod(place, file.mode)
        for path, target in self._links.items():
            place = self._ready(path)
            if not place.is_symlink():
                place.symlink_to(target)
                durable.sync_directory(place.parent)
        if not self._root and changed:
            connections.heed()

    def _place(self, path: str) -> Path:
        """A link in the place of the file itself is replaced and not followed."""
        return Path(system_root.inside(self._root, os.path.dirname(path)), os.path.basename(path))

    def _ready(self, path: str) -> Path:
        place = self._place(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AgentError("setup.directory", f"cannot make {error.filename}: {error.strerror}") from error
        return place


def listed(paths: Paths) -> list[str]:
    """The files that were laid down so far, as the device names them."""
    try:
        return Path(paths.given).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
