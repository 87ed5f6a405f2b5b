"""A real store in a directory with devices, bundles and reports, for tests of what the server keeps and decides."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from beamfleet_bundles import pki
from beamfleet_server.ca import FleetAuthority, key_fingerprint
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.store import Store
from beamfleet_server.store.advancing import Plan
from beamfleet_server.store.bundles import NewBundle, add
from beamfleet_server.store.reports import Outcome, Report

from tests.support.mqtt_device import committed, state

PRODUCT = "sensor-gateway"
TARGET = "x86_64-glibc-otp25"


class FleetStore:
    """A store whose clock stands still at `now` (Unix seconds) until the test moves it."""

    def __init__(self, work: Path) -> None:
        self.now = 1_800_000_000
        (work / "keys").mkdir()
        (work / "ca").mkdir()
        self.work = work
        self.keys = OnlineKeys.open(work / "keys", self.clock)
        self.authority = FleetAuthority.open(work / "ca", self.clock)
        self.store = Store(work / "beamfleet.db", self.keys.sign_assignment)
        self.store.open()
        self._numbers: dict[str, int] = {}

    def clock(self) -> int:
        return self.now

    def close(self) -> None:
        self.store.close()

    def enrol(self, *names: str, **labels: str) -> None:
        """Devices with a certificate that have not said anything yet."""
        for name in names:
            self.store.enrolment.create_token(name, f"hash of {name}", labels, self.now, self.now + 60, replace=False)
            key = pki.create_key(self.work / f"{name}.key").public_key()
            issue = partial(self.authority.issue_device, public_key=key)
            self.store.enrolment.use_token(name, f"hash of {name}", key_fingerprint(key), issue, self.now)

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
            bundle = NewBundle(
                product=PRODUCT,
                version=version,
                target=target,
                counter=1,
                manifest=manifest_of(version, target),
                manifest_size=1000,
                pack_size=5000,
                pack_sha256="0" * 64,
                unpacked=9000,
                release={"name": "x", "kind": "relx", "erts": "13.1.5", "otp": 25},
                created=self.now,
            )
            self.store.database.write(partial(add, bundle=bundle))

    def roll_out(self, version: str, *, selector: str = "", canary: int = 1) -> int:
        """Start a rollout; its id."""
        plan = Plan(PRODUCT, version, Selector.parse(selector), canary, "")
        return self.store.advancing.start(plan, self.now)[0]

    def states(self, rollout: int) -> dict[str, str]:
        """The members' states by name."""
        return {member.device: member.state for member in self.store.rollouts.members(rollout)}

    def told(self, name: str) -> tuple[str | None, int] | None:
        """(path, attempt) of a device's assignment, None if it has none."""
        told = self.store.assignments.find(name, "main")
        return (told.wanted.path, told.wanted.attempt) if told else None


def manifest_of(version: str, target: str = TARGET) -> str:
    """A manifest's hash as far as these tests need one."""
    return f"{version}{target}".encode().hex().ljust(64, "0")[:64]


def path_of(version: str, target: str = TARGET) -> str:
    """The name of a release's manifest."""
    return f"{PRODUCT}/{version}/{target}/manifest"


def presence(session: int, *, online: bool = True, reason: str = "") -> dict[str, Any]:
    """A message for `up/presence`."""
    facts = {"time": 0, "agent": "0.1.0", "profile": "wired"}
    return {"v": 1, "session": session, "online": online, "reason": reason} | facts


def event(boot: int, seq: int, kind: str = "restart", cause: str = "crash") -> dict[str, Any]:
    """A message for `up/event`."""
    numbers = {"v": 1, "boot": boot, "seq": seq, "time": 5}
    return numbers | {"kind": kind, "cause": cause, "detail": "", "slot": "", "data": {"starts": 2}}
