"""Owns what has to hold before dpkg works from outside on a root that somebody else has made; installs nothing.

dpkg believes its database. In a root that is not our own that would let a stranger run scripts on this machine, as
root, and write and delete outside of the root: by scripts of an older version of our package, by lists and diversions
with `..`, by links that lead out where a directory should be. So the older scripts are taken away, which have nothing
to do in a system that is off, and everything else is refused. Triggers of other packages are left to the system itself.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.paths import inside

PACKAGE = "beamfleet-agent"
SCRIPTS = frozenset({"preinst", "postinst", "prerm", "postrm", "config"})
_ADMIN = "var/lib/dpkg"
_FOLDERS = (
    _ADMIN,
    f"{_ADMIN}/info",
    f"{_ADMIN}/triggers",
    f"{_ADMIN}/updates",
    "etc",
    "run",
    "tmp",
    "var/lib/beamfleet",
)
_WRITTEN = ("run/beamfleet-agent.installing",)
"""What our own scripts open for writing under this very name."""
_NO_LINKS = (f"{_ADMIN}/*", f"{_ADMIN}/updates/*", f"{_ADMIN}/triggers/*", f"{_ADMIN}/info/{PACKAGE}*")
"""What dpkg opens for writing under these very names: locks, and files that are new, such as status-new."""
_OURS = re.compile(rf"^package:\s*{PACKAGE}\s*$", re.MULTILINE | re.IGNORECASE)
_BETWEEN = re.compile(r"\n\s*\n")
_MOST = 64 << 20


def settle(root: Path, paths: Iterable[str]) -> None:
    """Make the database fit to be used from outside for a package with these absolute paths. Error: `flash.hostile`."""
    for folder in _FOLDERS:
        _contained(root, f"/{folder}/.")
    for place in (*(root / name for name in _WRITTEN), *(each for links in _NO_LINKS for each in root.glob(links))):
        if place.is_symlink():
            raise _hostile(f"/{place.relative_to(root)} is a link")
    info = root / _ADMIN / "info"
    ours = [place for pattern in (f"{PACKAGE}.*", f"{PACKAGE}:*") for place in info.glob(pattern)]
    touched = set(paths)
    for place in ours:
        if place.suffix == ".list":
            touched |= set(filter(None, _lines(place)))
    for path in sorted(touched | set(_conffiles(root)) | set(_diverted(root, touched))):
        _contained(root, path)
    for place in ours:
        if place.suffix.lstrip(".") in SCRIPTS:
            place.unlink()


def _contained(root: Path, path: str) -> None:
    """That the directory of a path is where this machine would look for it, too, which follows links its own way."""
    if ".." in path.split("/"):
        raise _hostile(f"its database names {path}")
    folder = path.rpartition("/")[0].lstrip("/")
    if inside(root, folder) != Path(os.path.realpath(root / folder)):
        raise _hostile(f"/{folder} is or has a link to an absolute path, or one that leads out")


def _conffiles(root: Path) -> Iterator[str]:
    """Of our package; what is not whole yet lies in `updates`."""
    updates = sorted((root / _ADMIN / "updates").glob("*"))
    for place in (root / _ADMIN / "status", *updates):
        for stanza in _BETWEEN.split("\n".join(_lines(place))):
            if _OURS.search(stanza):
                yield from (line.split()[0] for line in stanza.split("\n") if re.match(r"\s+/", line))


def _diverted(root: Path, touched: set[str]) -> Iterator[str]:
    """Where files of ours go instead."""
    lines = _lines(root / _ADMIN / "diversions")
    for what, instead in zip(lines[0::3], lines[1::3], strict=False):
        if what in touched or ".." in instead.split("/"):
            yield instead


def _lines(place: Path) -> list[str]:
    """Of a file of the database, which is no link and not larger than any would be."""
    if not os.path.lexists(place):
        return []
    if place.is_symlink() or not place.is_file() or place.stat().st_size > _MOST:
        raise _hostile(f"{place.name} of its database is no file as dpkg writes it")
    return place.read_text(encoding="utf-8", errors="surrogateescape").split("\n")


def _hostile(why: str) -> FlashError:
    hint = "mend it, or take a root that you trust; nothing has been installed"
    return FlashError("flash.hostile", f"dpkg cannot be let loose on this root: {why}", hint)
