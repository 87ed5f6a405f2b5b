"""Owns a device in a directory: everything runs as one user, nothing is installed, `DIR/run` starts it.

Its agent is the one beside this Python. For trials, for demonstrations and for development.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from beamfleet_server.flash import agent_setup, removal
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import Problem, TargetFacts
from beamfleet_server.flash.hold import Hold
from beamfleet_server.flash.identity import identity_in
from beamfleet_server.flash.seed import lay_seed
from beamfleet_server.flash.target import Progress


class DirectoryTarget:
    """A directory that is, or will be, a device."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hold: Hold | None = None

    @property
    def name(self) -> str:
        return str(self._root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._hold is not None:
            self._hold.let_go()
            self._hold = None

    def facts(self) -> TargetFacts:
        device, enrolled = identity_in(self._root)
        return TargetFacts(device=device, enrolled=enrolled, python=sys.version_info[:2], python_path=sys.executable)

    def problems(self) -> Sequence[Problem]:
        """That there can be no directory, or that this is a whole system, whose /run is no start script."""
        place = self._root
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if not place.is_dir():
            hint = "give a directory; it is made if it is not there"
            return (Problem("flash.no_root", f"{place} is a file, and no directory", hint),)
        if not os.access(place, os.W_OK | os.X_OK):
            return (Problem("flash.no_root", f"nothing can be made in {place}", "give a directory that is yours"),)
        if not (self._root / "run").is_dir():
            return ()
        hint = "leave --single-user away, or take another directory"
        return (
            Problem("flash.no_root", f"{self._root} is the root of a whole system: {self._root}/run is there", hint),
        )

    def intentions(self) -> Sequence[str]:
        return ()

    def prepare(self, _: Progress, /) -> None:
        agent_setup.require()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._hold = Hold(self._root, self.name)
        except OSError as error:
            hint = "give a directory that is yours"
            raise FlashError("flash.no_root", f"{self._root} cannot be made: {error.strerror}", hint) from None

    def install(self, package: Path) -> None:
        raise NotImplementedError

    def set_up(self, words: Mapping[str, Any]) -> dict[str, Any]:
        held = self._hold.descriptors if self._hold else ()
        return agent_setup.set_up(self._root, {**words, "python": sys.executable}, held)

    def provision(self, words: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def seed(self, bundle: Path) -> None:
        lay_seed(self._root, bundle)

    def start(self) -> str:
        return f"{self._root}/run starts it"

    def remove(self, wipe: bool) -> list[str]:
        return removal.remove_directory(self._root, wipe)
