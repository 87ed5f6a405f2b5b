"""Owns what the device tells the server: builds the messages, numbers them, keeps them until they are acknowledged.

The shapes are those of PROTOCOL.md (`beamfleet_bundles.messages` on the server; a test holds them equal). State and
events carry (boot, seq) and are sent again until the server has them in its database; of the state only the newest
counts. Progress, health and presence are sent once. Every string is cleaned and cut here: the server refuses others.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from beamfleet_agent import __version__
from beamfleet_agent.boot import BootState
from beamfleet_agent.hooks import Answer
from beamfleet_agent.inventory import Inventory
from beamfleet_agent.journal import Ledger
from beamfleet_agent.telemetry import Rhythm
from beamfleet_agent.update_state import State, Update, known

OUTBOX = 64
WITH_EVIDENCE = 8
"""So many of the newest events keep their evidence: the journal is written anew with each of them."""
RESEND_FIRST_S, RESEND_CAP_S = 5.0, 600.0
CAUSES = frozenset({
    "", "update", "rollback", "revert", "fallback", "operator", "crash", "hang", "oom", "power", "exit", "killed",
    "probe", "deadline", "unconfirmed", "hook", "uncounted",
})  # fmt: skip
UNCHECKED: dict[str, Any] = {"root": 0, "timestamp": 0, "snapshot": 0, "targets": 0, "products": {}}
_HEX = frozenset("0123456789abcdef")
_WORD = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._:+-")

Send = Callable[[str, bytes, int | None], bool]
"""(kind, payload, seconds after which it is of no use or None) -> whether there was a session to take it."""


class Reports:
    """The device's voice in this boot of the agent. `ledger` is what the journal must remember of it.

    rhythm: how often the device promises to speak. heard: whether there is a server at all; without one nothing is
    kept for it.
    """

    def __init__(self, ledger: Ledger, send: Send, rhythm: Rhythm, *, heard: bool) -> None:
        self.ledger = ledger
        self._send, self._rhythm, self._heard = send, rhythm, heard
        self._machine = machine()
        self._seq = 0
        self._state: dict[str, Any] | None = None
        self._state_known = False
        self._sent: set[tuple[int, int]] = set()
        self._resends = 0

    # --- what must arrive

    def event(
        self,
        kind: str,
        cause: str = "",
        detail: str = "",
        slot: str = "",
        evidence: dict[str, Any] | None = None,
        /,
        **data: str | int,
    ) -> None:
        """Put an event into the outbox; it goes out with the next `flush`. evidence: as the message has it, clean."""
        if not self._heard:
            return
        entry: dict[str, Any] = {
            **self._number(),
            "kind": kind,
            "cause": word(cause),
            "detail": clean(detail, 1024),
            "slot": slot,
            "data": {key: value if isinstance(value, int) else clean(value, 256) for key, value in data.items()},
        }
        if evidence is not None:
            entry["evidence"] = evidence
        kept = (*self.ledger.outbox, entry)
        dropped = self.ledger.dropped + max(0, len(kept) - OUTBOX)
        self.ledger = self.ledger._replace(outbox=_lightened(kept[-OUTBOX:]), dropped=dropped)

    def hook(self, point: str, answer: Answer) -> None:
        """What the hooks of a point came to, unless that was the last that was reported of it."""
        came_to = (point, answer.slot, answer.attempt, answer.status)
        if came_to in self.ledger.hooks:
            return
        self.ledger = self.ledger._replace(
            hooks=(*(entry for entry in self.ledger.hooks if entry[0] != point), came_to)
        )
        self.event(
            "hook", "hook" if answer.status else "", answer.output, answer.slot,
            point=point, attempt=answer.attempt, status=answer.status, script=answer.name,
        )  # fmt: skip

    def state(
        self, boot: BootState, state: State, inventory: Inventory, metadata: dict[str, Any] | None = None
    ) -> None:
        """The newest state; it takes the place of an older one and goes out with the next `flush`.

        metadata: the versions that the device keeps, as `bearings` has them; None before the first check.
        """
        release = known(state, boot.slot)
        content = {
            "slot": boot.slot,
            "previous": boot.previous,
            "manifest": release.manifest if release else "",
            "product": release.product if release else "",
            "version": release.version if release else "",
            "phase": boot.phase,
            "attempt": boot.attempt,
            "sequence": state.sequence,
            "update": update_of(state.update),
            "starts": boot.starts,
            "cause": boot.cause if boot.cause in CAUSES else "",
            "power_losses": boot.power_losses,
            "stopped": boot.stopped,
            "failed": clean(boot.failed, 256),
            "inventory": {
                key: clean(value, 64 if key not in ("kernel", "os") else 256) if isinstance(value, str) else value
                for key, value in inventory._asdict().items()
            },
            "metadata": metadata or UNCHECKED,
        }
        if self._state is None or any(self._state.get(key) != value for key, value in content.items()):
            self._state, self._state_known = {**self._number(), **content}, False

    def acknowledge(self, boot: int, seq: int) -> bool:
        """The server has everything up to (boot, seq); whether the ledger changed.

        A server that has seen a later boot knows us from before the journal was lost: our count goes on after that.
        """
        before = self.ledger
        if boot > self.ledger.boot:
            self.ledger = self.ledger._replace(boot=boot + 1)
            self._renumber()
            self._sent.clear()
            return True
        left = tuple(entry for entry in self.ledger.outbox if (entry["boot"], entry["seq"]) > (boot, seq))
        self.ledger = self.ledger._replace(outbox=left)
        if self._state is not None and (self._state["boot"], self._state["seq"]) <= (boot, seq):
            self._state_known = True
        if not self.waiting:
            self._resends = 0
        return self.ledger != before

    @property
    def waiting(self) -> bool:
        """Whether the server still owes an acknowledgement."""
        return bool(self.ledger.outbox) or (self._state is not None and not self._state_known)

    def flush(self) -> None:
        """Send what has not been sent in this session."""
        for entry in self.ledger.outbox:
            self._once("event", entry)
        if self._state is not None and not self._state_known:
            self._once("state", self._state)

    def forget_sent(self) -> float:
        """Let the next `flush` send everything again; seconds until that is due again, longer each time."""
        self._sent.clear()
        self._resends += 1
        return float(min(RESEND_CAP_S, RESEND_FIRST_S * 2.0 ** min(self._resends - 1, 16)))

    def session_began(self) -> None:
        """A new session has no memory: what waits goes out again, and the state in any case."""
        self._state_known = False
        self._sent.clear()
        self._resends = 0

    # --- what need not

    def progress(self, update: Update, done: int, total: int) -> None:
        """How far the download is, in bytes."""
        line = {"manifest": update.manifest, "phase": update.phase, "done": done, "total": total}
        self._send("progress", dump(line), 120)

    def health(self, line: dict[str, Any], expiry_s: int) -> bool:
        """One sample, as `vitals` made it; whether it went out."""
        return self._send("health", dump(line), expiry_s)

    def presence(self, connection: int, online: bool, reason: str) -> bytes:
        """Birth (`online`) or will of this boot's connection number `connection`."""
        return dump({
            "session": self.ledger.boot * 1_000_000 + connection,
            "online": online,
            "reason": clean(reason, 256),
            "time": int(time.time()),
            "agent": __version__,
            "profile": self._rhythm.profile,
            "machine": self._machine,
            "keepalive_s": self._rhythm.keepalive_s,
            "interval_s": self._rhythm.interval_s,
        })  # fmt: skip

    def _number(self) -> dict[str, int]:
        self._seq += 1
        return {"boot": self.ledger.boot, "seq": self._seq, "time": int(time.time())}

    def _renumber(self) -> None:
        outbox = []
        for entry in self.ledger.outbox:
            self._seq += 1
            outbox.append({**entry, "boot": self.ledger.boot, "seq": self._seq})
        self.ledger = self.ledger._replace(outbox=tuple(outbox))
        if self._state is not None:
            self._state_known = False
            self._state.update(self._number())

    def _once(self, kind: str, entry: dict[str, Any]) -> None:
        number = (entry["boot"], entry["seq"])
        if number not in self._sent and self._send(kind, dump(entry), None):
            self._sent.add(number)


def machine() -> str:
    """The kernel's id of this boot, without its dashes: a copy of this device's disk in another machine has another."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            found = file.read(64).strip().replace("-", "")
    except (OSError, ValueError):
        return ""
    return found if len(found) == 32 and _HEX.issuperset(found) else ""


def update_of(update: Update) -> dict[str, Any]:
    """An update as state reports and `status` show it."""
    return {
        "phase": update.phase,
        "product": update.product,
        "version": update.version,
        "manifest": update.manifest,
        "attempt": update.attempt,
        "reason": word(update.reason),
        "detail": clean(update.detail, 1024),
    }


def clean(text: str, limit: int) -> str:
    """`text` without characters that hide, break or turn a line, at most `limit` long."""
    if not text.isascii():
        text = "".join("?" if _hostile(character) else character for character in text)
    return "".join(character if character >= " " and character != "\x7f" else " " for character in text[:limit])


def word(text: str) -> str:
    """`text` as an identifier of at most 64 letters, digits and `._:+-`."""
    return "".join(character if character in _WORD else "_" for character in text[:64])


def dump(line: dict[str, Any]) -> bytes:
    """The message as it travels."""
    return json.dumps({"v": 1, **line}, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _hostile(character: str) -> bool:
    code = ord(character)
    return (
        0x7F <= code <= 0x9F or code == 0x061C or 0x200B <= code <= 0x200F or 0x2028 <= code <= 0x202E
        or 0x2060 <= code <= 0x2069 or code == 0xFEFF or 0xFFF9 <= code <= 0xFFFB or 0xD800 <= code <= 0xDFFF
    )  # fmt: skip


def _lightened(outbox: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """The outbox with the evidence of its newest events alone."""
    heavy = [entry for entry in outbox if "evidence" in entry][:-WITH_EVIDENCE]
    return tuple({k: v for k, v in entry.items() if k != "evidence"} if entry in heavy else entry for entry in outbox)
