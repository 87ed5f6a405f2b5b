"""Simulated devices of histories: each follows its newest assignment by the script of its behaviour, and says so.

A device knows nothing of the centre. It gets `hear`, `wake` and `away`/`back` from the history, and answers with what
is due next. What it does is the truth that a centre is measured by.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random

from beamfleet_server.fleet.states import NO_EVIDENCE_CAUSES

from tests.rollout.world import PRODUCT, Machine, Said, manifest_of

WORKING = ("downloading", "verified", "staged")
SWAPPED = ("swapping", "trial")
TRIAL_S, REVERT_S = 60, 30


class Behaviour(StrEnum):
    """What a device does with what it is offered."""

    GOOD = "good"
    REVERTING = "reverting"
    POWER = "power"
    """Loses power in its first trial of each manifest."""
    STUCK = "stuck"
    """Goes no further from some step on, until it is switched on anew, if ever."""
    FAILING = "failing"
    """Fails before the swap, for a reason that speaks against the release."""
    NETWORK = "network"
    """Fails its first download of each manifest for want of a network."""
    HOOK = "hook"
    """Its application puts the swap off for a while."""
    FALLING = "falling"
    """Commits, and falls back a while later."""
    SILENT = "silent"
    """Was never heard again after it enrolled."""
    LIAR = "liar"
    """Says anything at all, at any time."""
    CLONED = "cloned"
    """A second machine has its identity."""


@dataclass(slots=True)
class SimDevice:
    """A device. `bad` says which versions are broken on it."""

    name: str
    machine: Machine
    behaviour: Behaviour
    bad: frozenset[str]
    chance: Random
    target: Callable[[str], str]
    version: str = "1.0.0"
    phase: str = "committed"
    attempt: int = 0
    failed: tuple[str, int, str] | None = None
    update: tuple[str, str, int, str] | None = None
    boot: int = 1
    seq: int = 0
    online: bool = True
    heard: tuple[str, int] = ("", 0)
    script: list[tuple[int, str, str]] = field(default_factory=list)
    previous: str = ""
    aim: str = ""
    """The version of the update that it works on."""
    spent: set[tuple[str, int]] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    committed: set[str] = field(default_factory=set)
    trials: list[tuple[str, int]] = field(default_factory=list)
    """(version, attempt) of each trial that began: the truth about what a release reached."""

    def manifest(self, version: str) -> str:
        """Of the version, as this device would run it."""
        return manifest_of(version, self.target(version)) if version else ""

    def said(self) -> Said:
        """Its state now, with a new number."""
        self.seq += 1
        names = (PRODUCT, self.version) if self.version else ("", "")
        return Said(
            self.boot, self.seq, self.machine, *names, self.manifest(self.version), self.phase, self.attempt,
            self.failed, self.update,
        )  # fmt: skip

    @property
    def swapped(self) -> bool:
        """Whether it is between two releases."""
        return self.update is not None and self.update[0] in SWAPPED

    def hear(self, version: str, attempt: int) -> bool:
        """Its newest assignment; whether its state changed."""
        self.heard = (version, attempt)
        return not self.swapped and self._follow()

    def wake(self) -> bool:
        """Take the next step of the script; whether its state changed."""
        _, step, reason = self.script.pop(0)
        assert self.update is not None
        manifest, attempt = self.update[1], self.update[2]
        match step:
            case "trial":
                self.previous, self.version = self.version, self.aim
                self.phase, self.attempt = "trial", attempt
                self.trials.append((self.aim, attempt))
            case "committed":
                self.phase = "committed"
                self.committed.add(manifest)
            case "reverted":
                self._go_back("reverted", manifest, attempt, reason)
            case "fallback":
                self._go_back("fallback", manifest, attempt, reason)
                step = "reverted"
            case "failed":
                self.spent.add((manifest, attempt))
        self.update = (step, manifest, attempt, reason)
        return True

    def install(self, version: str) -> None:
        """Somebody came with a stick."""
        self.script.clear()
        self.previous, self.version, self.phase, self.attempt = self.version, version, "committed", 0
        self.update = ("committed", self.manifest(version), 0, "")
        self.committed.add(self.manifest(version))

    def lie(self, versions: tuple[str, ...]) -> Said:
        """Any state of a device."""
        chance = self.chance
        version, other = chance.choice(versions), chance.choice(versions)
        phase = chance.choice(("committed", "trial", "reverted", "fallback", "none"))
        word = chance.choice(("idle", *WORKING, *SWAPPED, "committed", "reverted", "failed"))
        attempt = chance.randint(0, 3)
        cause = chance.choice(("crash", "power", "deadline", "worker.network", "update.hook"))
        honest = self.said()
        return replace(
            honest, version=version, manifest=self.manifest(version), phase=phase, attempt=attempt,
            failed=(self.manifest(other), attempt, cause), update=(word, self.manifest(other), attempt, cause),
        )  # fmt: skip

    def _go_back(self, phase: str, manifest: str, attempt: int, cause: str) -> None:
        self.version, self.previous = self.previous, ""
        self.phase, self.attempt, self.failed = phase, 0, (manifest, attempt, cause)
        if cause not in NO_EVIDENCE_CAUSES:
            self.spent.add((manifest, attempt))

    def _follow(self) -> bool:
        """Act on the newest assignment."""
        version, attempt = self.heard
        before = self.update
        if not version:
            if self.update is not None and self.update[0] in WORKING:
                self.script.clear()
                self.update = ("idle", "", 0, "")
            return self.update != before
        manifest = self.manifest(version)
        if self.version == version and self.phase != "trial":
            return False
        if self.update is not None and self.update[:3] in ((word, manifest, attempt) for word in WORKING):
            return False
        if (manifest, attempt) in self.spent:
            return False
        self.update, self.aim = ("downloading", manifest, attempt, ""), version
        self.script = self._plan(version)
        self.tried.add(version)
        return True

    def _plan(self, version: str) -> list[tuple[int, str, str]]:
        """(seconds, what comes then, reason) of an update from here on."""
        chance, first = self.chance, version not in self.tried
        way = [(chance.randint(5, 60), "verified", ""), (2, "staged", ""), (2, "swapping", ""), (3, "trial", "")]
        end = [(TRIAL_S, "committed", "")]
        reverts = [(REVERT_S, "reverted", chance.choice(("crash", "hang", "probe")))]
        match self.behaviour:
            case _ if version in self.bad:
                end = reverts
            case Behaviour.REVERTING:
                end = reverts
            case Behaviour.POWER if first:
                end = [(REVERT_S, "reverted", chance.choice(NO_EVIDENCE_CAUSES))]
            case Behaviour.STUCK:
                return (way + end)[: chance.randint(0, 4)]
            case Behaviour.FAILING:
                return [*way[: chance.randint(0, 2)], (5, "failed", chance.choice(("slot.no_space", "trust.expired")))]
            case Behaviour.NETWORK if first:
                return [(20, "failed", "worker.network")]
            case Behaviour.HOOK:
                way[2:2] = [(5, "staged", "update.hook"), (chance.choice((100, 1000, 8000)), "staged", "")]
            case Behaviour.FALLING:
                end = [*end, (chance.choice((50, 400, 5000)), "fallback", "crash")]
        return way + end
