"""Owns taking a device away from files: identity, secrets, settings, releases and data; stops nothing that runs."""

import fcntl
import shutil
from pathlib import Path

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import Problem
from beamfleet_server.flash.looking import text
from beamfleet_server.flash.paths import inside

SETTINGS, LIB, VAR = "etc/beamfleet", "usr/lib/beamfleet", "var/lib/beamfleet"
GIVEN = f"{SETTINGS}/given"
_WIPED = {SETTINGS: "settings and secrets are wiped", VAR: "identity, releases and data are wiped"}


def wipe(root: Path) -> list[str]:
    """Remove all that is the device's own; lines on what was done."""
    done = _given(root)
    for path, said in _WIPED.items():
        place = inside(root, path)
        if place and place.is_dir():
            shutil.rmtree(place)
            done.append(said)
    return done


def _given(root: Path) -> list[str]:
    """Files that setup laid down elsewhere, Wi-Fi secrets among them; no link leads out of the root."""
    lines = text(root, GIVEN).splitlines()
    gone = 0
    for line in lines:
        folder = inside(root, line.rpartition("/")[0])
        place = folder / line.rpartition("/")[2] if folder and line.startswith("/") else None
        if place and place.name not in ("", ".", "..") and (place.is_symlink() or place.is_file()):
            place.unlink()
            gone += 1
    return [f"{gone} files that it was given are wiped"] if gone else []


def remove_directory(root: Path, wiped: bool) -> list[str]:
    """Take away the device in a directory: what starts and runs it, and if it is to be wiped all that it was.

    Error: `flash.running`.
    """
    runs = inside(root, "var/run/beamfleet")
    lock = runs / "init.lock" if runs else None
    if lock and lock.is_file():
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FlashError("flash.running", f"{root}/run is running", "end it first (TERM)") from None
    found = [place for place in (inside(root, LIB), runs) if place and place.is_dir()]
    script = root / "run"
    done = ["launcher and start script are removed"] if found or script.is_file() else []
    script.unlink(missing_ok=True)
    for place in found:
        shutil.rmtree(place)
    return [*done, *(wipe(root) if wiped else [])]


def nothing(root: Path) -> Problem | None:
    """That there is no device in a directory that could be taken away."""
    places = [place for path in (LIB, VAR, SETTINGS) if (place := inside(root, path))]
    if any(place.is_dir() for place in places) or (root / "run").is_file():
        return None
    text = f"there is no device in {root}, and nothing to remove"
    return Problem("flash.no_root", text, "give the directory that was flashed with --single-user")
