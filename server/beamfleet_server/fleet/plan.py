"""Owns the plan of a rollout: what an operator asks for, complete, checked and frozen.

`Plan.parse` (of `plan_parsing`) reads what YAML or JSON or flags gave; `as_dict` is the one canonical spelling, which
`parse` reads back. The store keeps it so, and a rollout never changes its plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beamfleet_server.fleet.selection import Selection
from beamfleet_server.fleet.spelling import duration_text
from beamfleet_server.fleet.versions import key
from beamfleet_server.fleet.window import DAYS, Window, clock

NETWORKS = ("wired", "wifi", "cellular", "unknown")
LONGEST_BACKOFF_S = 86_400


@dataclass(frozen=True, slots=True)
class Size:
    """A number of devices, or a share of them in percent."""

    number: int
    percent: bool = False

    def up(self, total: int) -> int:
        """Of `total`, rounded up, at most all."""
        return min(total, -(-total * self.number // 100) if self.percent else self.number)

    def down(self, total: int) -> int:
        """Of `total`, rounded down; a number stays what it is."""
        return total * self.number // 100 if self.percent else self.number

    @property
    def everyone(self) -> bool:
        """Whether it is 100%."""
        return self.percent and self.number == 100

    def told(self) -> int | str:
        """As a plan spells it."""
        return "all" if self.everyone else f"{self.number}%" if self.percent else self.number


ALL = Size(100, percent=True)


@dataclass(frozen=True, slots=True)
class Phase:
    """How far a rollout may go, and what proves that it may go on.

    `devices` counts from the first phase on. More than `failures` of the phase's own places halt the rollout;
    `successes` percent of the places must be committed, and stay so for `soak` seconds; `gate`: then a person says so.
    """

    name: str
    devices: Size = ALL
    soak: int = 0
    gate: bool = False
    failures: Size = Size(0)
    successes: int = 100
    max_parallel: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As a plan spells it."""
        return {
            "name": self.name,
            "devices": self.devices.told(),
            "soak": duration_text(self.soak),
            "gate": self.gate,
            "failures": f"{self.failures.number}%" if self.failures.percent else self.failures.number,
            "successes": f"{self.successes}%",
            "max_parallel": self.max_parallel,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """A stepping stone: a device below version `below` commits version `through` first."""

    below: str
    through: str


CANARY = Phase("canary", Size(1))
REST = Phase("rest", ALL, failures=Size(2, percent=True))


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan. Durations are seconds; `max_parallel` 0 is no limit; `phases` ends with one for everyone; `steps` are
    sorted by `through`."""

    product: str
    version: str
    devices: Selection
    phases: tuple[Phase, ...] = (CANARY, REST)
    max_parallel: int = 0
    deadline: int = 86_400
    expires: int = 30 * 86_400
    retries: int = 3
    backoff: int = 600
    window: tuple[Window, ...] = ()
    priority: int = 0
    network: tuple[str, ...] = NETWORKS
    force: bool = False
    steps: tuple[Step, ...] = ()
    notes: str = ""
    note: str = ""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Plan":
        """The plan that `given` spells; `PlanError` (a code `plan.*`) names the first field that is wrong."""
        from beamfleet_server.fleet.plan_parsing import parse

        return parse(given)

    def as_dict(self) -> dict[str, Any]:
        """The canonical spelling: plain JSON, every field present."""
        chosen = self.devices
        return {
            "product": self.product,
            "version": self.version,
            "devices": {
                "all": chosen.all,
                "labels": {name: list(values) for name, values in chosen.labels},
                "facts": {name: list(values) for name, values in chosen.facts},
                "versions": [condition.text for condition in chosen.versions],
                "ids": list(chosen.ids),
                "percent": chosen.percent,
                "salt": chosen.salt,
            },
            "phases": [phase.as_dict() for phase in self.phases],
            "max_parallel": self.max_parallel,
            "deadline": duration_text(self.deadline),
            "expires": duration_text(self.expires),
            "retries": self.retries,
            "backoff": duration_text(self.backoff),
            "window": [
                {"days": [DAYS[day] for day in sorted(each.days)], "from": clock(each.start), "to": clock(each.end)}
                for each in self.window
            ],
            "priority": self.priority,
            "network": list(self.network),
            "force": self.force,
            "steps": [{"below": step.below, "through": step.through} for step in self.steps],
            "notes": self.notes,
            "note": self.note,
        }

    @property
    def salt(self) -> str:
        """Of the draw that chooses and orders this plan's devices."""
        return self.devices.salt or self.product

    def parallel(self, phase: int) -> int | None:
        """How many devices may be in flight in this phase; None is no limit."""
        limits = [limit for limit in (self.max_parallel, self.phases[phase].max_parallel) if limit]
        return min(limits, default=None)

    def aim(self, product: str, version: str, phase: str) -> str | None:
        """The version that a device commits next: the first stone it is below of, or the plan's own.

        product, version, phase: what runs there and its `boot/state`. None if there are stones and nobody can say where
        the device stands; one where nothing is installed (`none`) has no stone to pass.
        """
        if not self.steps or phase == "none":
            return self.version
        if product != self.product or not version:
            return None
        ours = key(version)
        return next((step.through for step in self.steps if ours < key(step.below)), self.version)

    def back_off(self, tries: int) -> int:
        """Seconds before the retry that follows `tries` earlier ones."""
        return min(LONGEST_BACKOFF_S, self.backoff << min(tries, 20))
