"""How a rollout looks while one waits for it: a bar per device on a terminal, one line per change elsewhere. On stderr.

What is shown is computed by the pure functions below from the API's rollout object; the two classes only draw.
Neither asks the server for anything.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TextIO

from beamfleet_server.cli.output import Item, harmless
from beamfleet_server.cli.quantities import show_bytes

Device = dict[str, Any]
Rollout = dict[str, Any]

BARS = 24
FINAL = frozenset({"committed", "reverted", "failed", "skipped"})
_REACHED = {"offered": 2, "downloading": 5, "verified": 80, "staged": 85, "swapping": 90, "trial": 95}
_DOWNLOAD = 75


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
    counts = ", ".join(f"{count} {state}" for state, count in rollout["counts"].items() if count)
    where = rollout["phase"] if rollout["state"] == "running" else rollout["state"]
    return f"rollout {rollout['id']}: {rollout['product']} {rollout['version']}, {where}, {counts or 'no devices'}"


def watched(devices: Sequence[Device], limit: int = BARS) -> list[Device]:
    """The devices worth a bar where there are too many: first those on their way, then what went wrong, then others."""

    def rank(device: Device) -> tuple[int, str]:
        state = device["state"]
        order = 1 if state in {"reverted", "failed"} else 2 if state in FINAL else 3 if state == "pending" else 0
        return order, device["id"]

    chosen = {device["id"] for device in sorted(devices, key=rank)[:limit]}
    return [device for device in devices if device["id"] in chosen]


class Lines:
    """One line per change: of the rollout's phase, of a device's state, and each quarter of a download."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._phase: tuple[str, str] | None = None
        self._seen: dict[str, tuple[str, int]] = {}

    def show(self, rollout: Rollout) -> None:
        phase = (rollout["state"], rollout["phase"])
        if phase != self._phase and rollout["state"] == "running":
            self._phase = phase
            self.note(summary(rollout))
        for device in rollout["devices"]:
            quarter = 4 * device["done"] // device["total"] if device.get("total") else 0
            seen = (device["state"], quarter if device["state"] == "downloading" else 0)
            if seen != self._seen.get(device["id"], ("pending", 0)):
                self._seen[device["id"]] = seen
                canary = " (canary)" if device.get("canary") else ""
                self.note(f"{device['id']}{canary}: {describe(device)}")

    def note(self, text: str) -> None:
        print(harmless(text), file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()


class Bars:
    """A bar per device, redrawn in place; the rollout's own line stands above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Display

        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._display = Display(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[words]}", markup=False, style="default"),
            console=console,
        )
        self._whole = self._display.add_task("", total=None, visible=False, words="")
        self._tasks: dict[str, Any] = {}
        self._display.start()

    def show(self, rollout: Rollout) -> None:
        devices = rollout["devices"]
        drawn = watched(devices)
        whole = sum(map(percent, devices)) / max(1, len(devices))
        more = f" ({len(drawn)} of {len(devices)} devices below)" if len(drawn) < len(devices) else ""
        self._display.update(
            self._whole,
            total=100,
            completed=whole,
            visible=True,
            description="all",
            words=harmless(summary(rollout) + more),
        )
        for device in drawn:
            name = device["id"]
            if name not in self._tasks:
                self._tasks[name] = self._display.add_task("", total=100, words="")
            canary = " *" if device.get("canary") else ""
            self._display.update(
                self._tasks[name],
                description=harmless(name + canary),
                completed=percent(device),
                words=harmless(describe(device)),
                visible=True,
            )
        for name in set(self._tasks) - {device["id"] for device in drawn}:
            self._display.update(self._tasks[name], visible=False)

    def note(self, text: str) -> None:
        self._display.console.print(harmless(text))

    def close(self) -> None:
        self._display.stop()


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
