"""Owns what a simulated device says that must arrive: numbers it, keeps it, sends it again until it is acknowledged.

The same rules as the agent's (`beamfleet_agent.reports`): state and events carry (boot, seq); of the state only the
newest counts; what waits is sent again after 5 s, doubled each time up to 10 minutes; a new session begins anew.
"""

from collections.abc import Callable
from typing import Any

from beamfleet_server.simulator.memory import Memory
from beamfleet_server.simulator.report import dump
from beamfleet_server.simulator.world import Clock, Timer

OUTBOX = 64
RESEND_FIRST_S, RESEND_CAP_S = 5.0, 600.0

Send = Callable[[str, bytes, int | None], bool]
"""(kind, payload, seconds after which it is of no use) -> whether there was a session to take it."""


class Voice:
    """The voice of one device in one boot. `sent` counts what went out again."""

    def __init__(self, memory: Memory, clock: Clock, send: Send) -> None:
        self._memory, self._clock, self._send = memory, clock, send
        self._seq = 0
        self._state: dict[str, Any] | None = None
        self._state_known = False
        self._sent: set[tuple[int, int]] = set()
        self._resends = 0
        self._timer: Timer | None = None
        self.resent = 0

    @property
    def waiting(self) -> bool:
        """Whether the server still owes an acknowledgement."""
        return bool(self._memory.outbox) or (self._state is not None and not self._state_known)

    @property
    def said(self) -> bytes:
        """The newest state as it travels; empty before the first."""
        return b"" if self._state is None else dump(self._state)

    def boot(self) -> None:
        """Another boot: the numbers begin anew."""
        self._seq = 0
        self._renumber()
        self._sent.clear()

    def event(self, kind: str, cause: str, detail: str = "", slot: str = "", **data: str | int) -> None:
        """Keep an event until it has arrived; the oldest of too many is lost."""
        entry = {
            **self._number(),
            "kind": kind,
            "cause": cause[:64],
            "detail": detail[:1024],
            "slot": slot,
            "data": data,
        }
        self._memory.outbox = [*self._memory.outbox, entry][-OUTBOX:]

    def state(self, content: dict[str, Any]) -> None:
        """The newest state, in place of an older one."""
        if self._state is None or any(self._state.get(key) != value for key, value in content.items()):
            self._state, self._state_known = {**self._number(), **content}, False

    def acknowledge(self, boot: int, seq: int) -> None:
        """The server has everything up to here; one that knows a later boot knows us from before we lost our memory."""
        if boot > self._memory.boot:
            self._memory.boot = boot + 1
            self.boot()
            return
        self._memory.outbox = [each for each in self._memory.outbox if (each["boot"], each["seq"]) > (boot, seq)]
        if self._state is not None and (self._state["boot"], self._state["seq"]) <= (boot, seq):
            self._state_known = True
        if not self.waiting:
            self._resends = 0

    def session_began(self) -> None:
        """Everything that waits goes out, and the state in any case."""
        self._state_known = False
        self._sent.clear()
        self._resends = 0
        self.silence()
        self.flush()

    def silence(self) -> None:
        """Send nothing again: there is no session."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def flush(self) -> None:
        """Send what has not been sent in this session, and see to it that it arrives."""
        for entry in self._memory.outbox:
            self._once("event", entry)
        if self._state is not None and not self._state_known:
            self._once("state", self._state)
        if self.waiting and self._timer is None:
            self._timer = self._clock.after(RESEND_FIRST_S, self._again)

    def _again(self) -> None:
        self._timer = None
        if self.waiting:
            self.resent += len(self._sent)
            self._sent.clear()
            self._resends += 1
            wait_s = min(RESEND_CAP_S, RESEND_FIRST_S * 2.0 ** min(self._resends - 1, 16))
            self._timer = self._clock.after(wait_s, self._again)
            self.flush()

    def _once(self, kind: str, entry: dict[str, Any]) -> None:
        number = (entry["boot"], entry["seq"])
        if number not in self._sent and self._send(kind, dump(entry), None):
            self._sent.add(number)

    def _number(self) -> dict[str, int]:
        self._seq += 1
        return {"boot": self._memory.boot, "seq": self._seq, "time": self._clock.now()}

    def _renumber(self) -> None:
        self._memory.outbox = [{**entry, **self._number()} for entry in self._memory.outbox]
        if self._state is not None:
            self._state_known = False
            self._state.update(self._number())
