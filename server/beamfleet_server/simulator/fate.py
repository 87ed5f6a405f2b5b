"""Owns what becomes of one simulated device and of each of its updates: pure functions of the seed. Never a clock.

    nature(scenario, seed, device)                        what it is, and how it behaves on the network; for ever
    fate(scenario, seed, device, manifest, version, attempt)   how this one update goes

Nothing else decides: two runs with the same seed differ only in the times at which servers and networks answer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from beamfleet_server.simulator.scenario import Behaviour, Failure, Fall, Revert, Rhythm, Scenario, Stick, Target

T = TypeVar("T")
INTERVALS_S = {"wired": 60.0, "metered": 900.0}
KEEPALIVES_S = {"wired": 90, "metered": 930}
"""What devices of a profile do: reports take the place of pings."""


@dataclass(frozen=True, slots=True)
class Nature:
    """What a device is. `rhythm`: how it comes and goes, if it does; `late_s`: how much later all that it says goes
    out."""

    target: Target
    labels: Mapping[str, str]
    timezone: str
    network: str
    never: bool = False
    """It has an identity, and never comes."""
    once: bool = False
    """It comes until the server knows it, and never again."""
    rhythm: Rhythm | None = None
    clone: bool = False
    late_s: float = 0.0
    profile: str = "wired"
    health_s: float = 0.0
    """Between reports of health; 0 for none."""
    ails: str = ""
    """`degraded` or `failing`: it has an illness of this kind, for ever."""

    @property
    def keepalive_s(self) -> int:
        """Of the MQTT session."""
        return KEEPALIVES_S[self.profile]


@dataclass(frozen=True, slots=True)
class Fate:
    """How an update goes: seconds of its parts, and what comes between if anything does."""

    download_s: float
    verify_s: float
    stage_s: float
    swap_s: float
    trial_s: float
    stuck: str = ""
    """The phase that it never leaves, or empty."""
    lies: str = ""
    fails: Failure | None = None
    reverts: Revert | None = None
    reverts_s: float = 0.0
    falls: Fall | None = None
    falls_s: float = 0.0
    stick: Stick | None = None
    stick_s: float = 0.0

    @property
    def end(self) -> str:
        """What a device with all the time in the world comes to: committed, reverted, failed, or stuck."""
        if self.stuck or self.lies == "committed":
            return "stuck"
        if self.fails:
            return "failed"
        return "reverted" if self.reverts or self.falls else "committed"


def draw(*words: object) -> float:
    """A number from 0 to below 1, which depends on nothing but these words."""
    text = "\0".join(map(str, words)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64


def nature(scenario: Scenario, seed: int, device: str) -> Nature:
    """What this device is."""

    def lot(*words: object) -> float:
        return draw(seed, device, *words)

    away = _first(scenario, seed, device, ("offline", "flaps"))
    rhythm = None
    if away is not None:
        rhythm = away.flaps or (away.offline if isinstance(away.offline, Rhythm) else None)
    late = _first(scenario, seed, device, ("late",))
    ails = _first(scenario, seed, device, ("ails",))
    network = _weighted(scenario.networks, lot("network"))
    profile = "metered" if network == "cellular" else "wired"
    return Nature(
        target=_weighted({target: target.weight for target in scenario.targets}, lot("target")),
        labels={key: _one(value, lot("label", key)) for key, value in sorted(scenario.labels.items())},
        timezone=_one(scenario.timezones, lot("timezone")),
        network=network,
        never=away is not None and away.offline == "always",
        once=away is not None and away.offline == "once",
        rhythm=rhythm,
        clone=_first(scenario, seed, device, ("clone",)) is not None,
        late_s=late.late.at(lot("late")) if late is not None and late.late is not None else 0.0,
        profile=profile,
        health_s=scenario.health.at(lot("health")) if scenario.health else INTERVALS_S[profile],
        ails=(ails and ails.ails) or "",
    )


def fate(scenario: Scenario, seed: int, device: str, manifest: str, version: str, attempt: int) -> Fate:
    """How the update of this device to this manifest goes in this attempt."""
    update = (manifest, version, attempt)

    def lot(what: str) -> float:
        return draw(seed, device, manifest, attempt, what)

    times = scenario.times
    slow = _first(scenario, seed, device, ("slow",), update)
    ends = _first(scenario, seed, device, ("reverts", "falls", "stick", "fails", "stuck", "lies"), update)
    download = slow.slow if slow is not None and slow.slow is not None else times.download
    return Fate(
        download_s=download.at(lot("download")),
        verify_s=times.verify.at(lot("verify")),
        stage_s=times.stage.at(lot("stage")),
        swap_s=times.swap.at(lot("swap")),
        trial_s=times.trial.at(lot("trial")),
        stuck=(ends and ends.stuck) or "",
        lies=(ends and ends.lies) or "",
        fails=ends.fails if ends else None,
        reverts=ends.reverts if ends else None,
        reverts_s=ends.reverts.after.at(lot("reverts")) if ends and ends.reverts else 0.0,
        falls=ends.falls if ends else None,
        falls_s=ends.falls.after.at(lot("falls")) if ends and ends.falls else 0.0,
        stick=ends.stick if ends else None,
        stick_s=ends.stick.after.at(lot("stick")) if ends and ends.stick else 0.0,
    )


def _first(
    scenario: Scenario, seed: int, device: str, kinds: Sequence[str], update: tuple[str, str, int] | None = None
) -> Behaviour | None:
    """The first behaviour of these kinds that is drawn for the device; each takes its share of whom those before it
    left."""
    for place, behaviour in enumerate(scenario.behaviours):
        if behaviour.kinds[0] not in kinds:
            continue
        words: tuple[object, ...] = (seed, device, place)
        if update is not None:
            manifest, version, attempt = update
            if behaviour.versions and version not in behaviour.versions:
                continue
            if behaviour.attempts and attempt > behaviour.attempts:
                continue
            if behaviour.each == "update":
                words = (*words, manifest, attempt)
        if draw(*words) < behaviour.share:
            return behaviour
    return None


def _one(values: str | Sequence[str], lot: float) -> str:
    return values if isinstance(values, str) else values[int(lot * len(values))]


def _weighted(weights: Mapping[T, float], lot: float) -> T:
    left = lot * sum(weights.values())
    for value, weight in weights.items():
        if left < weight:
            return value
        left -= weight
    return list(weights)[-1]
