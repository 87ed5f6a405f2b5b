"""Owns flashing a whole block device: an image is written to it, or there is a system on it already; then the agent.

All that can be known is known before the first byte is written: the guards of `disks`, and the facts of the system
inside of the image. From the first look to the end the device is open exclusively, so that nobody mounts it meanwhile.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from beamfleet_server.flash import disks, loops, source, writing
from beamfleet_server.flash.errors import FlashError, UnfitError
from beamfleet_server.flash.facts import Problem, TargetFacts
from beamfleet_server.flash.image import ImageTarget
from beamfleet_server.flash.target import Progress

_READ_TABLE = 0x125F
_LOCK_S = 5.0


def state_directory() -> Path:
    """Where it is remembered what has been written to which device."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "beamfleet/flash"


def _silent(_what: str, _done: int, _total: int) -> None:
    return


class BlockTarget:
    """`/dev/sdX`, with an image to write to it or without. `progress` is told of an image that has to be unpacked."""

    def __init__(
        self, path: Path, image: Path | None = None, partition: int | None = None, progress: Progress = _silent
    ) -> None:
        self._path, self._image, self._partition, self._progress = path, image, partition, progress
        self._stack = contextlib.ExitStack()
        self._disk: disks.Disk | None = None
        self._device = -1
        self._source: source.Source | None = None
        self._target: ImageTarget | None = None
        self.written: writing.Written | None = None

    @property
    def name(self) -> str:
        return str(self._path)

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise FlashError("flash.not_permitted", "only root can write to block devices", "sudo beamfleet flash ...")
        with contextlib.ExitStack() as stack:
            self._disk = disks.look(self._path)
            if self._disk.whole and not self._disk.swaps:
                stack.enter_context(_locked(self._disk))
                self._disk = disks.look(self._path)
            if self._image is not None:
                limit = self._disk.size
                self._source = stack.enter_context(source.opened(self._image, limit, self._progress))
            if found := disks.problems(self._disk, self._source.size if self._source else 0):
                raise UnfitError(found)
            self._device = stack.enter_context(disks.exclusive(self._disk))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._target is not None:
                target, self._target = self._target, None
                target.__exit__(kind, error, trace)
            if self._device >= 0 and self.written is not None:
                with contextlib.suppress(OSError):  # no kernel knows partitions of every kind of device
                    fcntl.ioctl(self._device, _READ_TABLE)

    # --- looking

    def facts(self) -> TargetFacts:
        return self._system().facts()

    def problems(self) -> Sequence[Problem]:
        return self._system().problems()

    def intentions(self) -> Sequence[str]:
        if self._source is None:
            return [f"leave what is on {self._disk}", *self._system().intentions()]
        what = f"{self._image} ({disks.show_size(self._source.size)})"
        return [f"write {what} over everything on {self._disk}; verify it", *self._system().intentions()]

    # --- acting

    def prepare(self, progress: Progress) -> None:
        if self._source is not None and self._disk is not None and self.written is None:
            if disks.look(self._path) != self._disk:
                raise FlashError(
                    "flash.device_changed", f"{self._path} is another device than it was", "look at the plan again"
                )
            self._close_target()
            key = hashlib.sha256(f"{self._disk.identity}|{self._source.identity}".encode()).hexdigest()[:16]
            memory = writing.Memory(
                state_directory() / f"{key}.json", self._source.identity, self._disk.identity, self._source.size
            )
            self.written = writing.write(self._source, self._device, self.name, memory, progress)
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
        self._acting()
        return "it starts when a device boots from it"

    def remove(self, wipe: bool) -> list[str]:
        return self._acting().remove(wipe)

    # --- the system on it

    def _system(self) -> ImageTarget:
        """What is on the device, or will be."""
        if self._target is None:
            if self._source is not None and self.written is None:
                place, held, name = self._source.path, self._source.descriptor, str(self._image)
            else:
                place, held, name = self._path, self._device, self.name
            target = ImageTarget(place, self._partition, held, name)
            target.__enter__()
            self._target = target
        return self._target

    def _acting(self) -> ImageTarget:
        if self._source is not None and self.written is None:
            raise FlashError("flash.device_changed", f"{self._path} has no system yet", "write the image first")
        return self._system()

    def _close_target(self) -> None:
        target, self._target = self._target, None
        if target is not None:
            target.__exit__(None, None, None)


@contextlib.contextmanager
def _locked(disk: disks.Disk) -> Iterator[None]:
    """No other flash works on the device, nor is anything of a killed one left; udev keeps away, as it promises."""
    try:
        node = os.open(disk.path, os.O_RDONLY)
    except OSError as error:
        raise FlashError(
            "flash.block_device", f"{disk.path} cannot be opened: {error.strerror}", "is a card in the reader?"
        ) from None
    try:
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(node, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise FlashError(
                        "flash.device_busy", f"another program has locked {disk.path}", "wait until it has ended"
                    ) from None
                time.sleep(0.1)
        loops.clear(node, str(disk.path))
        yield
    finally:
        os.close(node)
