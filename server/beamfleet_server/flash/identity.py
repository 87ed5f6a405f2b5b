"""Owns which device a root is: what its certificate says, else its settings. Reads only, and
nothing outside of the root.
"""

import tomllib
from pathlib import Path

from beamfleet_bundles import pki
from beamfleet_bundles.errors import BundleError

from beamfleet_server.flash.paths import inside

CERTIFICATES = ("pair.pem", "cert.pem")
IDENTITY, SETTINGS = "var/lib/beamfleet/identity", "etc/beamfleet/agent.toml"


def identity_in(root: Path) -> tuple[str, bool]:
    """(the id or "", whether it is enrolled). What cannot be read is no device."""
    for name in CERTIFICATES:
        if content := _read(root, f"{IDENTITY}/{name}"):
            try:
                return pki.read_certificate(pki.load_certificate(content)).name, True
            except BundleError:
                continue
    try:
        device = tomllib.loads(_read(root, SETTINGS).decode()).get("device", "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        device = ""
    return (device if isinstance(device, str) else ""), False


def _read(root: Path, path: str) -> bytes:
    place = inside(root, path)
    try:
        return place.read_bytes() if place and place.is_file() and place.stat().st_size < 1 << 20 else b""
    except OSError:
        return b""
