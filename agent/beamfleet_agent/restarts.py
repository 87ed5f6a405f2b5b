"""Owns telling the server of each start of the VM, once, and what is left of a VM that nobody had asked to end.

The launcher counts a start before it puts the log of the VM before aside: a moment, or as long as that one takes to
end when it was asked to. So the event waits for that, in the loop and not for ever: its evidence is the last words of
the VM that ended, not of the one that begins, and not of the one before both.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from beamfleet_agent import plain_file
from beamfleet_agent.boot import Boot, BootState
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import Reports, clean

ASIDE_S, LOOK_S = 15.0, 0.1
"""How long the log may take to be put aside, a VM that has to be killed included, and how often that is looked at."""
MAX_LINES, LONGEST_LINE = 20, 256
MAX_BYTES = 4_096
"""Of all lines as the journal has them; an event must fit into a message, and a few into the journal."""
ASKED_FOR = frozenset({"", "update", "rollback", "operator", "hook", "uncounted"})
DUMP_HEAD = 4_096


class Restarts:
    """Puts `restart` events into `reports`. on_told: one was put there later than `look` returned."""

    def __init__(self, loop: Loop, log: Log, paths: Paths, reports: Reports, on_told: Callable[[], None]) -> None:
        self._loop, self._log, self._paths, self._reports = loop, log, paths, reports
        self._on_told = on_told
        self._boot: BootState | None = None
        self._until = 0.0

    def look(self, boot: BootState) -> None:
        """Tell of the newest start if that has not been done."""
        if boot.starts <= self._reports.ledger.starts:
            return
        if why(boot) in ASKED_FOR:
            self._loop.cancel("restarts.log")
            self._tell(boot, None)
            return
        self._boot = boot
        if not self._loop.pending("restarts.log"):
            self._until = self._loop.now() + ASIDE_S
            self._loop.soon(self._wait)

    def _wait(self) -> None:
        if self._boot is None or self._boot.starts <= self._reports.ledger.starts:
            return
        begun = Boot(self._paths.app_dir, self._paths.run_app).started(self._boot.starts)
        if not (begun or is_aside(self._paths)) and self._loop.now() < self._until:
            self._loop.after("restarts.log", LOOK_S, self._wait)
            return
        self._tell(self._boot, evidence(self._paths, self._boot))
        self._on_told()

    def _tell(self, boot: BootState, left: dict[str, Any] | None) -> None:
        self._log.info("release started", starts=boot.starts, slot=boot.slot, cause=boot.cause, detail=boot.detail)
        self._reports.event("restart", boot.cause, boot.detail, boot.slot, left, starts=boot.starts)
        self._reports.ledger = self._reports.ledger._replace(starts=boot.starts)


def why(boot: BootState) -> str:
    """Why the VM before this start ended: of a release that went back, why it did."""
    return boot.detail.partition(":")[0] if boot.cause in ("revert", "fallback") else boot.cause


def is_aside(paths: Paths) -> bool:
    """Whether vm.log is that of the VM that begins, whose keeper came after the count, or there is none."""
    try:
        log = os.stat(f"{paths.run_app}/vm.log").st_mtime_ns
    except OSError:
        return True
    try:
        keeper, counted = (os.stat(path).st_mtime_ns for path in (f"{paths.run_app}/keeper.pid", f"{paths.boot}/state"))
    except OSError:
        return False
    return log >= keeper >= counted


def evidence(paths: Paths, boot: BootState) -> dict[str, Any]:
    """What is left of the VM that ended, redacted: its slogan, its status, its last lines."""
    from beamfleet_agent import vm_log

    status, said = _ended(boot.detail)
    if said and (whole := _slogan(paths)).startswith(said[:100]):  # the launcher keeps the beginning
        said = whole
    last = vm_log.lines(vm_log.tail(f"{paths.run_app}/vm.log.1"), LONGEST_LINE)[-MAX_LINES:]
    while last and sum(len(json.dumps(line)) for line in last) > MAX_BYTES:
        del last[0]
    return {"slogan": clean(said, LONGEST_LINE), "status": status, "log": last}


def _ended(detail: str) -> tuple[str, str]:
    """Status and slogan in the launcher's words `[WHY: ]status N[, SLOGAN]`."""
    _, found, rest = detail.partition("status ")
    number, _, slogan = rest.partition(", ")
    return (f"status {number}", slogan) if found and number.isdecimal() and len(number) < 4 else ("", "")


def _slogan(paths: Paths) -> str:
    """The slogan of the crash dump, as the launcher cleans it, redacted; empty without the right to read it."""
    from beamfleet_agent import redaction

    head = plain_file.head(f"{paths.dump}/erl_crash.dump", DUMP_HEAD).split(b"\n")
    if len(head) < 4 or not head[2].startswith(b"Slogan: "):
        return ""
    said = bytes(byte for byte in head[2][8:] if 0x20 <= byte < 0x7F)
    return redaction.redact(said.decode("ascii"))
