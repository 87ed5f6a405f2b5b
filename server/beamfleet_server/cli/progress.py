"""How a rollout looks while one waits for it: bars of its phases and devices on a terminal, lines elsewhere. On stderr.

What is shown is computed by the pure functions below from the API's rollout object; the two classes only draw. Neither
asks the server for anything, and what they draw is bounded, however many devices there are.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TextIO

from beamfleet_server.cli.output import Item, harmless
from beamfleet_server.cli.pace import Pace
from beamfleet_server.cli.quantities import show_bytes, show_duration, show_time

Device = dict[str, Any]
Rollout = dict[str, Any]

BARS = 24
"""Devices of a fleet of which each gets a bar."""
FEW_BARS = 6
"""Bars of devices in a larger one."""
REASONS = 5
LINE_EVERY_S = 10.0
"""How often a larger rollout is summed up in a line, where no person looks."""
FINAL = frozenset({"committed", "reverted", "failed", "skipped", "superseded"})
BAD = frozenset({"reverted", "failed"})
_REACHED = {
    "offered": 2,
    "downloading": 5,
    "verifying": 80,
    "staged": 85,
    "waiting": 87,
    "swapping": 90,
    "trial": 95,
}
_DOWNLOAD = 75
_WAITING = frozenset({"pending", "waiting"})
_DULL = FINAL - BAD | {"pending"}


class Progress(Protocol):
    """Something that shows a rollout each time it is told how it stands."""

    def show(self, rollout: Rollout) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


def progress_on(stream: TextIO) -> Progress:
    """Bars where a person looks, lines where a file or a pipe takes them."""
    return Bars(stream) if stream.isatty() else Lines(stream)


def percent(device: Item) -> int:
    """How far a device is, 0 to 100; a download moves it by bytes. What ended is 100."""
    state = device["state"]
    if state in FINAL:
        return 100
    share = device.get("done", 0) / device["total"] if state == "downloading" and device.get("total") else 0
    return _REACHED.get(state, 0) + int(_DOWNLOAD * min(1.0, share))


def share(counts: Mapping[str, int], size: int) -> float:
    """How far `size` devices are, 0 to 100, of their number by state."""
    return min(100.0, sum(percent({"state": state}) * count for state, count in counts.items()) / max(1, size))


def describe(device: Item) -> str:
    """A device's state in words: `downloading 1.2 MB of 3.4 MB`, `reverted: crash`."""
    text = str(device["state"])
    if text == "downloading" and device.get("total"):
        text += f" {show_bytes(device['done'])} of {show_bytes(device['total'])}"
    if device.get("reason"):
        text += f": {device['reason']}"
    return text


def summary(rollout: Rollout) -> str:
    """`rollout 7: sensor-gateway 1.1.0, canary, 1 committed, 2 pending`."""
    where = rollout["phase"] if rollout["state"] == "running" else rollout["state"]
    counts = show_counts(rollout["counts"])
    return f"rollout {rollout['id']}: {rollout['product']} {rollout['version']}, {where}, {counts or 'no devices'}"


def show_counts(counts: Mapping[str, int]) -> str:
    """`1 committed, 2 pending`; nothing for nobody."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def show_reason(reason: Item) -> str:
    """`12 reverted: crash, for example gw-7`."""
    why = f": {reason['reason']}" if reason["reason"] else ""
    return f"{reason['count']} {reason['state']}{why}, for example {reason['example']}"


def standing(rollout: Rollout) -> str:
    """What a rollout waits for that goes on by itself, or by a person; "" while devices are at work."""
    number = rollout["id"]
    if rollout["state"] == "paused":
        why = f" ({rollout['reason']})" if rollout["reason"] else ""
        return f"paused{why}; beamfleet rollout resume {number} goes on"
    if rollout["state"] == "running" and rollout.get("gate") == "waiting":
        return f"{rollout['phase']} is proven; beamfleet rollout approve {number} opens the gate to the next phase"
    if rollout["state"] == "running" and rollout.get("soak_until"):
        return f"{rollout['phase']} is committed and soaks until {show_time(rollout['soak_until'])}"
    return ""


def ended(rollout: Rollout) -> int:
    """How many devices have come to an end."""
    return sum(count for state, count in rollout["counts"].items() if state in FINAL)


def everyone(rollout: Rollout) -> int:
    """How many devices are in it."""
    return sum(rollout["counts"].values())


def speed(rollout: Rollout, pace: Pace) -> str:
    """`12 a minute, about 3m 20s to go`; nothing while that cannot be known."""
    if not pace.per_minute:
        return ""
    left_s = pace.left_s(everyone(rollout) - ended(rollout))
    rate = f"{pace.per_minute:.0f}" if pace.per_minute >= 10 else f"{pace.per_minute:.1f}"
    return f"{rate} a minute" + (f", about {show_duration(left_s)} to go" if left_s else "")


def watched(devices: Sequence[Device], limit: int = BARS) -> list[Device]:
    """The devices worth a bar where there are too many: first those on their way, then what went wrong, then others."""

    def rank(device: Device) -> tuple[int, str]:
        state = device["state"]
        order = 1 if state in BAD else 2 if state in FINAL else 3 if state in _WAITING else 0
        return order, device["id"]

    chosen = {device["id"] for device in sorted(devices, key=rank)[:limit]}
    return [device for device in devices if device["id"] in chosen]


class Lines:
    """One line per change: of the rollout's phase, of a device's state, and each quarter of a download. Of a larger
    rollout one line each ten seconds in which something changed, and one for each new reason for what went wrong."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._pace = Pace()
        self._phase: tuple[str, str] | None = None
        self._seen: dict[str, tuple[str, int]] = {}
        self._reasons: set[tuple[str, str]] = set()
        self._told = ("", -LINE_EVERY_S)

    def show(self, rollout: Rollout) -> None:
        phase = (rollout["state"], rollout["phase"])
        if phase != self._phase and rollout["state"] == "running":
            self._phase = phase
            self._sum_up(rollout, self._clock())
        if everyone(rollout) > BARS:
            self._show_many(rollout)
        else:
            for device in rollout["devices"]:
                self._show_device(device)

    def note(self, text: str) -> None:
        print(harmless(text), file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()

    def _show_device(self, device: Device) -> None:
        quarter = 4 * device["done"] // device["total"] if device.get("total") else 0
        seen = (device["state"], quarter if device["state"] == "downloading" else 0)
        if seen != self._seen.get(device["id"], ("pending", 0)):
            self._seen[device["id"]] = seen
            canary = " (canary)" if device.get("canary") else ""
            self.note(f"{device['id']}{canary}: {describe(device)}")

    def _show_many(self, rollout: Rollout) -> None:
        now = self._clock()
        self._pace.add(now, ended(rollout))
        for reason in rollout.get("reasons", ())[:REASONS]:
            known = (reason["state"], reason["reason"])
            if reason["state"] in BAD and known not in self._reasons:
                self._reasons.add(known)
                self.note(show_reason(reason))
        if now - self._told[1] >= LINE_EVERY_S and summary(rollout) != self._told[0]:
            self._sum_up(rollout, now)

    def _sum_up(self, rollout: Rollout, now: float) -> None:
        self._told = (summary(rollout), now)
        self.note(", ".join(filter(None, (summary(rollout), speed(rollout, self._pace)))))


class Bars:
    """A bar for each phase and for the devices worth one, redrawn in place; the rollout's own line stands above them,
    what went wrong below."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live

        self._clock = clock
        self._pace = Pace()
        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, refresh_per_second=4)
        self._live.start()

    def show(self, rollout: Rollout) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        self._pace.add(self._clock(), ended(rollout))
        bars = Table.grid(padding=(0, 1, 0, 0))
        for name, done, words in rows(rollout):
            bars.add_row(
                Text(harmless(name, 40)),
                ProgressBar(total=100, completed=done, width=30),
                Text(harmless(words, 200), overflow="ellipsis", no_wrap=True),
            )
        head = ", ".join(filter(None, (summary(rollout), speed(rollout, self._pace))))
        below = [standing(rollout), *map(show_reason, rollout.get("reasons", ())[:REASONS])]
        texts = [Text(harmless(text, 300)) for text in below if text]
        self._live.update(Group(Text(harmless(head, 300)), bars, *texts))

    def note(self, text: str) -> None:
        from rich.text import Text

        self._live.console.print(Text(harmless(text)))

    def close(self) -> None:
        self._live.stop()


def rows(rollout: Rollout) -> list[tuple[str, float, str]]:
    """What gets a bar: (name, how far in percent, words). The phases, then devices: all of a small fleet, else those
    that are under way and those that went wrong."""
    drawn = [
        (
            f"{'> ' if phase['state'] == 'current' else '  '}{phase['name']}",
            100.0 if phase["state"] == "done" else share(phase["counts"], phase["size"]),
            ", ".join(filter(None, (f"{phase['size']} devices", show_counts(phase["counts"])))),
        )
        for phase in rollout.get("phases", ())
    ]
    total = everyone(rollout)
    worth = rollout["devices"]
    if total > BARS:
        worth = [device for device in worth if device["state"] not in _DULL]
    devices = watched(worth, BARS if total <= BARS else FEW_BARS)
    drawn += [
        (device["id"] + (" *" if device.get("canary") else ""), float(percent(device)), describe(device))
        for device in devices
    ]
    if len(devices) < total:
        drawn.append((f"and {total - len(devices)} more", share(rollout["counts"], total), "all devices together"))
    return drawn


@contextmanager
def work_on(stream: TextIO) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for work that reports (what, done, total) bytes; nothing is shown where no person looks."""
    if not stream.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress as Display

    with Display(console=Console(file=stream), transient=True) as display:
        task = display.add_task("", total=None)
        yield lambda what, done, total: display.update(task, description=what, completed=done, total=total or None)


def open_with_progress(path: Path, stream: TextIO) -> AbstractContextManager[IO[bytes]]:
    """A file for reading; on a terminal with a bar that shows how far it has been read."""
    if not stream.isatty():
        return path.open("rb")
    from rich.console import Console
    from rich.progress import open as open_with_bar

    return open_with_bar(path, "rb", description="upload", console=Console(file=stream), transient=True)
