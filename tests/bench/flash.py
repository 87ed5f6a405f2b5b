"""How fast an image gets onto a block device, against `dd bs=4M conv=fsync` of the same bytes to the same device.

The device is a loop device over a file that is all there already; the image is 4 GB of random bytes in the page cache,
so that what is measured is the writing. Each time ends when everything is flushed. What beamfleet does beyond that,
remembering where it is while it writes and reading all of it back past the cache, is in its time and printed beside it.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from beamfleet_server.flash import disks, loops, source, writing

from tests.bench.result import as_json, machine

GIGABYTES = 4.0
CHUNK = 4 << 20
LIMIT_S = 600
DEFINITIONS = """
speed    bytes of the image by the seconds until the device has flushed them
ratio    the median speed of beamfleet by that of dd in the same run
verify   the speed of reading all of it back and comparing it, which dd does not do
"""


class Bench:
    """An image, and a device to write it to by turns."""

    def __init__(self, room: Path, size: int) -> None:
        self._image, self._disk, self._state = room / "image", room / "disk", room / "state"
        self._size = size
        for path in (self._image, self._disk):
            with path.open("wb") as file:
                for offset in range(0, size, CHUNK):
                    file.write(os.urandom(min(CHUNK, size - offset)))
                file.flush()
                os.fsync(file.fileno())

    def run(self, rounds: int) -> tuple[list[float], list[writing.Written]]:
        """Seconds of dd, and what beamfleet did."""
        plain, ours = [], []
        with self._disk.open("r+b") as backing, loops.attached(backing.fileno(), 0, self._size, writable=True) as node:
            for turn in range(rounds):
                self._ready(node)
                if turn % 2:
                    ours.append(self._ours(node))
                    self._ready(node)
                    plain.append(self._dd(node))
                else:
                    plain.append(self._dd(node))
                    self._ready(node)
                    ours.append(self._ours(node))
                print(f"round {turn + 1}: dd {plain[-1]:.2f} s, beamfleet {ours[-1].writing_s:.2f} s", file=sys.stderr)
        return plain, ours

    def _ready(self, node: Path) -> None:
        """Nothing is left to be flushed, nothing of the device is remembered, as of a card that was just put in, and
        the image is in the page cache."""
        os.sync()
        subprocess.run(["blockdev", "--flushbufs", node], check=True, timeout=LIMIT_S)
        with self._image.open("rb", buffering=0) as file:
            while file.read(CHUNK):
                pass

    def _dd(self, node: Path) -> float:
        began = time.monotonic()
        command = ["dd", f"if={self._image}", f"of={node}", "bs=4M", "conv=fsync", "status=none"]
        subprocess.run(command, check=True, timeout=LIMIT_S)
        return time.monotonic() - began

    def _ours(self, node: Path) -> writing.Written:
        disk = disks.look(node)
        with (
            source.opened(self._image, disk.size, lambda *_: None) as image,
            disks.exclusive(disk) as device,
        ):
            memory = writing.Memory(self._state, image.identity, disk.identity, image.size)
            return writing.write(image, device, disk.name, memory, lambda *_: None)


def main() -> int:
    """0 when everything was measured, 1 when not, 2 on wrong usage, 130 and 143 when ended by a signal."""
    parser = argparse.ArgumentParser(prog="./dev bench flash", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="writes of each kind (default 3, at least 3)")
    parser.add_argument("--gigabytes", type=float, default=GIGABYTES, help="size of the image (default 4)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds: a median wants at least three")
    if os.geteuid() != 0:
        print("error: only root can attach a loop device", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    size = int(options.gigabytes * 1e9) // 512 * 512
    with tempfile.TemporaryDirectory(prefix="beamfleet-bench-", dir="/var/tmp") as work:
        try:
            plain, ours = Bench(Path(work), size).run(options.rounds)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    seconds = [one.writing_s for one in ours]
    dd, beamfleet = statistics.median(plain), statistics.median(seconds)
    print(f"\n{size} bytes, {options.rounds} rounds on {machine()}\n")
    print(f"{'':12}{'median s':>10}{'least':>9}{'most':>9}{'MB/s':>8}{'ratio':>8}")
    print(
        f"{'beamfleet':12}{beamfleet:10.2f}{min(seconds):9.2f}{max(seconds):9.2f}{size / 1e6 / beamfleet:8.0f}", end=""
    )
    print(f"{dd / beamfleet:8.2f}")
    print(f"{'dd':12}{dd:10.2f}{min(plain):9.2f}{max(plain):9.2f}{size / 1e6 / dd:8.0f}{1:8.2f}")
    verifying = statistics.median(one.verifying_s for one in ours)
    print(f"{'verify':12}{verifying:10.2f}{'':18}{size / 1e6 / verifying:8.0f}\n{DEFINITIONS}")
    if options.json:
        print(as_json("flash", {"write_ratio_dd": dd / beamfleet}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
