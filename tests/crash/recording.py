"""Owns the recording of a subject: lays a device down on a fresh file system, then has the subject work on it.

The device's `var/lib/beamfleet` is the disk that is recorded (disk.py); the rest of it lies in memory, as /run does.
Whoever calls this has a mount and a pid name space of its own.
"""

import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash import disk, images, volume
from tests.crash.device import VAR
from tests.crash.disk import Entry
from tests.crash.invariants import Witness
from tests.crash.states import Content
from tests.crash.subjects import Subject
from tests.crash.volume import Kind


class Noise:
    """Somebody else who writes a file of his own on the same file system and fsyncs it."""

    def __init__(self, path: Path) -> None:
        self._descriptor, self._count = os.open(path, os.O_WRONLY), 0

    def __call__(self) -> None:
        self._count += 1
        os.pwrite(self._descriptor, str(self._count).encode(), 0)
        os.fsync(self._descriptor)


class Recording:
    """One recording in the empty `room`. `device` is where the device lies, `volume` where its disk is mounted."""

    def __init__(self, room: Path, kind: Kind, template: Path) -> None:
        self._room, self._kind, self._template = room, kind, template
        self.device = room / "device"
        self.volume = self.device / VAR
        self._image = room / "image"

    def lay_down(self) -> Content:
        """The device as the template is; what is then on its disk."""
        volume.make(self._kind, self._image)
        shutil.copytree(self._template, self.device, symlinks=True, ignore=self._ignored)
        self.volume.mkdir(parents=True)
        with volume.loop(self._image, direct=False) as loop, volume.mounted(loop, self.volume, self._kind):
            shutil.copytree(self._template / VAR, self.volume, symlinks=True, dirs_exist_ok=True)
            (self.volume / "noise").write_bytes(b"\0")
        return images.contents(self._image)

    def record(self, subject: Subject, *, noise: bool) -> list[Entry]:
        """What happened to the disk while the subject worked. Error: RuntimeError when it did not succeed."""
        with self._served() as mountpoint:
            marks = os.open(mountpoint / disk.MARKS, os.O_WRONLY)
            with (
                volume.loop(mountpoint / disk.DISK, direct=True) as loop,
                volume.mounted(loop, self.volume, self._kind),
            ):
                _wait_for(self._begin(subject, marks, noise))
            os.close(marks)
        return list(disk.read(self._room / "log"))

    def forget_what_ran(self) -> None:
        """What lay in memory is as it is after a start of the machine."""
        run = self.device / "var/run"
        shutil.rmtree(run)
        shutil.copytree(self._template / "var/run", run, ignore=shutil.ignore_patterns("doorbell"))

    @contextmanager
    def _served(self) -> Iterator[Path]:
        mountpoint = self._room / "disk"
        mountpoint.mkdir()
        places = [str(mountpoint), str(self._image), str(self._room / "log")]
        server = subprocess.Popen([sys.executable, "-P", "-B", "-m", disk.__name__, *places], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline(), "the disk cannot be served"
        try:
            yield mountpoint
        finally:
            volume.unmount(mountpoint)
            server.wait()
            server.stdout.close()

    def _begin(self, subject: Subject, marks: int, noise: bool) -> int:
        """The pid of a child that does it: the tracer waits for all of its own, and the disk's server never ends."""
        child = os.fork()
        if child:
            return child
        try:
            witness = Witness(_speaker(marks))
            subject.run(self.device, witness, Noise(self.volume / "noise") if noise else lambda: None)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child of a fork must end here
            traceback.print_exc()
            os._exit(1)

    def _ignored(self, folder: str, names: list[str]) -> list[str]:
        its_disk = self._template / VAR
        return [name for name in names if name == "doorbell" or Path(folder, name) == its_disk]


def _speaker(marks: int) -> Callable[[str], None]:
    def say(line: str) -> None:
        data = line.encode()
        assert os.write(marks, data) == len(data), "a mark is too long"

    return say


def _wait_for(child: int) -> None:
    """As the first process of the name space we get everybody's orphans."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            if status:
                raise RuntimeError(f"the recording ended with {os.waitstatus_to_exitcode(status)}")
            return
