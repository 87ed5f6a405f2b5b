"""`./dev bench swap`: how long nobody answers while one release takes the place of another.

    sensor_gateway 1.0.0 and 1.1.0 in the slots of one device directory, no agent
    the same VMs, with the command lines and environments that the launcher gave them, are stopped and started by hand
    -> each time from the last answer of the old release to the first of the new, asked every 2 ms over HTTP

By hand means what a careful operator's script would do at best: SIGTERM to the VM, wait for its end, at once exec the
other release's erlexec with the very words and environment that the device would use; no state, no launcher.
"""

import argparse
import contextlib
import json
import os
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
PAIRS, FEWEST_PAIRS = 7, 5
EVERY_S = 0.002
LIMIT_S = 60.0
TARGET = 1.15
_SPY = "#!/bin/sh\nprintf '%s\\0' \"$@\" >{folder}/words\nenv -0 >{folder}/variables\n"
_SETTINGS = {"respawned": "yes", "heart_beat_timeout_s": "11", "log_max_bytes": "1048576", "app_max_processes": "0",
             "app_user": "", "setpriv": "setpriv"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds without an answer, one of each in every pair."""

    by_launcher: Sequence[float]
    by_hand: Sequence[float]

    def figures(self) -> dict[str, float | None]:
        """The figures of bench.md."""
        ours, theirs = statistics.median(self.by_launcher), statistics.median(self.by_hand)
        return {"downtime_ratio_restart": ours / theirs, "downtime_s": ours}

    def table(self) -> str:
        """The same for people."""
        lines = [f"{'':22}{'median s':>10}{'least':>9}{'most':>9}"]
        for name, all_s in (("launcher, by request", self.by_launcher), ("stop + start by hand", self.by_hand)):
            lines.append(f"{name:22}{statistics.median(all_s):10.3f}{min(all_s):9.3f}{max(all_s):9.3f}")
        ratio = self.figures()["downtime_ratio_restart"]
        lines.append(f"\nratio of the medians {ratio:.3f} (target: at most {TARGET}), {len(self.by_hand)} pairs")
        return "\n".join(lines)


class Watch:
    """Asks the service every 2 ms, each time over a connection of its own, and remembers who answered last and first."""

    def __init__(self, port: int) -> None:
        self._port, self._over = port, threading.Event()
        self._last: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._thread = threading.Thread(target=self._ask_on, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def gap_s(self, old: str, new: str) -> float:
        """Seconds from the last answer of version `old` to the first of `new`, as soon as there was one."""
        wait_for(f"an answer of {new}", lambda: new in self._first, deadline_s=LIMIT_S, every_s=0.02)
        if old not in self._last or self._last[old] > self._first[new]:
            raise MeasureError(f"{old} did not answer before {new} did: two at once, or none before")
        return self._first[new] - self._last[old]

    def answered(self, version: str) -> bool:
        """Whether this version has answered."""
        return version in self._first

    def _ask_on(self) -> None:
        while not self._over.wait(EVERY_S):
            if version := _version(self._port):
                now = time.monotonic()
                self._first.setdefault(version, now)
                self._last[version] = now


class Bench:
    """One run in the directory `work`."""

    def __init__(self, work: Path, pairs: int) -> None:
        self._work, self._pairs, self._attempt = work, pairs, 1
        self._device = LauncherDevice(work / "device", {"trial_deadline_s": 300})
        self._commands: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {}

    def run(self) -> Outcome:
        """Measure everything. FleetError, ExampleError or MeasureError when something is not as promised."""
        releases = Releases(self._work / "releases")
        for name, version in VERSIONS.items():
            say(f"laying sensor_gateway {version}")
            release_slots.lay(releases.slot("sensor_gateway", version), self._device.slot(name))
            self._commands[name] = self._command(name)
        by_launcher: list[float] = []
        by_hand: list[float] = []
        turns: list[tuple[list[float], Callable[[], float]]] = [
            (by_launcher, self._swap_by_launcher),
            (by_hand, self._swap_by_hand),
        ]
        self._device.start()
        try:
            self._device.install(OLD)
            self._rest()
            for pair in range(self._pairs):
                for figures, measure in turns if pair % 2 == 0 else reversed(turns):
                    figures.append(measure())
                say(f"pair {pair + 1}: launcher {by_launcher[-1]:.3f} s, by hand {by_hand[-1]:.3f} s")
        finally:
            self._device.stop()
        return Outcome(by_launcher, by_hand)

    def _swap_by_launcher(self) -> float:
        """From the running, committed old release to the new one; leaves the old one committed and stopped."""
        device = self._device
        device.boot.request("start")
        with Watch(device.http_port) as watch:
            wait_for("the old release", lambda: watch.answered(VERSIONS[OLD]), deadline_s=LIMIT_S)
            self._attempt += 1
            device.boot.request(f"swap {NEW} {self._attempt}")
            gap_s = watch.gap_s(VERSIONS[OLD], VERSIONS[NEW])
        device.until("the trial", lambda s: s.slot == NEW and device.boot.started(s.starts))
        device.boot.request(f"confirm {NEW} {self._attempt}")
        device.until("the commit", lambda s: s.slot == NEW and s.phase == "committed")
        self._attempt += 1
        device.install(OLD, self._attempt)
        self._rest()
        return gap_s

    def _rest(self) -> None:
        """No VM runs, and the launcher sleeps."""
        self._device.boot.request("stop")
        self._device.until("the stop", lambda s: s.stopped)
        self._device.until_gone()

    def _swap_by_hand(self) -> float:
        with contextlib.ExitStack() as stack:
            watch = stack.enter_context(Watch(self._device.http_port))
            old = self._by_hand(OLD)
            stack.callback(_end, old)
            wait_for("the old release", lambda: watch.answered(VERSIONS[OLD]), deadline_s=LIMIT_S)
            old.terminate()
            old.wait(LIMIT_S)
            stack.callback(_end, self._by_hand(NEW))
            gap_s = watch.gap_s(VERSIONS[OLD], VERSIONS[NEW])
        self._device.until_gone()
        return gap_s

    def _by_hand(self, name: str) -> subprocess.Popen[bytes]:
        words, variables = self._commands[name]
        with (self._work / "by_hand.log").open("ab") as log:
            return subprocess.Popen(
                words,
                env=dict(variables),
                cwd=self._device.app / "data",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _command(self, name: str) -> tuple[Sequence[str], Mapping[str, str]]:
        """The words and variables of erlexec, as the device's own `start` gives them to a spy in its place."""
        slot = self._device.slot(name)
        erlexec = next(slot.glob("erts-*/bin/erlexec"))
        folder = self._work / f"words-{name[0]}"
        folder.mkdir()
        spied = self._device.slot("c" * 32)
        relative = str(erlexec.relative_to(slot))
        release_slots.lay(slot, spied, replaced={relative: _SPY.format(folder=folder).encode()})
        lib = self._device.root / "usr/lib/beamfleet"
        (self._device.app / "data").mkdir(exist_ok=True)
        (self._device.run / "app").mkdir(parents=True, exist_ok=True)
        words = ["sh", str(lib / "start"), str(self._device.root), str(spied), "0"]
        subprocess.run(words, env={"PATH": os.environ["PATH"], **_SETTINGS}, check=True)
        _remove(spied)
        mended = [(folder / part).read_text().replace(str(spied), str(slot)) for part in ("words", "variables")]
        arguments, variables = (text.rstrip("\0").split("\0") for text in mended)
        return [str(erlexec), *arguments], dict(line.split("=", 1) for line in variables)


def say(text: str) -> None:
    """Tell people what takes so long."""
    print(f"bench swap: {text}", file=sys.stderr, flush=True)


def _version(port: int) -> str | None:
    """The version that answers on this port now, if any."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _end(vm: subprocess.Popen[bytes]) -> None:
    vm.terminate()
    vm.wait(LIMIT_S)


def _remove(slot: Path) -> None:
    for folder, folders, files in os.walk(slot, topdown=False):
        for name in files:
            Path(folder, name).unlink()
        for name in folders:
            Path(folder, name).rmdir()
    slot.rmdir()


def main() -> int:
    """0 when everything was measured, 1 when not, 2 on wrong usage, 130 and 143 when ended by a signal."""
    parser = argparse.ArgumentParser(prog="./dev bench swap", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"at least {FEWEST_PAIRS} (default {PAIRS})")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    if options.pairs < FEWEST_PAIRS:
        parser.error(f"--pairs: a median of fewer than {FEWEST_PAIRS} says nothing")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="beamfleet-bench-", ignore_cleanup_errors=True) as work:
        try:
            outcome = Bench(Path(work), options.pairs).run()
        except (FleetError, ExampleError, MeasureError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(f"\n{machine()}\n\n{outcome.table()}")
    if options.json:
        print(as_json("swap", outcome.figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
