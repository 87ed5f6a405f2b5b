"""A valid manifest of given contents, in memory, for tests that break one thing about it."""

import hashlib
from collections.abc import Mapping
from typing import Any

from beamfleet_bundles import launch
from beamfleet_bundles.launch import Launch
from beamfleet_bundles.manifest import Application, Entry, FileEntry, LinkEntry, Manifest, Release, Requires

LAUNCH = Launch(kind="relx", name="my_app", vsn="1.0.0", erts="13.1.5", boot="releases/1.0.0/start")
CONTENTS = {
    "erts-13.1.5/bin/erlexec": b"an executable",
    "lib/my_app-1.0.0/ebin/my_app.app": b"{application,my_app,[]}.",
    "releases/1.0.0/start.boot": b"a boot script",
}


def contents(more: Mapping[str, bytes] = {}, start: Launch = LAUNCH) -> dict[str, bytes]:
    """What the files of `manifest` hold, by path, sorted."""
    return dict(sorted({**CONTENTS, **more, launch.PATH: start.encode()}.items()))


def entry(path: str, content: bytes) -> FileEntry:
    """The entry of a file, executable below `bin/`."""
    return FileEntry(
        path, "0755" if "/bin/" in f"/{path}" else "0644", len(content), hashlib.sha256(content).hexdigest()
    )


def manifest(
    more: Mapping[str, bytes] = {},
    links: Mapping[str, str] = {},
    start: Launch = LAUNCH,
    **fields: Any,
) -> Manifest:
    """A valid manifest with these further files and links; `fields` replace its own."""
    entries: list[Entry] = [entry(path, content) for path, content in contents(more, start).items()]
    entries += [LinkEntry(path, target) for path, target in links.items()]
    values: dict[str, Any] = {
        "product": "my-app",
        "version": "1.0.0",
        "target": "x86_64-glibc-otp25",
        "release": Release("my_app", start.kind, start.erts, 25, (Application("my_app", "1.0.0", "permanent"),)),
        "requires": Requires("x86_64", "glibc", "2.34", ("libc.so.6", "libtinfo.so.6"), 1),
        "launch": start,
        "entries": tuple(sorted(entries, key=lambda entry: entry.path)),
    }
    return Manifest(**{**values, **fields})
