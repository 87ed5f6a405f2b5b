"""The rows of the reference: what `memory_world` keeps."""

from dataclasses import dataclass, field

from beamfleet_server.fleet import decision
from beamfleet_server.fleet.decision import owns
from beamfleet_server.fleet.member import Member, Report
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.selection import Candidate

from tests.rollout.world import Said


@dataclass(frozen=True, slots=True)
class Bundle:
    version: str
    target: str
    manifest: str


@dataclass(slots=True)
class Device:
    name: str
    labels: dict[str, str]
    said: Said | None = None
    seen: int = 0
    online: bool = False
    session: int = 0
    pinned: bool = False

    @property
    def zone(self) -> str:
        return self.labels.get("timezone") or (self.said.machine.timezone if self.said else "") or "UTC"

    @property
    def network(self) -> str:
        return (self.said.machine.network if self.said else "") or "unknown"

    @property
    def candidate(self) -> Candidate:
        machine = self.said.machine if self.said else None
        facts = {"network": self.network, "timezone": self.zone}
        facts |= {name: getattr(machine, name) if machine else "" for name in ("arch", "libc", "hardware")}
        return Candidate(self.name, self.labels, facts, self.said.version if self.said else "")

    @property
    def report(self) -> Report:
        said = self.said
        if said is None:
            return Report(seen=self.seen)
        failed, cause = ("", 0), ""
        if said.failed is not None:
            failed, cause = (said.failed[0][:32], said.failed[1]), said.failed[2]
        phase, manifest, attempt, reason = said.update or ("", "", 0, "")
        return Report(said.manifest, said.phase, *failed, cause, phase, manifest, attempt, reason, "", self.seen)


@dataclass(slots=True)
class Row:
    """A membership. heard: it is the one that the device joined last."""

    rollout: int
    device: str
    member: Member
    draw: int
    heard: bool = True
    before: str = ""


@dataclass(slots=True)
class Kept:
    """A rollout."""

    id: int
    plan: Plan
    kind: str
    facts: decision.Rollout
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[int, int]:
        return self.plan.priority, self.id

    def owns(self, now: int) -> bool:
        return owns(self.facts.progress, self.facts.expires, now)
