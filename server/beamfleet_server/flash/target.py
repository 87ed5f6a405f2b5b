"""Owns what the one command can do with any kind of target; knows none of the kinds.

A target is a context manager. `facts` and `problems` only look. `prepare` and the words after it are steps, each safe
to repeat, in the order of this file. Leaving the context by an error takes back what can be taken back; leaving it in
peace makes it last.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from beamfleet_server.flash.facts import Problem, TargetFacts

Progress = Callable[[str, int, int], None]
"""(what, done, total) in bytes, as `cli.progress.work_on` shows it."""


class Target(Protocol):
    """One thing to flash."""

    @property
    def name(self) -> str:
        """As people call it: /mnt/card, pi@10.0.0.7, /dev/sdb."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    # --- looking

    def facts(self) -> TargetFacts:
        """What it is. Of a card that an image will be written to: what it will be."""
        ...

    def problems(self) -> Sequence[Problem]:
        """What only this kind of target has against it, such as that the card is mounted."""
        ...

    def intentions(self) -> Sequence[str]:
        """Lines of the plan for what `prepare` will do: "write disk.img (4.0 GB) to /dev/sdb (SanDisk, 32 GB)"."""
        ...

    # --- acting, in this order

    def prepare(self, progress: Progress, /) -> None:
        """What has to be done before there is a root to install into: an image is written. Nothing for most."""
        ...

    def install(self, package: Path) -> None:
        """Install the package file, or bring the installed one to it."""
        ...

    def set_up(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """`beamfleet-agent setup` with these words; what it says it did, {device, fresh, enrolled, ...}."""
        ...

    def provision(self, words: Mapping[str, Any]) -> None:
        """Lay down provision.json (0600, root's): the device sets itself up when it boots first."""
        ...

    def seed(self, bundle: Path) -> None:
        """Lay down a bundle that the agent installs when it finds no release."""
        ...

    def start(self) -> str:
        """Start what runs there if it runs; a few words on what starts it else: "it starts with its next boot"."""
        ...

    # --- undoing

    def remove(self, wipe: bool) -> list[str]:
        """Take the agent away, with `wipe` also identity, secrets, releases and data; lines on what was done."""
        ...
