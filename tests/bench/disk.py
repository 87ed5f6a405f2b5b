"""A device's directory on a disk of its own, so that everything that is written to it can be counted.

The disk is ext4 on a loop device, and `var/run` is in memory, as /run is on a device. Counted are the sectors that the
disk was given, what the kernel charges to the processes, and the files that changed.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash import volume
from tests.crash.volume import Kind

SECTOR = 512
DISK = Kind("ext4", 256 << 20, ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"), "nodiscard")
MEMORY = "var/run"
OWNED_BY_THE_RELEASE = "var/lib/beamfleet/apps/main/data"


@dataclass(frozen=True, slots=True)
class Written:
    """What reached a disk: bytes that it was given, bytes charged to processes, files that changed."""

    disk: int
    processes: int
    files: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The larger count."""
        return max(self.disk, self.processes)


class Disk:
    """The disk under a device's directory `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        device = root.stat().st_dev
        self._stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        self._pids: tuple[int, ...] = ()
        self._before = (0, 0, dict[str, int]())

    def begin(self, pids: Iterable[int]) -> None:
        """Count from here on; `pids` are the device's processes. Looking at directories notes in them that somebody
        looked, so that comes before the counting."""
        self._pids = tuple(pids)
        files = dict(self._changes())
        self._before = (*self._counts(), files)

    def written(self) -> Written:
        """What was written since then."""
        sectors, charged = self._counts()
        files = dict(self._changes())
        before_sectors, before_charged, before = self._before
        changed = sorted(name for name, when in files.items() if before.get(name) != when)
        gone = sorted(before.keys() - files.keys())
        return Written((sectors - before_sectors) * SECTOR, charged - before_charged, (*changed, *gone))

    def _counts(self) -> tuple[int, int]:
        """Sectors that the disk was given, bytes that were charged."""
        os.sync()
        return int(self._stat.read_text().split()[6]), sum(_charged(pid) for pid in self._pids)

    def _changes(self) -> Iterator[tuple[str, int]]:
        for folder, folders, files in os.walk(self._root):
            here = os.path.relpath(folder, self._root)
            folders[:] = [name for name in folders if os.path.normpath(f"{here}/{name}") not in _NOT_OURS]
            for name in [".", *files]:
                with contextlib.suppress(FileNotFoundError):
                    yield f"{here}/{name}", os.lstat(Path(folder, name)).st_mtime_ns


_NOT_OURS = (MEMORY, OWNED_BY_THE_RELEASE)


def _charged(pid: int) -> int:
    """`write_bytes` of a process: what it caused to be sent to disks."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("write_bytes:"))


@contextlib.contextmanager
def own_disk(root: Path, image: Path) -> Iterator[Disk]:
    """A new disk, mounted at `root`. Error: OSError where nothing can be mounted."""
    root.mkdir(parents=True)
    volume.make(DISK, image)
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(volume.loop(image, direct=False))
        stack.enter_context(volume.mounted(device, root, DISK))
        memory = root / MEMORY
        memory.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "beamfleet-bench", str(memory)], capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(done.stderr.strip())
        stack.callback(volume.unmount, memory)
        yield Disk(root)
