"""The real store as a `World`: histories are replayed in it, with a new `Store` on the same rows at every restart."""

from collections.abc import Callable
from functools import partial

from beamfleet_bundles.errors import BeamfleetError
from beamfleet_server.ca import Certificate
from beamfleet_server.store import Store
from beamfleet_server.store.assignments import Wanted
from beamfleet_server.store.bundles import add
from beamfleet_server.store.enrolment import MAIN, enrol
from beamfleet_server.store.reports import Report
from beamfleet_server.store.tables import devices, quarantine, rollout_devices, rollouts
from sqlalchemy import Connection, select

from tests.rollout.world import (
    PRODUCT,
    Act,
    Enrol,
    Event,
    Label,
    Lift,
    Look,
    Online,
    Op,
    Outcome,
    Pin,
    Publish,
    Reports,
    Restart,
    Start,
    Unpin,
    manifest_of,
)
from tests.support.fleet_store import bundle_of, presence
from tests.support.mqtt_device import state
from tests.support.postgres import Place


class StoreWorld:
    """A `World` of a store at `place`. restart: also begin anew before every op whose index it gives true for."""

    def __init__(self, place: Place, restart: Callable[[int], bool] = lambda _: False) -> None:
        self._place = place
        self._restart = restart
        self._ops = 0
        self._now = 0
        self._signed: dict[str, tuple[str, int]] = {}
        self._told: dict[str, list[tuple[str, int]]] = {}
        self._store = self._open()

    def close(self) -> None:
        self._store.close()

    def apply(self, op: Op) -> bool:
        self._now = op.now
        self._ops += 1
        if self._restart(self._ops):
            self._begin_anew()
        try:
            accepted = self._happen(op.event, op.now)
        except BeamfleetError:
            accepted = False
            self._signed.clear()
        for name, words in self._signed.items():
            line = self._told.setdefault(name, [])
            if words[0] or not line or line[-1] != words:
                line.append(words)
        self._signed.clear()
        return accepted

    def outcome(self) -> Outcome:
        return self._store.database.read(self._outcome)

    def _open(self) -> Store:
        store = Store(self._place, self._sign, lambda: self._now)
        store.open()
        return store

    def _begin_anew(self) -> None:
        self._store.close()
        self._store = self._open()

    def _sign(self, wanted: Wanted) -> bytes:
        version = wanted.path.split("/")[1] if wanted.path else ""
        self._signed[wanted.device] = (version, wanted.attempt if version else 0)
        return b""

    def _happen(self, event: Event, now: int) -> bool:
        store = self._store
        match event:
            case Reports(said):
                reports = [
                    Report(name, MAIN, "state", state(each.boot, each.seq, **each.changes())) for name, each in said
                ]
                outcome = store.reports.apply(reports, now)
                store.advancing.reported(outcome.changed, now)
            case Look():
                store.advancing.look(now)
            case Start(plan):
                store.advancing.start(plan, "anna", None, now)
            case Act(word, number):
                return self._act(word, number, now)
            case Lift(version):
                store.quarantine.lift("anna", now, product=PRODUCT, version=version)
            case Restart():
                self._begin_anew()
            case Label(name, changes):
                store.devices.set_labels(name, dict(changes))
            case Pin(name):
                store.devices.pin(name, "because", "anna", now)
            case Unpin(name):
                store.devices.unpin(name)
            case Online(name, online, session):
                store.reports.apply([Report(name, MAIN, "presence", presence(session, online=online))], now)
            case Enrol(name, labels):
                store.database.write(partial(self._enrol, name=name, given=dict(labels), now=now))
            case Publish(version, targets):
                for target in targets:
                    store.database.write(
                        partial(add, bundle=bundle_of(version, target, manifest_of(version, target), now))
                    )
        return True

    def _enrol(self, connection: Connection, name: str, given: dict[str, str], now: int) -> None:
        enrol(self._store.database, connection, name, unsigned, now, cause="token", given=given, replace=False)

    def _act(self, word: str, number: int, now: int) -> bool:
        advancing = self._store.advancing
        match word:
            case "pause":
                advancing.pause(number, "anna", "", now)
            case "resume":
                advancing.resume(number, "anna", now)
            case "approve":
                advancing.approve(number, "anna", now)
            case "abort":
                advancing.abort(number, "anna", "", now)
            case "undo":
                advancing.undo(number, "anna", None, now)
            case _:
                assert word == "retry"
                return advancing.retry(number, None, "anna", now) > 0
        return True

    def _outcome(self, connection: Connection) -> Outcome:
        member = rollout_devices.c
        columns = (member.rollout_id, devices.c.name, member.state, member.reason, member.attempt, member.phase)
        members = connection.execute(select(*columns, member.tries).join_from(rollout_devices, devices))
        kept = connection.execute(select(rollouts.c.id, rollouts.c.state, rollouts.c.phase, rollouts.c.gate))
        held = connection.scalars(select(quarantine.c.manifest).where(quarantine.c.lifted.is_(None)))
        return Outcome(
            {row[0]: (row[1], row[2], row[3]) for row in kept},
            {(row[0], row[1]): (row[2], row[3], row[4], row[5], row[6]) for row in members},
            {name: tuple(line) for name, line in self._told.items()},
            frozenset(held),
        )


def unsigned(device: str) -> Certificate:
    """A certificate that nobody looks at."""
    return Certificate(device, 0, 1, b"")
