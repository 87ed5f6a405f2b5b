"""`beamfleet top`: the devices and how they are, again and again, the worst or the largest first.

Live where a person looks at a terminal: keys sort it anew, `q` ends it. Anywhere else, with `--once` and in every other
format it prints once and ends. What is drawn is as high as the terminal; the server sorts and counts, however many
devices there are.
"""

import contextlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from beamfleet_server.cli import vitals
from beamfleet_server.cli.keyboard import Keyboard
from beamfleet_server.cli.labels import selector
from beamfleet_server.cli.options import Printed, Selector, Verdicts, examples
from beamfleet_server.cli.output import Column, Format, Item, Output, harmless, table
from beamfleet_server.cli.quantities import parse_duration, show_bytes, show_duration, show_share, show_since
from beamfleet_server.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from beamfleet_server.cli.client import Client
    from beamfleet_server.errors import ServerError

EXAMPLES = examples(
    "beamfleet top",
    "beamfleet top -l site=berlin --sort memory",
    "beamfleet top --verdict failing,degraded --every 10s",
    "beamfleet top --once -o json",
)
ONCE = 50
MOST = 1000
PATIENCE_S = 600.0
HEAD = 3
"""Lines above the devices: two of the whole, one of the columns."""
WIDE = 140
"""Characters that all columns take."""
NARROW = frozenset({"DEVICE", "HEALTH", "MEMORY", "PROCS", "QUEUE", "SCHED", "LOAD", "SEEN", "WHY"})
"""The columns of a terminal that is not so wide."""


class Sort(StrEnum):
    VERDICT = "verdict"
    NAME = "name"
    MEMORY = "memory"
    PROCESSES = "processes"
    QUEUE = "queue"
    SCHEDULERS = "schedulers"
    LOAD = "load"
    RESTARTS = "restarts"
    SEEN = "seen"


KEYS = {
    "v": Sort.VERDICT, "n": Sort.NAME, "m": Sort.MEMORY, "p": Sort.PROCESSES, "u": Sort.QUEUE, "s": Sort.SCHEDULERS,
    "l": Sort.LOAD, "r": Sort.RESTARTS, "t": Sort.SEEN,
}  # fmt: skip
END = "q"
HINT = "sort: " + ", ".join(f"{key} {sort}" for key, sort in KEYS.items()) + "; q ends"


def top(
    ctx: typer.Context,
    labels: Selector = None,
    verdicts: Verdicts = None,
    sort: Annotated[Sort, typer.Option("--sort", "-s", help="What comes first: the worst, or the largest.")] = (
        Sort.VERDICT
    ),
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="How often it looks.")] = "2s",
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, max=MOST, help="How many devices; else as many as fit.")
    ] = 0,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    output: Printed = Format.TABLE,
) -> None:
    """Watch devices live: verdict, memory, processes, queues and load of each, until q or Ctrl-C.

    The keys v n m p u s l r t sort by verdict, name, memory, processes, queue, schedulers, load, restarts, and time
    when it was seen. Where the output is no terminal it prints once.
    """
    session = Session.of(ctx, output)
    query = {
        "selector": selector(labels or ()),
        "verdict": ",".join(vitals.parse_verdicts(verdicts or ())),
    }
    every_s = parse_duration(every)
    client, shown = session.client, session.output
    if once or not shown.for_people or not shown.stdout.isatty():
        page = client.get("/health/devices", {**query, "sort": sort.value, "limit": limit or ONCE})
        shown.items(page["items"], columns(datetime.now(UTC)), "id", "no device fits")
        if shown.for_people:
            shown.note(summary(page, sort))
        return
    with contextlib.suppress(KeyboardInterrupt), Keyboard(sys.stdin) as keyboard, Screen(shown, sort) as screen:
        watch(client, query, limit, screen, lambda: keyboard.wait(every_s))


class Screen:
    """Draws what the server answered, over the whole terminal, within a `with`; then the terminal is as it was."""

    def __init__(self, output: Output, sort: Sort, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        from rich.console import Console
        from rich.live import Live

        self.sort, self._clock = sort, clock
        self._page: Item | None = None
        self._console = Console(file=output.stdout, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @property
    def fits(self) -> int:
        """How many devices there is room for."""
        return max(1, self._console.height - HEAD)

    def show(self, page: Item) -> None:
        """Draw this page."""
        self._page = page
        self._draw("")

    def trouble(self, error: "ServerError") -> None:
        """Draw what was seen last, and that it is old."""
        self._draw(f"{error.message}; waiting for it")

    def _draw(self, trouble: str) -> None:
        page = self._page or {"items": [], "counts": {}}
        drawn = picture(page, self.sort, self._clock(), trouble, self.fits, self._console.width)
        self._live.update(drawn, refresh=True)


def watch(
    client: "Client",
    query: dict[str, Any],
    limit: int,
    screen: Screen,
    wait: Callable[[], str],
) -> None:
    """Ask and draw until `wait` gives the key that ends it; a server that is away is waited for."""
    while True:
        asked = {**query, "sort": screen.sort.value, "limit": min(MOST, limit or screen.fits)}
        screen.show(client.get("/health/devices", asked, patience_s=PATIENCE_S, on_trouble=screen.trouble))
        if (key := wait()) == END:
            return
        screen.sort = KEYS.get(key, screen.sort)


def picture(page: Item, sort: str, now: datetime, trouble: str, most: int, width: int) -> "RenderableType":
    """What is on a screen so wide: the whole in two lines, and at most so many devices."""
    from rich.console import Group
    from rich.text import Text

    second = (
        Text(harmless(trouble), style="bold red") if trouble else Text(f"{now.astimezone():%H:%M:%S}  {HINT}", "dim")
    )
    head = Text(harmless(summary(page, sort)), overflow="ellipsis", no_wrap=True)
    shown = [column for column in columns(now) if width >= WIDE or column.header in NARROW]
    return Group(head, second, table(page["items"][:most], shown, wrap=False))


def summary(page: Item, sort: str) -> str:
    """`1 failing, 99 healthy; 100 shown by verdict`."""
    return f"{vitals.show_verdicts(page['counts'])}; {len(page['items'])} shown by {sort}"


def columns(now: datetime) -> tuple[Column, ...]:
    """A device's figures."""
    return (
        Column("DEVICE", lambda device: device["id"]),
        Column("HEALTH", lambda device: device["verdict"], lambda device: vitals.style(device["verdict"])),
        Column("MEMORY", _of("beam", "memory", show_bytes), right=True),
        Column("PROCS", _of("beam", "processes", str), right=True),
        Column("QUEUE", _of("beam", "queue", str), right=True),
        Column("RUNQ", _of("beam", "run_queue", str), right=True),
        Column("SCHED", _of("beam", "schedulers", _permille), right=True),
        Column("ATOMS", _of("beam", "atoms_permille", _permille), right=True),
        Column("RESTARTS", _of("beam", "restarts", str), right=True),
        Column("UP", _of("beam", "uptime_ms", lambda value: show_duration(value / 1000)), right=True),
        Column("LOAD", _of("host", "load", lambda value: f"{value / 100:.2f}"), right=True),
        Column("RAM", _of("host", "memory_permille", _permille), right=True),
        Column("DISK", _of("host", "disk_permille", _permille), right=True),
        Column("TEMP", _of("host", "temperature", lambda value: f"{value / 1000:.0f}"), right=True),
        Column("SEEN", lambda device: show_since(device["last_seen"], now)),
        Column("WHY", lambda device: vitals.show_reasons(device["reasons"])),
    )


def _of(section: str, name: str, show: Callable[[int], str]) -> Callable[[Item], str]:
    def value(device: Item) -> str:
        found = (device[section] or {}).get(name)
        return "" if found is None else show(found)

    return value


def _permille(value: int) -> str:
    return show_share(value, 1000)
