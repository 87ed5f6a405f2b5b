"""Owns what is in a package file (.deb, .ipk, .apk) for those who unpack it themselves.

Reads, and runs none of the package's scripts. The directories that a package shares with the system (/usr, /etc) are
left out: a system keeps its own modes for them.
"""

import io
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from beamfleet_server.flash.errors import FlashError

OWN = ("/usr/lib/beamfleet", "/etc/beamfleet", "/usr/share/doc/beamfleet-agent")
"""Directories that are the package's alone, with everything below them."""
INSTALLED = "/usr/lib/beamfleet/installed"
"""Where an unpacked package leaves the list of its paths, one a line, for removal and the next version."""
_MAGIC = b"!<arch>\n"
_MEMBER = 60
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a package: absolute paths of what it brings, in its order, and their `size` in bytes in sum."""

    package: Path
    paths: tuple[str, ...]
    size: int

    def write_tar(self, file: IO[bytes]) -> None:
        """A plain tar of it, everything root's, names without the first slash."""
        with _members(self.package) as members, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for member, content in members:
                tar.addfile(member, content)


def contents(package: Path) -> Contents:
    """What is in it. `flash.no_package` for what is no such file."""
    with _members(package) as members:
        found = [(f"/{member.name}", member.size if member.isreg() else 0) for member, _ in members]
    return Contents(package, tuple(path for path, _ in found), sum(size for _, size in found))


def is_own(path: str) -> bool:
    """Whether a directory is the package's alone."""
    return any(path == own or path.startswith(f"{own}/") for own in OWN)


Members = Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]


@contextmanager
def _members(package: Path) -> Iterator[Members]:
    try:
        with package.open("rb") as file, _data(package, file) as tar:
            yield _kept(package, tar)
    except (OSError, EOFError, ValueError, tarfile.TarError, zstd.ZstdError) as error:
        hint = "make it again: ./dev package"
        raise FlashError("flash.no_package", f"{package} cannot be read: {error}", hint) from None


def _kept(package: Path, tar: tarfile.TarFile) -> Members:
    total = 0
    for member in tar:
        name = member.name.removeprefix("./").strip("/")
        control = package.suffix == ".apk" and name.startswith(".") and "/" not in name
        if not name or control or (member.isdir() and not is_own(f"/{name}")):
            continue
        if (
            ".." in name.split("/")
            or not name.isprintable()
            or not (member.isreg() or member.issym() or member.isdir())
        ):
            raise ValueError(f"{name!r} cannot be part of it")
        total += member.size
        if total > _MOST_BYTES:
            raise ValueError("it is too large")
        member.name, member.uid, member.gid, member.uname, member.gname = name, 0, 0, "root", "root"
        member.pax_headers = {}
        yield member, tar.extractfile(member) if member.isreg() else None


@contextmanager
def _data(package: Path, file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """The archive with the files; for an apk with those of its control part as well."""
    match package.suffix:
        case ".deb":
            name, content = _member_of_ar(file)
        case ".ipk":
            with tarfile.open(fileobj=file, mode="r:*") as outer:
                inner = next((each for each in outer if each.name.removeprefix("./").startswith("data.tar")), None)
                opened = outer.extractfile(inner) if inner else None
                if inner is None or opened is None:
                    raise ValueError("it has no data.tar")
                name, content = inner.name, opened.read(_MOST_BYTES)
        case ".apk":
            with tarfile.open(fileobj=file, mode="r:gz", ignore_zeros=True) as tar:
                yield tar
            return
        case _:
            raise ValueError("it is no .deb, .ipk or .apk")
    if name.endswith(".zst"):
        with zstd.ZstdFile(io.BytesIO(content)) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            yield tar
    else:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as tar:
            yield tar


def _member_of_ar(file: IO[bytes]) -> tuple[str, bytes]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is no .deb")
    while len(head := file.read(_MEMBER)) == _MEMBER:
        name, size = head[:16].decode("ascii").strip().rstrip("/"), int(head[48:58])
        if not 0 <= size <= _MOST_BYTES:
            break
        if name.startswith("data.tar"):
            return name, file.read(size)
        file.seek(size + size % 2, 1)
    raise ValueError("it has no data.tar")
