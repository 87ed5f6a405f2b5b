"""A real store in a directory with devices, bundles and reports, for tests of what the server keeps and decides."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from beamfleet_bundles import pki
from beamfleet_server.authorities import Authorities
from beamfleet_server.ca import key_fingerprint
from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.store import Store
from beamfleet_server.store.bundles import NewBundle, add
from beamfleet_server.store.reports import Outcome, Report
from beamfleet_server.store.rollouts import MemberFacts
from beamfleet_server.store.tokens import NewToken

from tests.support.mqtt_device import committed, state

PRODUCT = "sensor-gateway"
TARGET = "x86_64-glibc-otp25"


class FleetStore:
    """A store whose clock stands still at `now` (Unix seconds) until the test moves it."""

    def __init__(self, work: Path, place: Path | DatabaseAddress | None = None) -> None:
        self.now = 1_800_000_000
        (work / "keys").mkdir()
        (work / "ca").mkdir()
        self.work = work
        self.keys = OnlineKeys.open(work / "keys", self.clock)
        self.store = Store(place or work / "beamfleet.db", self.keys.sign_assignment, self.clock)
        self.store.open()
        self.authority = Authorities(work / "ca", self.store.authorities, self.clock).open()
        self._numbers: dict[str, int] = {}

    def clock(self) -> int:
        return self.now

    def close(self) -> None:
        self.store.close()

    def enrol(self, *names: str, **labels: str) -> None:
        """Devices with a certificate that have not said anything yet."""
        for name in names:
            self.store.tokens.create(NewToken(f"hash of {name}", name, self.now + 60, labels), self.now)
            key = pki.create_key(self.work / f"{name}.key").public_key()
            issue = partial(self.authority.issue_device, public_key=key)
            self.store.enrolment.use_token(name, f"hash of {name}", key_fingerprint(key), issue, self.now)

    def enrol_again(self, name: str) -> None:
        """A device that was flashed again, with another key."""
        self.store.tokens.create(NewToken(f"further hash of {name}", name, self.now + 60, {}, replace=True), self.now)
        key = pki.create_key(self.work / f"{name}.further.key").public_key()
        issue = partial(self.authority.issue_device, public_key=key)
        self.store.enrolment.use_token(name, f"further hash of {name}", key_fingerprint(key), issue, self.now)

    def apply(self, *reports: Report) -> Outcome:
        """Commit reports in one batch."""
        return self.store.reports.apply(reports, self.now)

    def report(self, name: str, **changes: Any) -> Outcome:
        """A device's next state; rollouts are advanced, as the controller does."""
        self._numbers[name] = self._numbers.get(name, 0) + 1
        outcome = self.apply(Report(name, "main", "state", state(1, self._numbers[name], **changes)))
        self.store.advancing.reported(outcome.changed, self.now)
        return outcome

    def commits(self, name: str, version: str) -> None:
        """A device runs a version, and says so."""
        self.report(name, **committed(manifest_of(version), version))

    def online(self, *names: str, session: int = 1) -> None:
        """Births of devices."""
        self.apply(*(Report(name, "main", "presence", presence(session)) for name in names))

    def publish(self, version: str, targets: Iterable[str] = (TARGET,)) -> None:
        """Bundles of a release, as rows."""
        for target in targets:
            bundle = bundle_of(version, target, manifest_of(version, target), self.now)
            self.store.database.write(partial(add, bundle=bundle))

    def roll_out(self, version: str, *, selector: str = "", canary: int = 1, **more: Any) -> int:
        """Start a rollout; its id. `more`: further fields of the plan."""
        plan = plan_of(version, selector=selector, canary=canary, **more)
        return self.store.advancing.start(plan, "anna", None, self.now)[0]

    def states(self, rollout: int) -> dict[str, str]:
        """The members' states by name."""
        return {member.device: member.state for member in self.store.rollouts.members(rollout)}

    def member(self, rollout: int, name: str) -> MemberFacts:
        """One member."""
        (found,) = (each for each in self.store.rollouts.members(rollout) if each.device == name)
        return found

    def told(self, name: str) -> tuple[str | None, int] | None:
        """(path, attempt) of a device's assignment, None if it has none."""
        told = self.store.assignments.find(name, "main")
        return (told.wanted.path, told.wanted.attempt) if told else None


def plan_of(version: str, *, selector: str = "", canary: int = 1, **more: Any) -> Plan:
    """A plan for everyone, or for those with these labels (`key=value,...`), with that many canaries."""
    labels = dict(part.split("=") for part in selector.split(",") if part)
    chosen = {"labels": labels} if labels else {"all": True}
    first = [{"name": "canary", "devices": canary}] if canary else []
    phases = [*first, {"name": "rest", "devices": "all", "failures": "2%"}]
    return Plan.parse({"product": PRODUCT, "version": version, "devices": chosen, "phases": phases} | more)


def bundle_of(version: str, target: str, manifest: str, now: int) -> NewBundle:
    """A bundle of the product, as a row."""
    return NewBundle(
        product=PRODUCT,
        version=version,
        target=target,
        counter=1,
        manifest=manifest,
        manifest_size=1000,
        pack_size=5000,
        pack_sha256="0" * 64,
        unpacked=9000,
        release={"name": "x", "kind": "relx", "erts": "13.1.5", "otp": 25},
        created=now,
    )


def manifest_of(version: str, target: str = TARGET) -> str:
    """A manifest's hash as far as these tests need one."""
    return f"{version}{target}".encode().hex().ljust(64, "0")[:64]


def path_of(version: str, target: str = TARGET) -> str:
    """The name of a release's manifest."""
    return f"{PRODUCT}/{version}/{target}/manifest"


def presence(session: int, *, online: bool = True, reason: str = "", machine: str = "0" * 32) -> dict[str, Any]:
    """A message for `up/presence`."""
    facts = {"time": 0, "agent": "0.1.0", "profile": "wired", "machine": machine}
    return {"v": 1, "session": session, "online": online, "reason": reason} | facts


def health(time: int, /, **changes: Any) -> dict[str, Any]:
    """A message for `up/health`: a full one of a release that is well, but for `changes`."""
    beam = {"uptime_ms": 9, "memory": {"total": 40_000_000}, "processes": [50, 262_144], "queues": []}
    host = {"load": [10, 8, 5], "memory": [500_000_000, 1_000_000_000], "disk": [750, 1000]}
    given = changes.pop("beam", {})
    whole = {"beam": given if given is None or not changes.get("full", True) else beam | given}
    return {"v": 1, "time": time, "verdict": "healthy", "starts": 1, "full": True} | whole | {"host": host} | changes


def event(boot: int, seq: int, kind: str = "restart", cause: str = "crash") -> dict[str, Any]:
    """A message for `up/event`."""
    numbers = {"v": 1, "boot": boot, "seq": seq, "time": 5}
    return numbers | {"kind": kind, "cause": cause, "detail": "", "slot": "", "data": {"starts": 2}}
