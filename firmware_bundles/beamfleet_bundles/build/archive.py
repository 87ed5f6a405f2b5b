"""Owns reading what a user gives as a release, a tarball or a directory, member by member into a `Tree`.

Hostile input: never `extractall`, no path of it is ever used on this machine, no link followed. Counts and sizes are
held to `Limits` while reading, before anything is written; the spool is on disk and goes with its directory.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from beamfleet_bundles.build.stream import Plain
from beamfleet_bundles.build.tarball import members
from beamfleet_bundles.build.tree import Spooled, Tree
from beamfleet_bundles.errors import BundleError

_PORTION = 1 << 18
_HINT = "give what rebar3, mix or systools packed, as it left them; if it is that, pack it again"
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


@dataclass(frozen=True, slots=True)
class Limits:
    """What a release may be; sizes in bytes."""

    members: int = 20_000
    member: int = 256 << 20
    total: int = 2 << 30
    ratio: int = 100
    """Most bytes of content for each byte of a compressed archive, once `ratio_from` bytes are out."""
    ratio_from: int = 16 << 20


def read(source: Path, tree: Tree, limits: Limits) -> None:
    """Fill `tree` from a directory or from a `.tar`, `.tar.gz` or `.tar.zst`.

    Links are taken as they are: `Tree.check_links` judges them. Errors: `archive.*`.
    """
    try:
        _read(source, _Intake(tree, limits))
        tree.check_conflicts()
        if not tree.files:
            raise BundleError("archive.empty", "it holds no files")
    except BundleError as error:
        raise BundleError(error.code, f"{source}: {error.message}", error.hint or _HINT) from error


def check_spool(error: OSError) -> None:
    """Raise `archive.spool` if it is the space for temporary files that `error` tells of."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room there, or point TMPDIR elsewhere"
        raise BundleError("archive.spool", f"no space is left in {tempfile.gettempdir()}", hint) from error


def _read(source: Path, intake: "_Intake") -> None:
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            _read_directory(source, intake)
        elif stat.S_ISREG(mode):
            _read_tarball(source, intake)
        else:
            raise BundleError("archive.not_an_archive", "it is neither a file nor a directory")
    except OSError as error:
        check_spool(error)
        where = f"{error.filename}: " if error.filename not in (None, str(source)) else ""
        hint = "check the path, and who may read it"
        raise BundleError("archive.unreadable", f"{where}{error.strerror}", hint) from error


class _Intake:
    """The rules that hold for each member, wherever it comes from."""

    def __init__(self, tree: Tree, limits: Limits) -> None:
        self.tree = tree
        self.limits = limits
        self._members = self._total = 0

    def count(self) -> None:
        self._members += 1
        if self._members > self.limits.members:
            raise BundleError("archive.too_many", f"the release has more than {self.limits.members} members")

    def check_file(self, path: str, mode: int, size: int) -> None:
        """Whatever can be said before its first byte is read."""
        if mode & _SPECIAL_BITS:
            hint = "releases need no setuid, setgid or sticky files: chmod them and pack again"
            raise BundleError("archive.setuid", f"{path} has the mode {mode & 0o7777:04o}", hint)
        if size > self.limits.member:
            raise BundleError("archive.member_too_large", f"{path} is larger than {self.limits.member} bytes")
        self._total += size
        if self._total > self.limits.total:
            raise BundleError("archive.too_large", f"the release is larger than {self.limits.total} bytes")

    def file(self, path: str, mode: int, size: int, read: Callable[[int], bytes]) -> None:
        """The same file once more is no conflict: `mix release` packs what its overlays put into bin/ again."""
        before = self.tree.files.get(path)
        if before is None:
            self.tree.check_path(path)
        self.check_file(path, mode, size)
        place = self.tree.place()
        left = size
        with place.open("wb") as out:
            while left and (piece := read(min(_PORTION, left))):
                left -= len(piece)
                out.write(piece)
        if left:
            raise BundleError("archive.changed", f"{path} became shorter while it was read", "build it again")
        found = Spooled(place, size, bool(mode & 0o100))
        if before is not None and not found.equals(before):
            self.tree.check_path(path)
        self.tree.files[path] = found

    def link(self, path: str, target: str) -> None:
        self.tree.check_path(path)
        self.tree.links[path] = target

    def hard_link(self, path: str, target: str) -> None:
        """A second name of a file that the archive has already brought."""
        self.tree.check_path(path)
        original = self.tree.files.get(target)
        if original is None:
            raise BundleError(
                "archive.hard_link", f"{path} is a hard link to {target[:160]!r}, which is no earlier file"
            )
        self.check_file(path, 0, original.size)
        self.tree.files[path] = original


def _read_tarball(source: Path, intake: _Intake) -> None:
    with Plain(source, intake.limits.ratio, intake.limits.ratio_from) as stream:
        for member, content in members(stream):
            intake.count()
            path = _relative(member.path)
            match member.kind:
                case "directory":
                    if path:
                        intake.tree.check_path(path.rstrip("/") or path)
                case "file":
                    intake.file(path, member.mode, member.size, content.read)
                case "link":
                    intake.link(path, member.target)
                case "hard link":
                    intake.hard_link(path, _relative(member.target))
                case "device" | "fifo":
                    raise _special(path, member.kind)


def _relative(path: str) -> str:
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return "" if path == "." else path


def _special(path: str, kind: str) -> BundleError:
    return BundleError(
        "archive.special", f"{path[:160]!r} is a {kind}", "a release has files, directories and links only"
    )


def _read_directory(source: Path, intake: _Intake) -> None:
    for path, entry in _walk(source, ""):
        intake.count()
        status = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            intake.link(path, str(Path(entry.path).readlink()))
        elif entry.is_file(follow_symlinks=False):
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                intake.file(path, status.st_mode, status.st_size, file.read)
        elif entry.is_dir(follow_symlinks=False):
            intake.tree.check_path(path)
        else:
            raise _special(path, "device, fifo or socket")


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Everything below a directory, parents first; its depth is that of a path, which is checked before going down."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        path = f"{prefix}{entry.name}"
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{path}/")
