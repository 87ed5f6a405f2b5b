"""Owns where packages of the agent are kept on this machine, and how much one takes up. Reads only."""

import os
from collections.abc import Sequence
from pathlib import Path

from beamfleet_server.flash.contents import contents
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.packages import Package, found, parse

VARIABLE = "BEAMFLEET_PACKAGES"
SHARED = Path("/usr/share/beamfleet/packages")


def packages(file: Path | None, directory: Path | None) -> Sequence[Package]:
    """What there is to choose from: one file, or those of a directory. Errors: `flash.no_package`."""
    if file is None:
        return found(looked_at(directory))
    package = parse(file)
    if package is None or not file.is_file():
        hint = "give the path of a beamfleet-agent_VERSION_ARCH_pyXY.deb, .rpm, .ipk or .apk, under that name"
        raise FlashError("flash.no_package", f"{file} is no package of the agent", hint)
    return [package]


def looked_at(directory: Path | None) -> Path:
    """The directory: the one that is given, that of the environment, or that of the system."""
    if directory is not None:
        return directory
    named = os.environ.get(VARIABLE)
    return Path(named) if named else SHARED


def needed_bytes(package: Package | None) -> int:
    """What a package takes up when it is unpacked; 0 of none."""
    return contents(package.path).size if package else 0
