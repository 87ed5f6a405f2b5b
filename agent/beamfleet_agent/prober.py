"""Owns asking the probes of the release that runs, in a trial and after it, and the restart that a failure wants.

`probes.py` says what the answers come to. One timer, at most once in the shortest period; in a trial the monitor calls,
and nothing is restarted. Commands are run by the launcher, functions by beamfleet_link.
"""

import math
from collections.abc import Callable

from beamfleet_agent.boot import Boot, BootState
from beamfleet_agent.health import Sample
from beamfleet_agent.loop import Loop
from beamfleet_agent.probes import Outcome, Patience, Probe, Round, judge
from beamfleet_agent.questions import Questions
from beamfleet_agent.update_state import Release
from beamfleet_agent.vitals import STARTING_S

BOOT_LOOK_S = 1.0
"""How often is looked whether a VM has started: before it has, nobody is asked, unless it takes too long."""
GOOD = range(200, 400)
COMMAND_MARGIN_S = 5.0
"""A command that has not ended so long after its time is no longer waited for: the launcher is away."""
_WORDS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz :_.,/=?-")
"""What a request to the launcher may say."""


class Prober:
    """`ask_link(callback)` asks for a sample; `restart(line)` files a request; `on_change()` hears new outcomes."""

    def __init__(
        self,
        loop: Loop,
        boot: Boot,
        questions: Questions,
        ask_link: Callable[[Callable[[Sample | None], None]], None],
        restart: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        self._loop, self._boot, self._questions, self._ask_link = loop, boot, questions, ask_link
        self._restart, self._on_change = restart, on_change
        self._round: Round | None = None
        self._of: tuple[str, int, int] = ("", 0, 0)
        """Slot, attempt and VM start that the round is about."""
        self._began = 0.0
        self._release: Release | None = None
        self._on_trial = False
        self._asked: dict[str, float] = {}
        """Until when an answer is waited for, by kind."""
        self._files: dict[str, tuple[int, int]] = {}
        self._patience = Patience()

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What the probes of the VM start that runs have come to, by kind."""
        return self._round.outcomes if self._round else {}

    @property
    def unwell(self) -> str:
        """The failure that wants a restart; empty when there is none."""
        return self._round.unwell if self._round else ""

    def follow(self, state: BootState, release: Release | None) -> None:
        """This is what runs now; to be called whenever it may have changed."""
        runs = release is not None and bool(release.probes) and not state.stopped and state.slot == release.slot
        of = (state.slot, state.attempt, state.starts) if runs else ("", 0, 0)
        self._on_trial = state.phase == "trial"
        if of != self._of or (runs and release != self._release):
            before = self.outcomes
            self._of, self._release = of, release
            self._asked.clear()
            self._began = self._loop.now()
            self._round = Round(release.probes, self._began) if runs and release else None
            if self.outcomes != before:
                self._on_change()
        if self._round is None or self._on_trial:
            self._loop.cancel("prober")
        elif not self._loop.pending("prober"):
            self._plan()

    def stop(self) -> None:
        """Ask nobody any more."""
        self._loop.cancel("prober")
        self._round, self._of = None, ("", 0, 0)

    def ask(self, now: float, early_s: float = 0.0) -> None:
        """Ask the probes that are due; the answers come later."""
        running = self._round
        if running is None:
            return
        self.look()
        functions = []
        for probe in running.take(now, early_s):
            if self._asked.get(probe.kind, 0.0) > now:
                continue
            self._asked[probe.kind] = now + probe.timeout_s + COMMAND_MARGIN_S
            match probe.handler:
                case "http":
                    self._questions.http(probe.target, probe.timeout_s, GOOD, self._listener(running, probe))
                case "tcp":
                    self._questions.tcp(probe.target, probe.timeout_s, self._listener(running, probe))
                case "command":
                    self._ask_command(probe)
                case _:
                    functions.append(probe)
        if functions:
            self._ask_link(lambda sample: self._hear_link(running, functions, sample))

    def look(self) -> None:
        """A command may have ended."""
        running = self._round
        if running is None or self._release is None:
            return
        for probe in self._release.probes:
            if probe.handler != "command" or probe.kind not in self._asked:
                continue
            file = self._boot.probe_file(probe.kind)
            if file == self._files.get(probe.kind):
                continue
            self._files[probe.kind] = file
            answer = self._boot.probe(probe.kind)
            if answer is not None and answer[:2] == self._of[:2]:
                self._hear(running, probe, "" if answer[2] == 0 else f"the command ended with {answer[2]}")

    def _plan(self) -> None:
        if self._round is None or self._on_trial:
            return
        due = min(self._round.next(), self._patience.due or math.inf)
        if due < math.inf:
            self._loop.after("prober", max(0.0, due - self._loop.now()), self._tick)

    def _tick(self) -> None:
        running = self._round
        if running is not None:
            now = self._loop.now()
            if now - self._began < STARTING_S and not self._boot.started(self._of[2]):
                self._loop.after("prober", BOOT_LOOK_S, self._tick)
                return
            if now >= running.next():
                self.ask(now, running.shortest_s / 2)
            self._judge(running)
            self._plan()

    def _listener(self, running: Round, probe: Probe) -> Callable[[str], None]:
        return lambda problem: self._hear(running, probe, problem)

    def _ask_command(self, probe: Probe) -> None:
        self._files[probe.kind] = self._boot.probe_file(probe.kind)
        try:
            self._boot.ask_probe(probe.kind, *self._of[:2])
        except OSError:  # the launcher is away, or there is no room: no news
            self._asked.pop(probe.kind, None)

    def _hear_link(self, running: Round, functions: list[Probe], sample: Sample | None) -> None:
        for probe in functions:
            if sample is None or sample.boot != self._of[2]:
                self._hear(running, probe, "the release does not answer")
            elif probe.kind in sample.probes:
                status, why = sample.probes[probe.kind]
                self._hear(running, probe, "" if status == "ok" else _told(why))
            else:  # it still works on its first answer
                self._asked.pop(probe.kind, None)

    def _hear(self, running: Round, probe: Probe, problem: str) -> None:
        if running is not self._round:
            return
        before = running.outcomes
        self._asked.pop(probe.kind, None)
        running.observe(probe.kind, problem)
        self._judge(running)
        if self._loop.pending("prober"):
            self._plan()  # there may be more to ask now
        if running.outcomes != before:
            self._on_change()

    def _judge(self, running: Round) -> None:
        if self._on_trial:
            return
        failing, now = running.unwell, self._loop.now()
        self._patience, restart = judge(self._patience, now, failing=bool(failing), well=running.well)
        if restart:
            detail = "".join(letter if letter in _WORDS else "_" for letter in failing[:120])
            self._restart(f"restart {self._of[0]} {self._of[2]} {detail}")


def _told(why: str) -> str:
    """What a function ended with: any term, with whatever the release had at hand."""
    from beamfleet_agent.redaction import redact  # rarely needed, and large

    return redact(why) or "it failed"
