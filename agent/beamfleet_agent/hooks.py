"""Owns the agent's side of hooks: asks the launcher to run those of a point, and reads what they came to.

The launcher runs the owner's scripts, never we. What it writes into boot/hook.POINT has been said by scripts and is
read as hostile text: `ID ATTEMPT STATUS NAME`, then at most 2 KiB of output. `look` is called when boot/ has changed;
only a limit of time runs while an answer is waited for, in case the launcher is away.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from beamfleet_agent import plain_file
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths

REPORTED = ("post-swap", "revert", "commit")
"""The points that the launcher runs by itself, in the order in which an update comes past them."""
MAX_OUTPUT = 2048
TIMEOUT_S, MARGIN_S = 60.0, 30.0
_ID = frozenset("0123456789abcdef")
_NO_FILE = (0, 0)


class Answer(NamedTuple):
    """How the hooks of a point ended: `status` as a process's exit status, `name` the script that decided, or `-`.

    `slot` is the one that starts; empty when none does.
    """

    slot: str
    attempt: int
    status: int
    name: str
    output: str


class Hooks:
    """The hooks of one device. `request` files a line with the launcher; `on_end(point, answer)` hears an end, once."""

    def __init__(
        self, loop: Loop, paths: Paths, request: Callable[[str], None], on_end: Callable[[str, Answer], None]
    ) -> None:
        self._loop, self._paths, self._request, self._on_end = loop, paths, request, on_end
        self._asked: tuple[str, str, int] | None = None
        self._before = _NO_FILE
        self._seen: dict[str, tuple[int, int]] = {}

    def ask(self, point: str, slot: str, attempt: int) -> None:
        """Have the hooks of this point run for (slot, attempt), or say at once that there are none."""
        asked = self._asked = (point, slot, attempt)
        count = self._count(point)
        if not count:
            self._loop.soon(lambda: self._end(asked, Answer(slot, attempt, 0, "-", "")))
            return
        self._before = self._file(point)
        limit_s = self._timeout_s() * count + MARGIN_S
        self._loop.after("hooks.limit", limit_s, lambda: self._end(asked, Answer(slot, attempt, -1, "-", "")))
        self._request(f"hook {point} {slot} {attempt}")

    @property
    def waiting(self) -> bool:
        """Whether the launcher owes an answer."""
        return self._loop.pending("hooks.limit")

    def forget(self) -> None:
        """Want no answer any more."""
        self._asked = None
        self._loop.cancel("hooks.limit")

    def look(self) -> None:
        """boot/ has changed: is it our answer?"""
        if self._asked is None or not self.waiting or self._file(self._asked[0]) == self._before:
            return
        self._before = self._file(self._asked[0])
        answer = read(self._paths.boot, self._asked[0])
        if answer is not None and (answer.slot, answer.attempt) == self._asked[1:]:
            self._end(self._asked, answer)

    def news(self) -> list[tuple[str, Answer]]:
        """What hooks came to that the launcher ran by itself, where there are any: each file once in this life."""
        found = []
        for point in REPORTED:
            file = self._file(point)
            if file in (_NO_FILE, self._seen.get(point)):
                continue
            self._seen[point] = file
            answer = read(self._paths.boot, point)
            if answer is not None and self._count(point):
                found.append((point, answer))
        return found

    def _end(self, asked: tuple[str, str, int], answer: Answer) -> None:
        if self._asked is asked:
            self.forget()
            self._on_end(asked[0], answer)

    def _count(self, point: str) -> int:
        try:
            return len(os.listdir(f"{self._paths.lib}/hooks.d/{point}"))
        except FileNotFoundError:
            return 0
        except OSError:  # not for our eyes: the launcher knows
            return 1

    def _file(self, point: str) -> tuple[int, int]:
        """Which file boot/hook.POINT is now: the launcher writes a new one for each answer."""
        try:
            found = os.lstat(f"{self._paths.boot}/hook.{point}")
        except OSError:
            return _NO_FILE
        return found.st_ino, found.st_mtime_ns

    def _timeout_s(self) -> float:
        """`hook_timeout_s` of launcher.conf."""
        try:
            with open(self._paths.launcher_conf, encoding="ascii", errors="replace") as file:
                said = [line.partition("=")[2].strip() for line in file if line.startswith("hook_timeout_s=")]
        except OSError:
            said = []
        return float(said[-1]) if said and said[-1].isdecimal() and len(said[-1]) < 6 else TIMEOUT_S


def read(boot: str, point: str) -> Answer | None:
    """The answer in boot/hook.POINT; None if there is none, or it is not one."""
    data = plain_file.head(f"{boot}/hook.{point}", 512 + MAX_OUTPUT)
    first, _, output = data.partition(b"\n")
    words = first.decode("utf-8", "replace").split(maxsplit=3)
    if len(words) < 3 or (words[0] != "-" and (len(words[0]) != 32 or not _ID.issuperset(words[0]))):
        return None
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words[1:3]):
        return None
    name = words[3].strip()[:64] if len(words) > 3 else "-"
    text = output[:MAX_OUTPUT].decode("utf-8", "replace").strip()
    return Answer(words[0].strip("-"), int(words[1]), int(words[2]), name, text)
