"""Owns flashing a disk image: finds the partition with the system, mounts it, and has `RootTarget` do the rest.

While it only looks, the image is read-only down to the loop device: not a byte changes, whatever is in it. The first
step that acts mounts it for writing, by which an ext4 replays its journal. An image is flashed by one at a time. Also
serves for a block device that `block` holds.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from beamfleet_bundles.filesystem import why_unsafe

from beamfleet_server.flash import loops, mounting, partitions, source
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import Filesystem, Problem, TargetFacts
from beamfleet_server.flash.partitions import HEAD_BYTES, MOUNTABLE, Partition
from beamfleet_server.flash.root import RootTarget
from beamfleet_server.flash.target import Progress

_TOOL = "sfdisk"
_TOOL_S = 30
_SECTOR = 512
_NO_TABLE = "does not contain a recognized partition table"


class ImageTarget:
    """One partition of a raw image. With `held`, a descriptor, it is of a block device or unpacked image that the
    caller has opened and keeps to itself."""

    def __init__(self, path: Path, partition: int | None = None, held: int | None = None, name: str = "") -> None:
        self._path, self._wanted, self._held = path, partition, held
        self._shown = name or str(path)
        self._file = -1
        self._read_only = False
        self._head = b""
        self._kind = ""
        self._partition = Partition(0, 0, 0)
        self._stack = contextlib.ExitStack()
        self._mount: contextlib.ExitStack | None = None
        self._root: RootTarget | None = None
        self._writing = False

    @property
    def name(self) -> str:
        return f"{self._shown}:{self._partition.number}" if self._partition.number else self._shown

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(self._opened()) if self._held is None else self._held
            if self._held is None:
                loops.refuse_others(self._file, self._shown)
                loops.clear(self._file, self._shown)
            stack.enter_context(mounting.own_namespace())
            self._choose()
            stack.callback(self._release)
            self._look()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._root is not None and self._writing:
                self._root.__exit__(kind, error, trace)
            self._release()
            if self._writing:
                os.fsync(self._file)

    # --- looking

    def facts(self) -> TargetFacts:
        facts = self._inside().facts()
        filesystem = facts.filesystem
        if self._kind == "ext4":
            journal = partitions.has_journal(self._head)
            kind = "ext4" if journal else "ext2"
            filesystem = Filesystem(kind, why_unsafe(kind, journal))
        return dataclasses.replace(facts, read_only=self._read_only, filesystem=filesystem)

    def problems(self) -> Sequence[Problem]:
        found = list(self._inside().problems())
        if partitions.is_damaged(self._head):
            found.append(
                Problem(
                    "flash.damaged",
                    f"the file system of {self.name} knows of errors in itself",
                    "repair it with e2fsck, or take a fresh image",
                )
            )
        return found

    def intentions(self) -> Sequence[str]:
        lines = [f"mount {self._partition} of {self._shown} ({self._kind}) where nobody else sees it"]
        if partitions.needs_recovery(self._head):
            lines.append("replay the journal of its file system, which was not unmounted")
        return [*lines, *self._inside().intentions()]

    # --- acting

    def prepare(self, progress: Progress) -> None:
        self._acting().prepare(progress)

    def install(self, package: Path) -> None:
        self._acting().install(package)

    def set_up(self, words: Mapping[str, Any]) -> dict[str, Any]:
        return self._acting().set_up(words)

    def provision(self, words: Mapping[str, Any]) -> None:
        self._acting().provision(words)

    def seed(self, bundle: Path) -> None:
        self._acting().seed(bundle)

    def start(self) -> str:
        return self._acting().start()

    def remove(self, wipe: bool) -> list[str]:
        return self._acting().remove(wipe)

    # --- the file

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The image for this process alone; read-only where it cannot be written."""
        if os.geteuid() != 0:
            raise FlashError("flash.not_permitted", "only root can mount an image", "sudo beamfleet flash ...")
        try:
            try:
                file = self._path.open("r+b", buffering=0)
            except PermissionError:
                file, self._read_only = self._path.open("rb", buffering=0), True
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                file, self._read_only = self._path.open("rb", buffering=0), True
        except OSError as error:
            raise FlashError(
                "flash.image", f"{self._path} cannot be opened: {error.strerror}", "give the file of a raw disk image"
            ) from None
        with file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FlashError(
                    "flash.image",
                    f"{self._path} is no file",
                    "a card or disk is flashed by --device, a directory by --root",
                )
            if kind := source.compression_of(file):
                raise FlashError(
                    "flash.compressed",
                    f"{self._path} is compressed ({kind}) and cannot be changed in place",
                    "unpack it first; --device writes it as it is",
                )
            with source.locked(self._path, fcntl.LOCK_EX):
                yield file.fileno()

    # --- the partition

    def _choose(self) -> None:
        size = os.lseek(self._file, 0, os.SEEK_END)
        found = self._table(size) if size >= _SECTOR else ()
        if not found and self._held is None and not partitions.filesystem_of(self._head_of(Partition(0, 0, size))):
            raise FlashError(
                "flash.image",
                f"{self._shown} is no disk image: it has neither a partition table nor a file system that we know",
                "give a raw image, unpacked",
            )
        table = found or (Partition(0, 0, size),)
        kinds = {part: partitions.filesystem_of(self._head_of(part)) for part in table}
        wanted = 0 if self._wanted is None and not table[0].number else self._wanted
        roots = [part for part, kind in kinds.items() if kind in MOUNTABLE] if wanted is None else []
        if len(roots) > 1:
            roots = [part for part in roots if self._is_root(part, kinds[part])]
        self._partition = partitions.choose(roots, wanted, kinds, self._shown)
        self._head, self._kind = self._head_of(self._partition), kinds[self._partition]
        if self._kind not in MOUNTABLE:
            raise FlashError(
                "flash.partition",
                f"{self.name} holds {self._kind or 'no file system that we know'}",
                f"a root that can be written is one of: {', '.join(sorted(MOUNTABLE))}",
            )

    def _table(self, size: int) -> tuple[Partition, ...]:
        """() where there is no table at all."""
        place = shutil.which(_TOOL, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if place is None:
            raise FlashError("flash.tool", f"there is no {_TOOL} here", "Debian's package fdisk has it")
        try:
            done = subprocess.run(
                [place, "--json", f"/proc/self/fd/{self._file}"], pass_fds=(self._file,), stdin=subprocess.DEVNULL,
                env={"LC_ALL": "C"}, capture_output=True, text=True, errors="replace", timeout=_TOOL_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise FlashError(
                "flash.partition_table", f"{_TOOL} does not end with {self._shown}", "make it anew"
            ) from None
        if done.returncode != 0 and _NO_TABLE in done.stderr:
            return ()
        return partitions.read_table(done.stdout, size)

    def _head_of(self, part: Partition) -> bytes:
        return os.pread(self._file, min(HEAD_BYTES, part.size), part.start)

    def _is_root(self, part: Partition, kind: str) -> bool:
        try:
            with (
                loops.attached(self._file, part.start, part.size, writable=False) as node,
                mounting.mounted(node, kind, writable=False) as place,
            ):
                return all((place / name).is_dir() for name in ("etc", "usr"))
        except FlashError:
            return False

    # --- the mount

    def _look(self) -> None:
        self._enter(writable=False)

    def _inside(self) -> RootTarget:
        if self._root is None:
            raise RuntimeError("it is not open")
        return self._root

    def _acting(self) -> RootTarget:
        """The root, mounted for writing from here on."""
        if not self._writing:
            self._release()
            self._enter(writable=True)
            self._writing = True
            self._inside().__enter__()
        return self._inside()

    def _enter(self, *, writable: bool) -> None:
        part = self._partition
        with contextlib.ExitStack() as stack:
            node = stack.enter_context(loops.attached(self._file, part.start, part.size, writable=writable))
            place = stack.enter_context(mounting.mounted(node, self._kind, writable=writable))
            self._root = RootTarget(place, self.name)
            self._mount = stack.pop_all()

    def _release(self) -> None:
        mount, self._mount, self._root = self._mount, None, None
        if mount is not None:
            mount.close()
