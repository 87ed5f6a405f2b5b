"""Records a subject on a real file system, then has the power fail in every epoch of the recording.

    python -m tests.crash.replay ORDER       ORDER: a file with the fields of `Order` as JSON

runs as the first process of name spaces of its own (`within`): with it, everything that it started, mounted or attached
is gone. The last line on standard output is a `Result` as JSON.

    lay the device down, record (recording.py, subjects.py) -> for each epoch, for each selection (states.py):
    write it, mount it (the kernel replays its journal), read the facts, unmount -> hold them against the promises
"""

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from tests.crash import images, states, volume
from tests.crash.disk import Entry, Flush, Mark
from tests.crash.invariants import Facts, History, broken
from tests.crash.recording import Recording
from tests.crash.states import Content, Limits
from tests.crash.subjects import Agent, Launcher, Subject, Worker

REPOSITORY = Path(__file__).resolve().parents[2]
NOISY = Limits(prefixes=4, singles=3, all_but_one=3, tears=1, subsets=2)
"""An fsync after each step: many short epochs."""
QUIET = Limits(prefixes=32, singles=16, all_but_one=16, tears=12, subsets=24)
"""Without: few long ones."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Order:
    """What to record: `subject` (worker, agent, committed, reverted) on a file system, as it ships or with a bug."""

    subject: str
    kind: str
    noise: bool
    template: str
    """A device that was laid down; see conftest."""
    room: str
    bundle: str = ""
    slot: str = ""
    kept: str = ""
    """The slots that must stay, with a space between."""
    deep: int = 6
    """In how many states the next process goes on with the work."""
    until_found: bool = False
    """The first violation is enough: for planted bugs."""

    @property
    def name(self) -> str:
        """In one word."""
        return f"{self.subject}-{self.kind}-{'noise' if self.noise else 'quiet'}"


@dataclass(slots=True)
class Result:
    """What came of it. `states` are distinct contents of the disk, `visited` counts also what had been looked at."""

    name: str = ""
    epochs_recorded: int = 0
    epochs_explored: int = 0
    states: int = 0
    visited: int = 0
    deep: int = 0
    violations: int = 0
    shown: list[str] = field(default_factory=list)
    seconds: float = 0.0
    trouble: str = ""
    """Why there is no result."""


def within(order: Order, packages: Sequence[Path] = ()) -> Result:
    """Carry out an order in name spaces of its own, with the shipped code from other folders if these are given."""
    room = Path(order.room, f"{order.name}-{uuid.uuid4().hex[:8]}")
    room.mkdir()
    (room / "order").write_text(json.dumps(asdict(order)))
    command = [*volume.NAME_SPACES, sys.executable, "-P", "-B", "-m", "tests.crash.replay", str(room / "order")]
    environment = {**os.environ, "PYTHONPATH": ":".join(str(place) for place in (*packages, REPOSITORY))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=room)
    try:
        result = Result(**json.loads(done.stdout.splitlines()[-1]))
        result.trouble = result.trouble and f"{result.trouble}\n{done.stderr}"
        return result
    except (IndexError, ValueError, TypeError):
        return Result(order.name, trouble=f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    finally:
        shutil.rmtree(room, ignore_errors=True)


def changed(order: Order, **fields: str | int) -> Order:
    """The order with other fields."""
    return Order(**{**asdict(order), **fields})


def subject_of(order: Order) -> Subject:
    """What is recorded."""
    match order.subject:
        case "worker":
            return Worker(Path(order.bundle), order.slot, order.kept.split())
        case "agent":
            return Agent()
        case goal:
            return Launcher(goal)


class Replay:
    """One order, in `room`."""

    def __init__(self, order: Order, room: Path) -> None:
        self._order, self._room, self._kind = order, room, volume.KINDS[order.kind]
        self._subject = subject_of(order)
        self._recording = Recording(room, self._kind, Path(order.template))
        self._work = room / "work"
        self.result = Result(order.name)

    def run(self) -> None:
        """All of it."""
        began = time.monotonic()
        content = self._recording.lay_down()
        entries = self._recording.record(self._subject, noise=self._order.noise)
        self.result.epochs_recorded = 1 + sum(isinstance(entry, Flush) for entry in entries)
        images.pour(content, self._kind.size, self._work)
        _pretend_reboot(self._room)
        self._explore(entries, content)
        self.result.seconds = round(time.monotonic() - began, 1)

    def _explore(self, entries: list[Entry], content: Content) -> None:
        limits, random = NOISY if self._order.noise else QUIET, Random(self._order.name)  # noqa: S311 - to be repeated
        history = History(entry.text for entry in entries if isinstance(entry, Mark))
        known: dict[int, Facts | str] = {}
        deep = _evenly(self.result.epochs_recorded, self._order.deep)
        for epoch in states.epochs(entries):
            for mark in epoch.marks:
                history.take(mark)
            for number, selection in enumerate(states.selections(epoch.writes, limits, random)):
                changed, fingerprint = content.with_writes(selection)
                deeper = number == 0 and epoch.number in deep
                if fingerprint not in known or deeper:
                    known[fingerprint] = self._looked(changed, content, deep=deeper)
                self.result.visited += 1
                self._judge(f"epoch {epoch.number}, selection {number}", known[fingerprint], history)
                if self.result.violations and self._order.until_found:
                    return
            images.patch(self._work, content.apply(epoch.writes))
            self.result.epochs_explored += 1
            self.result.states = len(known)

    def _looked(self, changed: dict[int, bytes], content: Content, *, deep: bool) -> Facts | str:
        """The facts, or why the disk could not be used at all."""
        images.patch(self._work, changed)
        self.result.deep += deep
        place = self._recording
        try:
            with volume.loop(self._work, direct=False) as loop, volume.mounted(loop, place.volume, self._kind):
                if deep:
                    place.forget_what_ran()
                return self._subject.facts(place.device, deep=deep)
        except Exception as error:  # noqa: BLE001 - a disk that cannot be used is the worst finding
            return f"{type(error).__name__}: {error}"
        finally:
            images.restore(self._work, content)

    def _judge(self, where: str, facts: Facts | str, history: History) -> None:
        found = [facts] if isinstance(facts, str) else list(broken(facts, history, self._subject.links))
        if found:
            self.result.violations += 1
            if len(self.result.shown) < _SHOWN:
                self.result.shown.append(f"{where}: {'; '.join(found)}")


def _evenly(count: int, wanted: int) -> set[int]:
    return {count * (2 * part + 1) // (2 * wanted) for part in range(wanted)}


def _pretend_reboot(room: Path) -> None:
    """From now on the kernel says that it was booted anew."""
    (room / "boot_id").write_text(f"{uuid.uuid4()}\n")
    volume.bind(room / "boot_id", Path("/proc/sys/kernel/random/boot_id"))


def main() -> int:
    """0, whatever was found: the one line says it."""
    order = Path(sys.argv[1])
    replay = Replay(Order(**json.loads(order.read_text())), order.parent)
    try:
        replay.run()
    except Exception:  # noqa: BLE001
        replay.result.trouble = traceback.format_exc()
    print(json.dumps(asdict(replay.result)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
