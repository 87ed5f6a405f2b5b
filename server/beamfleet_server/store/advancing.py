"""Owns changing rollouts: it counts, asks the rules, and applies their orders, all in one transaction.

So a rollout cannot be advanced twice by the same report, and an offer and its signed assignment are committed together.
The number of statements does not grow with the fleet; only what is signed goes device by device, in batches."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, insert, select, update

from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.decision import BATCH
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import IN_FLIGHT, OWNING, Progress, State
from beamfleet_server.store import bundles, joining, quarantine
from beamfleet_server.store.assignments import Sign
from beamfleet_server.store.course import CHUNK, Course
from beamfleet_server.store.database import Database, pieces
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.preview import Preview, no_devices, no_target, preview
from beamfleet_server.store.tables import devices, facts, rollout_devices, rollouts
from beamfleet_server.store.undoing import returning

MEMBERS = rollout_devices.c
EXCUSED = "rollouts.excused"
"""The fact that says up to when the time of silence was given back."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look came to: when something is due next (Unix seconds; None: nothing is foreseen), and whether a further
    batch waits."""

    due: int | None
    more: bool


class Advancing:
    """Starts, advances and ends rollouts; `sign` makes the assignments."""

    def __init__(self, database: Database, sign: Sign) -> None:
        self._database = database
        self._course = Course(database, sign)
        self._looked = False

    def start(self, plan: Plan, by: str, key: str | None, now: int) -> tuple[int, bool]:
        """The id of the rollout, and whether it is a new one: the same `key` again is the same wish. Errors
        `release.unknown`, `release.quarantined`, `rollout.no_devices`, `rollout.no_target`."""
        return self._database.write(lambda connection: self.begin(connection, plan, by, key, now))

    def preview(self, plan: Plan, now: int) -> Preview:
        """What `start` would come to; it has the same errors, and changes nothing."""

        def query(connection: Connection) -> Preview:
            _check_release(connection, plan)
            return preview(connection, plan, now)

        return self._database.read(query)

    def reported(self, device_ids: Collection[int], now: int) -> bool:
        """These devices have a new state: advance every rollout that they are in. True if a further batch waits."""
        for some in pieces(sorted(device_ids), CHUNK):
            self._database.write(partial(self._course.heard, device_ids=some, now=now))
        return bool(self._course.unfinished)

    def go_on(self, now: int) -> bool:
        """Do the batches that wait, one of each rollout; True if further ones wait."""

        def change(connection: Connection) -> None:
            for rollout_id in sorted(self._course.unfinished):
                self._course.advance(connection, rollout_id, now)

        if self._course.unfinished:
            self._database.write(change)
        return bool(self._course.unfinished)

    def silence(self, now: int) -> int:
        """A server begins: for how many seconds nobody was heard, as far as that was not excused before."""

        def query(connection: Connection) -> int:
            heard = connection.scalar(select(func.max(devices.c.last_seen)))
            given = connection.scalar(select(facts.c.value).where(facts.c.key == EXCUSED))
            return max(0, now - max(heard or 0, int(given or 0))) if heard or given else 0

        return self._database.read(query)

    def excuse(self, silence_s: int, grace_s: int, now: int) -> None:
        """Nobody could be heard for so long: what is in flight gets that time back, and `grace_s` at least to say what
        it did; and a soak goes on by it."""

        def change(connection: Connection) -> None:
            later, soonest = MEMBERS.deadline + silence_s, now + grace_s
            flying = update(rollout_devices).where(MEMBERS.state.in_(IN_FLIGHT), MEMBERS.deadline.is_not(None))
            connection.execute(flying.values(deadline=case((later < soonest, soonest), else_=later)))
            soaking = update(rollouts).where(rollouts.c.proved_since.is_not(None))
            connection.execute(soaking.values(proved_since=rollouts.c.proved_since + silence_s))
            connection.execute(delete(facts).where(facts.c.key == EXCUSED))
            connection.execute(insert(facts).values(key=EXCUSED, value=str(now)))

        self._database.write(change)

    def look(self, now: int) -> Look:
        """Advance every rollout that anything can happen to by the clock, and take in late devices; the first time,
        also take what was reported to a server that ended before it could."""
        more = False
        for rollout_id in self._database.read(partial(self._course.alive, now=now, all_=not self._looked)):
            stale = self._database.read(
                partial(self._course.stale, rollout_id=rollout_id, now=now, all_=not self._looked)
            )
            more |= len(stale) >= 2 * BATCH
            if stale:
                self._database.write(partial(self._course.take, rollout_id=rollout_id, device_ids=stale, now=now))
        self._looked |= not more
        for rollout_id in self._database.read(partial(self._course.joinable, now=now)):
            self._database.write(partial(self._course.join, rollout_id=rollout_id, now=now))
        for rollout_id in self._database.read(partial(self._course.alive, now=now)):
            self._database.write(partial(self._course.advance, rollout_id=rollout_id, now=now, everyone=True))
        due = self._database.read(partial(self._course.due, now=now))
        return Look(due, more or bool(self._course.unfinished))

    def pause(self, rollout_id: int, by: str, reason: str, now: int) -> None:
        """No more offers until `resume`; what has not swapped is put on hold. Errors `rollout.unknown`,
        `rollout.finished`."""

        def change(connection: Connection, row: Row[Any]) -> None:
            if row.state == Progress.PAUSED:
                return
            if row.state != Progress.RUNNING:
                raise _finished(row)
            _set(connection, rollout_id, state=Progress.PAUSED, paused_reason=reason, reason=reason)
            self._tell(connection, rollout_id, "paused", _by(by, reason), now)

        self._act(rollout_id, change, now)

    def resume(self, rollout_id: int, by: str, now: int) -> None:
        """Let a paused rollout go on, or a halted one, whose failures so far are forgiven. Errors `rollout.unknown`,
        `rollout.finished`, `release.quarantined`."""

        def change(connection: Connection, row: Row[Any]) -> None:
            if row.state == Progress.RUNNING:
                return
            if row.state not in (Progress.PAUSED, Progress.HALTED):
                raise _finished(row)
            again: dict[str, Any] = {"state": Progress.RUNNING, "paused_reason": "", "reason": ""}
            if row.expires <= now:
                raise _finished(row)
            if row.state == Progress.HALTED:
                self._check_quarantine(connection, row)
                again["forgiven"] = _bad(connection, rollout_id)
            _set(connection, rollout_id, **again)
            self._tell(connection, rollout_id, "resumed", _by(by), now)

        self._act(rollout_id, change, now)

    def approve(self, rollout_id: int, by: str, now: int) -> None:
        """Open the gate that waits. Errors `rollout.unknown`, `rollout.no_gate`."""

        def change(connection: Connection, row: Row[Any]) -> None:
            if row.gate == "approved":
                return
            if row.gate != "waiting" or row.state not in (Progress.RUNNING, Progress.PAUSED):
                hint = f"see: beamfleet rollout status {rollout_id}"
                raise ServerError("rollout.no_gate", f"nothing of rollout {rollout_id} waits for approval", hint)
            _set(connection, rollout_id, gate="approved")
            self._tell(connection, rollout_id, "gate", _by(by, "approved"), now)

        self._act(rollout_id, change, now)

    def abort(self, rollout_id: int, by: str, reason: str, now: int) -> None:
        """End a rollout. Errors `rollout.unknown`, `rollout.finished`. Aborting an aborted one is no error."""

        def change(connection: Connection, row: Row[Any]) -> None:
            if row.state != Progress.ABORTED:
                self._abort(connection, row, _by(by, reason), now)

        self._act(rollout_id, change, now)

    def undo(self, rollout_id: int, by: str, key: str | None, now: int) -> tuple[int, bool]:
        """A new rollout that brings those who committed in this one what they ran before; its id, and whether it is
        new. This one ends first. Errors `rollout.unknown`, `rollout.nothing_to_undo`."""

        def change(connection: Connection) -> tuple[int, bool]:
            if (known := _known(connection, key)) is not None:
                return known, False
            row = self._course.row(connection, rollout_id)
            plan = returning(connection, row, self._course.plan(row))
            if row.state in OWNING:
                _set(connection, rollout_id, state=Progress.ABORTED, reason=_by(by, "undone"), finished=now)
            new = self._insert(connection, plan, by, key, now, kind="undo", of_id=rollout_id)
            joining.join_undo(connection, new, rollout_id, plan, now)
            self._course.take(connection, new, None, now)
            self._tell(connection, rollout_id, "undone", _by(by, f"by rollout {new}"), now)
            self._begun(connection, new, plan, now)
            self._course.advance(connection, rollout_id, now)
            return new, True

        return self._database.write(change)

    def retry(self, rollout_id: int, names: Collection[str] | None, by: str, now: int) -> int:
        """Try those again that reverted or failed, or these, also if they wait for it; how many. A halted one goes on.
        Errors `rollout.unknown`, `rollout.finished`, `release.quarantined`."""
        tried: list[int] = []

        def change(connection: Connection, row: Row[Any]) -> None:
            if row.state not in OWNING or row.expires <= now:
                raise _finished(row)
            if row.state == Progress.HALTED:
                self._check_quarantine(connection, row)
            tried.append(_try_again(connection, rollout_id, names, now))
            forgiven = min(row.forgiven, _bad(connection, rollout_id))
            again: dict[str, Any] = {"forgiven": forgiven}
            if row.state == Progress.HALTED:
                again |= {"state": Progress.RUNNING, "reason": "", "forgiven": _bad(connection, rollout_id)}
            _set(connection, rollout_id, **again)
            if tried[0] and row.state == Progress.HALTED:
                self._tell(connection, rollout_id, "resumed", _by(by, f"{tried[0]} are tried again"), now)

        self._act(rollout_id, change, now)
        return tried[0]

    def begin(self, connection: Connection, plan: Plan, by: str, key: str | None, now: int) -> tuple[int, bool]:
        """`start`, inside a change."""
        if (known := _known(connection, key)) is not None:
            return known, False
        _check_release(connection, plan)
        rollout_id = self._insert(connection, plan, by, key, now)
        joined = joining.join(connection, rollout_id, plan, now, beginning=True)
        if not joined:
            raise no_devices(connection, plan, now)
        alive = select(MEMBERS.device_id).where(MEMBERS.rollout_id == rollout_id, MEMBERS.state != State.SKIPPED)
        if connection.execute(alive.limit(1)).first() is None:
            raise no_target(connection, rollout_id, plan)
        self._begun(connection, rollout_id, plan, now)
        return rollout_id, True

    def _insert(self, connection: Connection, plan: Plan, by: str, key: str | None, now: int, **more: Any) -> int:
        newest = connection.scalar(select(func.max(rollouts.c.id))) or 0
        row = {
            "id": newest + 1,  # people count rollouts: one that was refused leaves no gap
            "key": key,
            "product": plan.product,
            "version": plan.version,
            "plan": plan.as_dict(),
            "priority": plan.priority,
            "note": plan.note,
            "by": by,
            "state": Progress.RUNNING,
            "reason": "",
            "phase_since": now,
            "created": now,
            "expires": now + plan.expires,
        }
        connection.execute(insert(rollouts).values(row | more))
        return newest + 1

    def _begun(self, connection: Connection, rollout_id: int, plan: Plan, now: int) -> None:
        number = connection.scalar(select(func.count()).where(MEMBERS.rollout_id == rollout_id)) or 0
        detail = f"{plan.product} {plan.version} to {number} device" + ("s" if number != 1 else "")
        self._tell(connection, rollout_id, "started", detail, now)
        self._course.advance(connection, rollout_id, now)
        self._course.advance_others(connection, rollout_id, now)

    def _act(self, rollout_id: int, change: Callable[[Connection, Row[Any]], None], now: int) -> None:
        def acted(connection: Connection) -> None:
            change(connection, self._course.row(connection, rollout_id))
            self._course.advance(connection, rollout_id, now)

        self._database.write(acted)

    def _abort(self, connection: Connection, row: Row[Any], reason: str, now: int) -> None:
        if row.state not in (Progress.RUNNING, Progress.PAUSED, Progress.HALTED):
            raise _finished(row)
        _set(connection, row.id, state=Progress.ABORTED, reason=reason, finished=now)
        self._tell(connection, row.id, "aborted", reason, now)

    def _check_quarantine(self, connection: Connection, row: Row[Any]) -> None:
        if row.kind == "update":
            _check_release(connection, self._course.plan(row))

    def _tell(self, connection: Connection, rollout_id: int, cause: str, detail: str, now: int) -> None:
        append(self._database, connection, [NewEvent(now, "rollout", cause, detail, rollout_id=rollout_id)])


def _known(connection: Connection, key: str | None) -> int | None:
    if key is None:
        return None
    return connection.scalar(select(rollouts.c.id).where(rollouts.c.key == key))


def _set(connection: Connection, rollout_id: int, **values: Any) -> None:
    connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(values))


def _check_release(connection: Connection, plan: Plan) -> None:
    for version in dict.fromkeys((plan.version, *(step.through for step in plan.steps))):
        release = bundles.of_release(connection, plan.product, version)
        if not release:
            what = f"there is no bundle of {plan.product} {version}"
            raise ServerError("release.unknown", what, "see: beamfleet bundle list")
        if quarantine.among(connection, [bundle.manifest for bundle in release]):
            raise _quarantined(f"{plan.product} {version}")


def _quarantined(what: str) -> ServerError:
    hint = "see why: beamfleet quarantine list; when that is settled: beamfleet quarantine lift PRODUCT VERSION"
    return ServerError("release.quarantined", f"{what} is in quarantine: it failed on devices", hint)


def _bad(connection: Connection, rollout_id: int) -> int:
    ended = MEMBERS.state.in_((State.REVERTED, State.FAILED))
    query = select(func.count()).where(MEMBERS.rollout_id == rollout_id, ended, MEMBERS.evidence)
    return connection.scalar(query) or 0


def _try_again(connection: Connection, rollout_id: int, names: Collection[str] | None, now: int) -> int:
    ours = [MEMBERS.rollout_id == rollout_id, MEMBERS.heard]
    if names is not None:
        ours.append(MEMBERS.device_id.in_(select(devices.c.id).where(devices.c.name.in_(sorted(names)))))
    ended = MEMBERS.state.in_((State.REVERTED, State.FAILED))
    again = {
        "state": State.PENDING,
        "reason": "retry",
        "detail": "",
        "evidence": False,
        "tries": 0,
        "next_try": None,
        "deadline": None,
        "updated": now,
    }
    failed = update(rollout_devices).where(*ours, ended).values(**again, attempt=MEMBERS.attempt + 1)
    number = connection.execute(failed).rowcount
    if names is not None:
        waits = update(rollout_devices).where(*ours, MEMBERS.state == State.PENDING, MEMBERS.next_try > now)
        number += connection.execute(waits.values(next_try=None)).rowcount
    return int(number)


def _by(by: str, what: str = "") -> str:
    return f"by {by}: {what}" if by and what else f"by {by}" if by else what


def _finished(row: Row[Any]) -> ServerError:
    hint = f"see: beamfleet rollout status {row.id}"
    return ServerError("rollout.finished", f"rollout {row.id} is {row.state} already", hint)
