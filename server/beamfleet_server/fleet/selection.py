"""Owns the selection of a plan: which devices are meant, and why one is not. The store asks the same in SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from beamfleet_server.fleet.draw import within
from beamfleet_server.fleet.versions import Condition

Choices = tuple[tuple[str, tuple[str, ...]], ...]
"""(key, the values of which one is asked for), sorted by key."""
FACTS = ("agent", "arch", "hardware", "libc", "network", "timezone")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device as selections see it. `facts` has those of `FACTS`; `version` is what runs, empty if nobody knows."""

    device: str
    labels: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Everything that is given must hold. One with `all` alone means every device; one with nothing is no selection."""

    all: bool = False
    labels: Choices = ()
    facts: Choices = ()
    versions: tuple[Condition, ...] = ()
    ids: tuple[str, ...] = ()
    percent: int = 100
    salt: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing at all is given."""
        return self == Selection(salt=self.salt)

    def excluded(self, candidate: Candidate, salt: str) -> str:
        """Why the device is not meant: `ids`, `labels.KEY`, `facts.KEY`, `versions` or `percent`; empty if it is.

        salt: of the draw, where the selection has none of its own.
        """
        if self.ids and candidate.device not in self.ids:
            return "ids"
        for what, asked, has in (("labels", self.labels, candidate.labels), ("facts", self.facts, candidate.facts)):
            for key, values in asked:
                if has.get(key) not in values:
                    return f"{what}.{key}"
        if self.versions and not any(condition.holds(candidate.version) for condition in self.versions):
            return "versions"
        if not within(self.percent, self.salt or salt, candidate.device):
            return "percent"
        return ""

    def matches(self, candidate: Candidate, salt: str) -> bool:
        """Whether the device is meant."""
        return not self.excluded(candidate, salt)

    def runs(self, versions: Sequence[str]) -> list[str]:
        """Those of these versions with which a device is meant: what the store asks about in SQL."""
        return [each for each in versions if any(condition.holds(each) for condition in self.versions)]

    def __str__(self) -> str:
        """Short, for lists: `site=berlin,ring=beta|canary`; empty if it means every device."""
        parts = [f"{key}={'|'.join(values)}" for key, values in (*self.labels, *self.facts)]
        parts += [f"version={'|'.join(condition.text for condition in self.versions)}"] if self.versions else []
        parts += [f"ids={len(self.ids)}"] if self.ids else []
        parts += [f"percent={self.percent}"] if self.percent < 100 else []
        return ",".join(parts)
