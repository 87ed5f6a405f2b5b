"""Owns slots/ and staging/: writes a slot file by file from its manifest, verifies it, removes what nobody needs.

Only the worker uses this. A slot is a directory named by the first 32 hex digits of its manifest's hash. It comes to be
under staging/, is synced as a whole, and is renamed into slots/ when every byte of it is durable, so a slot that has
its name is whole. It holds what the manifest names and, as `.beamfleet/manifest.json`, the manifest itself. Never
touches `current` or boot/; never removes a slot that it is told to keep.
"""

import ctypes
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from beamfleet_bundles import durable
from beamfleet_bundles import manifest as manifests
from beamfleet_bundles.errors import BeamfleetError
from beamfleet_bundles.manifest import FileEntry, LinkEntry, Manifest
from beamfleet_bundles.paths import directories

from beamfleet_agent.errors import AgentError

MANIFEST = ".beamfleet/manifest.json"
MARGIN_BYTES = 4 << 20
"""Room that is left for journal, boot/state and the application's data."""
MARGIN_INODES = 64
_PIECE = 1 << 20


class Slots:
    """The slots of one application. One process at a time may write: see `lock`."""

    def __init__(self, slots: str, staging: str) -> None:
        self._slots, self._staging = Path(slots), Path(staging)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold staging/ alone and leave it empty. Error: `slot.busy` when another worker holds it."""
        self._staging.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AgentError("slot.busy", "another worker writes slots now", "wait until it has ended") from None
            self._clean()
            durable.sync_directory(self._slots)  # an earlier worker may have died between a name and its sync
            try:
                yield
            finally:
                self._clean()
        finally:
            os.close(descriptor)

    def path(self, slot: str) -> Path:
        """Where a slot lies."""
        return self._slots / slot

    def make_room(self, manifest: Manifest, keep: Iterable[str]) -> None:
        """Remove slots other than `keep`, and see that the manifest's slot fits. Error: `slot.no_space`."""
        kept = set(keep)
        for path in sorted(self._slots.iterdir()):
            if path.name not in kept:
                self._discard(path)
        durable.sync_directory(self._slots)
        disk = os.statvfs(self._slots)
        folders = directories(entry.path for entry in manifest.entries)
        needed = sum(_round_up(entry.size, disk.f_frsize) for entry in manifest.files)
        needed += len(folders) * disk.f_frsize + _round_up(len(manifest.encode()), disk.f_frsize) + MARGIN_BYTES
        inodes = len(manifest.entries) + len(folders) + MARGIN_INODES
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            text = f"the slot needs {_mib(needed)} MiB, the disk has {_mib(free)} MiB"
            raise AgentError("slot.no_space", text, f"make room on the filesystem of {self._slots}")
        if disk.f_files and disk.f_favail < inodes:
            text = f"the slot needs {inodes} inodes, the disk has {disk.f_favail}"
            raise AgentError("slot.no_space", text, f"remove files from the filesystem of {self._slots}")

    def write(
        self, manifest: Manifest, pieces: Iterable[tuple[FileEntry, bytes]], progress: Callable[[int], None]
    ) -> None:
        """Write everything under staging/; each file's content must have its hash. Error: `slot.altered`.

        `pieces` come in the order of the manifest; `progress` hears the bytes written so far. Also: `slot.reserved`.
        """
        if any(f"{entry.path}/".startswith(f"{MANIFEST}/") for entry in manifest.entries):
            raise AgentError("slot.reserved", f"the release has a file {MANIFEST}", "leave it out of the release")
        slot = self._staging / manifest.id
        slot.mkdir(mode=0o755)
        for folder in sorted(directories(entry.path for entry in manifest.entries) | {".beamfleet"}):
            (slot / folder).mkdir(mode=0o755, exist_ok=True)
        done = 0
        for entry, content in _grouped(pieces):
            digest, size = hashlib.sha256(), 0
            with _create(slot / entry.path) as file:
                for piece in content:
                    digest.update(piece)
                    size += len(piece)
                    file.write(piece)
                    progress(done + size)
                os.fchmod(file.fileno(), int(entry.mode, 8) & 0o555)
            if size != entry.size or digest.hexdigest() != entry.sha256:
                hint = "copy it again; if that does not help, publish or build the bundle again"
                raise AgentError("slot.altered", f"{entry.path} is not the file that was signed", hint)
            done += size
        for link in (entry for entry in manifest.entries if isinstance(entry, LinkEntry)):
            (slot / link.path).symlink_to(link.target)
        with _create(slot / MANIFEST) as file:
            file.write(manifest.encode())
            os.fchmod(file.fileno(), 0o444)

    def publish(self, slot: str) -> None:
        """Make the slot in staging/ durable and give it its name. A damaged one of that name is replaced."""
        made, final = self._staging / slot, self._slots / slot
        for folder, _, _ in os.walk(made):
            if folder != str(made):
                os.chmod(folder, 0o555)  # noqa: S103 - the application's user reads it
        sync_filesystem(made)
        if final.exists():
            self._discard(final)
        made.rename(final)
        final.chmod(0o555)  # only now: moving a directory needs the right to write in it
        durable.sync_directory(self._slots)

    def verify(self, slot: str) -> Manifest:
        """The manifest of a slot whose every file is as signed. Errors: `slot.missing`, `slot.damaged`."""
        path = self._slots / slot
        if not path.is_dir():
            raise AgentError("slot.missing", f"there is no slot {slot}")
        try:
            manifest = manifests.decode((path / MANIFEST).read_bytes())
        except (OSError, BeamfleetError) as error:
            raise _damaged(slot, f"its manifest cannot be read: {error}") from error
        if manifest.id != slot:
            raise _damaged(slot, "its manifest is another's")
        expected = {entry.path: entry for entry in manifest.entries}
        folders = directories([*expected, MANIFEST])
        seen = 0
        for name, found in _tree(path):
            entry = expected.get(name)
            if isinstance(entry, FileEntry) and stat.S_ISREG(found.st_mode):
                if bool(found.st_mode & 0o111) != (entry.mode == "0755") or _hash(path / name) != entry.sha256:
                    raise _damaged(slot, f"{name} is not as it was signed")
            elif isinstance(entry, LinkEntry) and stat.S_ISLNK(found.st_mode):
                if os.readlink(path / name) != entry.target:
                    raise _damaged(slot, f"the link {name} leads elsewhere")
            elif not (stat.S_ISDIR(found.st_mode) and name in folders) and name != MANIFEST:
                raise _damaged(slot, f"{name} does not belong there")
            seen += entry is not None
        if seen != len(expected):
            raise _damaged(slot, f"{len(expected) - seen} files are missing")
        return manifest

    def _discard(self, path: Path) -> None:
        """Take the name away before the content: what has its name is whole, also when this is cut short."""
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)  # moving a directory needs the right to write in it
        discarded = self._staging / f"{path.name}.old"
        path.rename(discarded)
        remove(discarded)

    def _clean(self) -> None:
        for path in self._staging.iterdir():
            remove(path)


def present(slots: str) -> frozenset[str]:
    """The names of the slots that are there."""
    return frozenset(path.name for path in Path(slots).iterdir() if len(path.name) == 32)


def remove(path: Path) -> None:
    """Remove a slot, read-only as it is."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)


def sync_filesystem(path: Path) -> None:
    """One barrier for everything that was written to the filesystem of `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(descriptor)


def _grouped(pieces: Iterable[tuple[FileEntry, bytes]]) -> Iterator[tuple[FileEntry, Iterator[bytes]]]:
    """The pieces, by file, without holding more than one."""
    source = iter(pieces)
    ahead = next(source, None)

    def content(entry: FileEntry) -> Iterator[bytes]:
        nonlocal ahead
        while ahead is not None and ahead[0] is entry:
            piece = ahead[1]
            ahead = next(source, None)
            yield piece

    while ahead is not None:
        yield ahead[0], content(ahead[0])


def _create(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb")


def _tree(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            yield os.path.relpath(path, root), os.lstat(path)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _damaged(slot: str, what: str) -> AgentError:
    return AgentError("slot.damaged", f"slot {slot} is damaged: {what}", "the device cannot go back to it safely")


def _round_up(size: int, block: int) -> int:
    return -(-size // block) * block


def _mib(size: int) -> int:
    return -(-size >> 20)
