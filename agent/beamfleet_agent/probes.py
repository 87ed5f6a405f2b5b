"""Owns what the answers of a release's probes come to. Pure: times and answers come from the caller, who asks them.

Kubernetes' semantics: so many good answers in a row are a success, so many bad ones a failure, and in between stands
what was. The other two wait for the startup probe. A failed startup or liveness probe wants the release restarted, the
first time at once, again only after a back-off that grows; nobody needs to remember it over a restart of the agent.
"""

from collections.abc import Sequence
from typing import NamedTuple

Outcome = tuple[str, str]
"""`waiting`, `ok` or `failed`, and why."""

BACKOFF_FIRST_S, BACKOFF_MOST_S = 10.0, 300.0
WELL_S = 600.0
"""So long without a failure, and the back-off begins anew."""
RESTARTING = ("startup", "liveness")
"""The kinds whose failure wants a restart."""


class Probe(NamedTuple):
    """One probe of a release, as FORMAT.md has it; `handler` is http, tcp, command or erlang."""

    kind: str
    handler: str
    target: str = ""
    """`PORT/PATH` or a port; empty where launcher or VM know what is asked."""
    initial_delay_s: float = 0
    period_s: float = 10
    timeout_s: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class Standing(NamedTuple):
    """Where a probe stands. `row`: how many good answers came in a row or, below zero, bad ones up to the threshold."""

    outcome: str = "waiting"
    detail: str = ""
    row: int = 0


def observe(probe: Probe, standing: Standing, problem: str) -> Standing:
    """After one more answer; `problem` is empty for a good one."""
    if not problem:
        row = min(max(standing.row, 0) + 1, probe.success_threshold)
        return Standing("ok", "", row) if row == probe.success_threshold else standing._replace(row=row)
    row = max(min(standing.row, 0) - 1, -probe.failure_threshold)
    if row == -probe.failure_threshold:
        return Standing("failed", problem, row)
    return standing._replace(row=row, detail="" if standing.outcome == "ok" else problem)


class Round:
    """The probes of one VM start, which began at `now`."""

    def __init__(self, probes: Sequence[Probe], now: float) -> None:
        self._probes = {probe.kind: probe for probe in probes}
        self._standings = {probe.kind: Standing() for probe in probes}
        self._due = {probe.kind: now + probe.initial_delay_s for probe in probes}
        self._asked: set[str] = set()
        self._last = float("-inf")
        self.shortest_s = float(min(probe.period_s for probe in probes))
        """No need to look more often."""

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What each has come to, by kind."""
        return {kind: (standing.outcome, standing.detail) for kind, standing in self._standings.items()}

    @property
    def unwell(self) -> str:
        """The failure that wants a restart; empty when there is none."""
        return failure(self.outcomes)

    @property
    def well(self) -> bool:
        """Whether what could want a restart has succeeded."""
        return all(self._standings[kind].outcome == "ok" for kind in RESTARTING if kind in self._standings)

    def take(self, now: float, early_s: float = 0.0) -> list[Probe]:
        """The probes to ask now; those that were asked before come along when they are due within `early_s`."""
        taken = []
        for kind, probe in self._probes.items():
            due = self._due[kind]
            if not self._wanted(kind) or due > now + (early_s if kind in self._asked else 0.0):
                continue
            self._asked.add(kind)
            due += probe.period_s
            self._due[kind] = due if due > now else now + probe.period_s
            taken.append(probe)
            self._last = now
        return taken

    def next(self) -> float:
        """When to `take` next; infinity for never."""
        due = min((self._due[kind] for kind in self._probes if self._wanted(kind)), default=float("inf"))
        return max(due, self._last + self.shortest_s)

    def observe(self, kind: str, problem: str) -> None:
        """The probe `kind` was answered; `problem` is empty for a good answer."""
        if self._wanted(kind):
            self._standings[kind] = observe(self._probes[kind], self._standings[kind], problem)

    def _wanted(self, kind: str) -> bool:
        startup = self._standings.get("startup")
        begun = startup is None or startup.outcome == "ok"
        return not begun if kind == "startup" else begun


def failure(outcomes: dict[str, Outcome]) -> str:
    """Of what wants a restart: `KIND: why`; empty when nothing does."""
    failed = [kind for kind in RESTARTING if outcomes.get(kind, ("", ""))[0] == "failed"]
    return f"{failed[0]}: {outcomes[failed[0]][1]}" if failed else ""


class Patience(NamedTuple):
    """How often the release was restarted for a probe lately, and when the next restart may be."""

    restarts: int = 0
    well_since: float | None = None
    due: float | None = None


def judge(patience: Patience, now: float, *, failing: bool, well: bool) -> tuple[Patience, bool]:
    """The patience that is left, and whether to restart now."""
    if not failing:
        since = (now if patience.well_since is None else patience.well_since) if well else None
        return patience._replace(well_since=since, due=None), False
    restarts, due = patience.restarts, patience.due
    if due is None:  # it has just failed
        if patience.well_since is not None and now - patience.well_since >= WELL_S:
            restarts = 0
        due = now + backoff_s(restarts)
    if now < due:
        return Patience(restarts, None, due), False
    return Patience(restarts + 1, None, now + backoff_s(restarts + 1)), True


def backoff_s(restarts: int) -> float:
    """How long a failure waits for its restart after so many of them."""
    return min(BACKOFF_FIRST_S * 2.0 ** min(restarts - 1, 16), BACKOFF_MOST_S) if restarts else 0.0
