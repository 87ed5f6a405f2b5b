"""Owns the release while it is being built: paths in memory, contents spooled to files with names of our own.

No path of a release ever becomes a path of the build machine. Paths are unique, well-formed and consistent; where
links lead is for `check_links`. Replacing a content leaves the spool of the old one to the temporary directory's end.
"""

import filecmp
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.paths import directories, link_problem, parents, path_problem

_PORTION = 1 << 18


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file of the release; `size` in bytes."""

    place: Path
    size: int
    executable: bool

    def equals(self, other: "Spooled") -> bool:
        """Whether the other one has the same content and mode."""
        same = (self.size, self.executable) == (other.size, other.executable)
        return same and filecmp.cmp(self.place, other.place, shallow=False)


class Tree:
    """The files and links of a release by path."""

    def __init__(self, spool: Path) -> None:
        """`spool` is an empty directory that lives as long as the tree."""
        self.files: dict[str, Spooled] = {}
        self.links: dict[str, str] = {}
        self._spool = spool
        self._count = 0

    def place(self) -> Path:
        """A new file name in the spool."""
        self._count += 1
        return self._spool / f"{self._count:06d}"

    def check_path(self, path: str) -> None:
        """Refuse a path that is none, or is taken; errors `archive.{absolute,parent,name,duplicate,reserved}`."""
        hint = "pack the release again, from within its directory"
        if path.startswith("/"):
            raise BundleError("archive.absolute", f"{path[:160]!r} in the archive is an absolute path", hint)
        if ".." in path.split("/"):
            raise BundleError("archive.parent", f"{path[:160]!r} in the archive leads out of it", hint)
        if problem := path_problem(path):
            raise BundleError("archive.name", f"the path {path[:160]!r} in the archive {problem}")
        if path in self.files or path in self.links:
            raise BundleError("archive.duplicate", f"{path} is in the archive twice", hint)
        if path.split("/")[0] == ".beamfleet":
            raise BundleError("archive.reserved", f"{path} is in the archive: .beamfleet is beamfleet's own directory")

    def check_conflicts(self) -> None:
        """Refuse a file or link that other members lie below; error `archive.conflict`."""
        for path in (*self.files, *self.links):
            for parent in parents(path):
                if parent in self.files or parent in self.links:
                    raise BundleError("archive.conflict", f"{path} lies below {parent}, which is not a directory")

    def check_links(self) -> None:
        """Refuse a link that leaves the release or leads nowhere in it; error `archive.link`."""
        folders = self.folders()
        for path in sorted(self.links):
            if problem := link_problem(path, self.links, self.files, folders):
                hint = "links of a release lead to its own files and directories, by relative paths"
                raise BundleError("archive.link", f"the link {path} {problem}", hint)

    def folders(self) -> set[str]:
        """Every directory that holds something."""
        return directories((*self.files, *self.links))

    def below(self, folder: str) -> Iterator[str]:
        """The files somewhere below a directory, sorted."""
        return (path for path in sorted(self.files) if path.startswith(f"{folder}/"))

    def open(self, path: str) -> BufferedReader:
        """The content of a file for reading."""
        return self.files[path].place.open("rb")

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes; error `release.too_large`."""
        if self.files[path].size > limit:
            raise BundleError("release.too_large", f"{path} is larger than {limit} bytes")
        return self.files[path].place.read_bytes()

    def replace(self, path: str, data: bytes, executable: bool | None = None) -> None:
        """Give a path, new or not, another content, and the mode it had unless one is given."""
        before = self.files.get(path)
        place = self.place()
        place.write_bytes(data)
        mode = executable if executable is not None else before is not None and before.executable
        self.files[path] = Spooled(place, len(data), mode)

    def sha256(self, path: str) -> str:
        """64 hex digits."""
        with self.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rebase(self, folder: str) -> None:
        """Make `folder` the root, when everything lies below it."""
        prefix = len(folder) + 1
        self.files = {path[prefix:]: file for path, file in self.files.items()}
        self.links = {path[prefix:]: target for path, target in self.links.items()}
