"""Reads what processes cost from /proc, from outside: memory, threads, wake-ups, processor time. Starts nothing.

A look at /proc wakes nobody who is looked at. Sizes are bytes, MB is 10**6 bytes; a wake-up is a voluntary context
switch, summed over all threads, also those that came or went in the window.
"""

import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MB = 1_000_000
SAMPLE_EVERY_S = 5.0
ESTABLISHED = "01"


class MeasureError(Exception):
    """A process could not be measured the way the benchmark promises; the text says why."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process cost over a window: medians of the samples, wake-ups per minute."""

    rss_mb: float
    uss_mb: float
    threads: int
    wakeups_per_min: float


class Watch:
    """Collects the samples of one process."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self._rss, self._uss, self._threads = list[int](), list[int](), list[int]()
        self._switches = _switches(pid)
        self._wakeups = 0

    def sample(self) -> None:
        """Take one sample. MeasureError when the process is gone."""
        try:
            status = _kilobytes(self.pid, "status")
            rollup = _kilobytes(self.pid, "smaps_rollup")
            switches = _switches(self.pid)
        except OSError as error:
            raise MeasureError(f"{self.name} (pid {self.pid}) ended in the window") from error
        self._rss.append(status["VmRSS"])
        self._uss.append(rollup["Private_Clean"] + rollup["Private_Dirty"])
        self._threads.append(len(switches))
        self._wakeups += sum(count - self._switches.get(thread, 0) for thread, count in switches.items())
        self._switches = switches

    def cost(self, seconds: float) -> Cost:
        """The figures of a window of `seconds`."""
        return Cost(
            rss_mb=statistics.median(self._rss) / MB,
            uss_mb=statistics.median(self._uss) / MB,
            threads=round(statistics.median(self._threads)),
            wakeups_per_min=self._wakeups * 60 / seconds,
        )


def observe(processes: Iterable[tuple[str, int]], seconds: float) -> dict[str, Cost]:
    """Watch (name, pid) pairs side by side for `seconds`; their costs by name."""
    began = time.monotonic()
    watches = [Watch(name, pid) for name, pid in processes]
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(SAMPLE_EVERY_S, left))
        for watch in watches:
            watch.sample()
    passed = time.monotonic() - began
    return {watch.name: watch.cost(passed) for watch in watches}


class PeakOfDescendants:
    """While entered, follows all descendants of a process; afterwards `peak_mb` is the largest VmHWM seen, or None."""

    def __init__(self, pid: int, every_s: float = 0.005) -> None:
        self._pid, self._every_s = pid, every_s
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="descendants")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak_mb(self) -> float | None:
        """The high-water mark of resident memory of the largest one."""
        return self._peak / MB if self._peak else None

    def _follow(self) -> None:
        while not self._done.wait(self._every_s):
            for pid in descendants(self._pid):
                try:
                    self._peak = max(self._peak, _kilobytes(pid, "status").get("VmHWM", 0))
                except OSError:
                    continue


def descendants(pid: int) -> Iterator[int]:
    """The children of a process, their children, and so on, as far as they live now."""
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        found = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return
    for child in found:
        yield child
        yield from descendants(child)


def processor_s(pid: int) -> float:
    """Processor time of a process so far, with all the threads that it ever had, in seconds: the kernel's own clock of
    it (`clock_getcpuclockid`), which misses nothing that is shorter than a tick."""
    return time.clock_gettime(~pid << 3 | 2)


def established(pid: int, port: int) -> list[str]:
    """The inodes of the process's TCP connections to `port`, which is somebody's listener."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(descriptor.readlink()))
        except OSError:
            continue
    tables = (Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6"))
    rows = [row for table in tables if table.exists() for row in table.read_text().splitlines()]
    wanted = f":{port:04X}"
    inodes = [words[9] for row in rows if (words := row.split())[2].endswith(wanted) and words[3] == ESTABLISHED]
    return [inode for inode in inodes if f"socket:[{inode}]" in sockets]


def _text(path: str) -> str:
    return Path(path).read_text()


def _kilobytes(pid: int, name: str) -> dict[str, int]:
    """The `Key: N kB` lines of a file of /proc/PID, in bytes."""
    lines = (line.split() for line in _text(f"/proc/{pid}/{name}").splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}


def _switches(pid: int) -> dict[str, int]:
    """Voluntary context switches since the start, by thread."""
    counts = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (thread / "status").read_text()
        except OSError:
            continue
        counts[thread.name] = int(text.partition("\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])
    return counts
