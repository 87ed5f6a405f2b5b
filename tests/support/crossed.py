"""A release for another architecture than this machine's, as a cross build makes it: what is portable stays as it is.

Modules of the BEAM, scripts and configuration come from the release that was built here; every program and every shared
library comes from Debian's Erlang of the other architecture, which must be of the same version, file for file.
"""

import io
import tarfile
from pathlib import Path

from tests.support import rootfs

CACHE = rootfs.ROOT / ".build/examples/crossed"
ERLANG = "usr/lib/erlang"
PACKAGES = ("erlang-base", "erlang-crypto", "erlang-runtime-tools", "erlang-asn1")
_ELF = b"\x7fELF"
_RENAMED = {"erl": "dyn_erl"}
"""What relx puts in place of a script that knows where it was installed."""


class CrossError(Exception):
    """There is no Erlang of that architecture for this release; the text says what is missing."""


def tarball(source: Path, arch: str, runtime: Path) -> Path:
    """The release in the tarball `source` for `arch`, with what is below `runtime` (`erlang`)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / source.name.replace(".tar.gz", f"-{arch}.tar.gz")
    scratch = made.with_suffix(".new")
    with tarfile.open(source) as old, tarfile.open(scratch, "w:gz", compresslevel=1) as new:
        for member in old:
            content = old.extractfile(member)
            data = content.read() if content else b""
            if data.startswith(_ELF):
                data = _counterpart(runtime, member.name)
                member.size = len(data)
            new.addfile(member, io.BytesIO(data) if content else None)
    return scratch.rename(made)


def erlang(arch: str, into: Path) -> Path:
    """Debian's Erlang of `arch`, with all its packages that have machine code of ours, unpacked in `into`."""
    return rootfs.extract(into, PACKAGES, arch) / ERLANG


def _counterpart(runtime: Path, name: str) -> bytes:
    place = runtime / (name if name.startswith("erts-") else f"lib/{name.removeprefix('lib/')}")
    for each in (place, place.with_name(_RENAMED.get(place.name, place.name))):
        if each.is_file() and (data := each.read_bytes()).startswith(_ELF):
            return data
    raise CrossError(f"the release has the program {name}, and the other Erlang has not: {place}")
