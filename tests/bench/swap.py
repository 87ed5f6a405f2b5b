"""`./dev bench swap`: how long a service does not answer while its release is swapped, beside a plain restart by hand.

    sensor_gateway 1.0.0 and 1.1.0 in the slots of one device -> each round, in turns: the launcher is asked to swap;
    the same two VMs, with the command lines and environments that the launcher gave them, stopped and started by hand

Downtime is from the last answer of the old release to the first of the new one, over HTTP on loopback.
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.bench.processes import MeasureError
from tests.bench.result import as_json, machine
from tests.support import release_slots
from tests.support.examples import ExampleError
from tests.support.fleet import FleetError, wait_for
from tests.support.launcher_device import NEW, OLD, LauncherDevice
from tests.support.release_slots import Releases

VERSIONS = {OLD: "1.0.0", NEW: "1.1.0"}
EVERY_S = 0.002
LIMIT_S = 60
DEFINITIONS = """
Medians of the rounds; the ratio is ours / by hand, from this run. By hand: SIGTERM to the VM, wait for its end, start
the other one at once, with heart as well. What the launcher adds after the old VM's end: the end of what that left
behind, a note of how it ended, and the shells that become the new one; state and link are written while it ends."""


@dataclass(frozen=True, slots=True)
class Start:
    """How the launcher started a VM: its command line and its environment."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def of(cls, pid: int) -> Self:
        """The start of a running process."""
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        pairs = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
        environment = dict(pair.decode().partition("=")[::2] for pair in pairs)
        executable = str(Path(f"/proc/{pid}/exe").readlink())
        return cls((executable, *(word.decode() for word in words[1:])), environment)


class Listener:
    """Asks a service again and again, and remembers when each version answered first and last, in seconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def hears(self, version: str) -> None:
        """Until this version answers. Error: FleetError."""
        wait_for(f"{version} to answer", lambda: version in self.first, deadline_s=LIMIT_S, every_s=0.01)

    def _listen(self) -> None:
        while not self._over.wait(EVERY_S):
            if version := self._version():
                now = time.perf_counter()
                self.first.setdefault(version, now)
                self.last[version] = now

    def _version(self) -> str:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                answer = connection.makefile("rb").read()
            return str(json.loads(answer.partition(b"\r\n\r\n")[2])["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


class Bench:
    """One device below `work`, and `rounds` swaps of each kind."""

    def __init__(self, work: Path, rounds: int) -> None:
        self._device = LauncherDevice(work / "device", {"trial_deadline_s": 2 * LIMIT_S})
        self._rounds, self._attempt = rounds, 1
        releases = Releases(work / "releases")
        for slot, version in VERSIONS.items():
            release_slots.lay(releases.slot("sensor_gateway", version), self._device.slot(slot))
        self._starts: dict[str, Start] = {}

    def run(self) -> tuple[list[float], list[float]]:
        """Seconds of downtime by the launcher, and by hand."""
        by_launcher: list[float] = []
        by_hand: list[float] = []
        self._learn()
        kinds: Sequence[tuple[list[float], Callable[[str, str], float]]] = (
            (by_launcher, self._by_launcher), (by_hand, self._by_hand),
        )  # fmt: skip
        old, new = NEW, OLD
        for number in range(self._rounds):
            for downtimes, measure in kinds if number % 2 == 0 else reversed(kinds):
                downtimes.append(measure(old, new))
            print(f"round {number + 1}: launcher {by_launcher[-1]:.3f} s, by hand {by_hand[-1]:.3f} s", flush=True)
            old, new = new, old
        return by_launcher, by_hand

    def _learn(self) -> None:
        """Have the launcher start both releases once, and note how."""
        self._device.start()
        try:
            for slot in VERSIONS:
                self._device.install(slot)
                self._starts[slot] = Start.of(self._device.vm())
        finally:
            self._device.stop()

    def _by_launcher(self, old: str, new: str) -> float:
        self._device.start()
        try:
            with Listener(self._device.http_port) as listener:
                listener.hears(VERSIONS[old])
                self._attempt += 1
                self._device.boot.request(f"swap {new} {self._attempt}")
                listener.hears(VERSIONS[new])
            self._device.runs(new, after=0)
            if self._device.outcome(f"confirm {new} {self._attempt}") != "ok":
                raise MeasureError(f"the launcher did not take the commit\n{self._device.console()}")
        finally:
            self._device.stop()
        return listener.first[VERSIONS[new]] - listener.last[VERSIONS[old]]

    def _by_hand(self, old: str, new: str) -> float:
        vm = self._start(old)
        try:
            with Listener(self._device.http_port) as listener:
                listener.hears(VERSIONS[old])
                vm.terminate()
                vm.wait(LIMIT_S)
                vm = self._start(new)
                listener.hears(VERSIONS[new])
        finally:
            vm.terminate()
            vm.wait(LIMIT_S)
            self._device.until_gone()
        return listener.first[VERSIONS[new]] - listener.last[VERSIONS[old]]

    def _start(self, slot: str) -> subprocess.Popen[bytes]:
        start = self._starts[slot]
        return subprocess.Popen(
            start.words, env=start.environment, cwd=self._device.app / "data",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def main() -> int:
    """0 when everything was measured, 1 when not, 2 on wrong usage, 130 and 143 when ended by a signal."""
    parser = argparse.ArgumentParser(prog="./dev bench swap", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="swaps of each kind (default 7, at least 3)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds: a median wants at least three")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="beamfleet-bench-", ignore_cleanup_errors=True) as work:
        try:
            by_launcher, by_hand = Bench(Path(work), options.rounds).run()
        except (FleetError, ExampleError, MeasureError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    ours, plain = statistics.median(by_launcher), statistics.median(by_hand)
    print(f"\n{options.rounds} rounds on {machine()}\n")
    print(f"{'':14}{'median s':>10}{'least':>9}{'most':>9}{'ratio':>8}")
    print(f"{'launcher':14}{ours:10.3f}{min(by_launcher):9.3f}{max(by_launcher):9.3f}{ours / plain:8.2f}")
    print(f"{'by hand':14}{plain:10.3f}{min(by_hand):9.3f}{max(by_hand):9.3f}{1:8.2f}\n{DEFINITIONS}")
    if options.json:
        print(as_json("swap", {"downtime_ratio_restart": ours / plain, "downtime_s": ours}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
