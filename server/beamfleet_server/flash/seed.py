"""Owns laying down a bundle that an agent installs when it finds no release; copies, and checks nothing of it."""

import os
import shutil
from pathlib import Path

from beamfleet_bundles import durable

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.identity import IDENTITY
from beamfleet_server.flash.paths import inside

PLACE = "var/lib/beamfleet/seed.bundle"


def lay_seed(root: Path, bundle: Path) -> None:
    """Copy it whole or not at all, for the agent of the root to take; a release that is there already wins over it."""
    place = inside(root, PLACE)
    if place is None or not place.parent.is_dir():
        raise FlashError("flash.no_root", f"there is no {Path(PLACE).parent} in {root}", "flash it first")
    written = place.with_name(f".{place.name}.new")
    written.unlink(missing_ok=True)
    with bundle.open("rb") as source, written.open("xb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        os.fchmod(copy.fileno(), 0o644)
        if os.geteuid() == 0:  # the directory is sticky, and the agent removes it
            identity = inside(root, IDENTITY)
            owner = (identity if identity and identity.is_dir() else place.parent).stat()
            os.fchown(copy.fileno(), owner.st_uid, owner.st_gid)
        copy.flush()
        os.fsync(copy.fileno())
    written.replace(place)
    durable.sync_directory(place.parent)
