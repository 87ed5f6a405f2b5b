"""The same as the store does, by hand: in raw SQL through the driver, and in ORM rows one by one. What `./dev bench
rollout` compares with; each leaves the same rows behind as the store does.

Raw SQL is what somebody would write who knows that this plan has one phase, no windows and no stones."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from beamfleet_bundles.names import target_path
from beamfleet_server.fleet import decision, member
from beamfleet_server.fleet.draw import draw, mixed
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import Progress, State
from beamfleet_server.store.assignments import Sign, Wanted
from beamfleet_server.store.tables import applications, assignments, bundles, devices, rollout_devices, rollouts
from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session, registry

from tests.support.fleet_store import PRODUCT, TARGET, manifest_of

VERSION = "1.1.0"
MAIN = "main"

JOIN = """
INSERT INTO rollout_devices (rollout_id, device_id, bundle_id, attempt, draw, state, reason, detail, evidence, heard,
    withdrawal, step, tries, updated)
SELECT :rollout, d.id, :bundle, 1, (d.lot * :a + :b) % 2147483647,
    CASE WHEN d.pinned <> '' THEN 'skipped' WHEN a.manifest = :manifest AND a.phase = 'committed' THEN 'committed'
        ELSE 'pending' END,
    CASE WHEN d.pinned <> '' THEN 'pinned' WHEN a.manifest = :manifest AND a.phase = 'committed' THEN 'already'
        ELSE '' END,
    '', false, d.pinned = '', false, false, 0, :now
FROM devices d JOIN applications a ON a.device_id = d.id AND a.app = 'main'
WHERE a.arch = 'x86_64' AND a.libc = 'glibc'
"""
OBSERVE = """
UPDATE rollout_devices SET state = found.told, reason = found.reason, detail = '',
    evidence = found.told IN ('reverted', 'failed'), updated = :now,
    deadline = CASE WHEN found.told IN ('committed', 'reverted', 'failed') THEN NULL ELSE deadline END
FROM (
    SELECT m.device_id AS id, a.update_reason AS reason,
        CASE WHEN a.phase = 'committed' AND a.manifest = b.manifest THEN 'committed'
            WHEN a.update_phase = 'verified' THEN 'verifying' ELSE a.update_phase END AS told
    FROM rollout_devices m JOIN applications a ON a.device_id = m.device_id AND a.app = 'main'
        JOIN bundles b ON b.id = m.bundle_id
    WHERE m.rollout_id = :rollout AND m.heard AND m.offered_at IS NOT NULL AND m.device_id IN (:ids)
        AND a.update_manifest = b.manifest AND a.update_attempt = m.attempt
) AS found
WHERE rollout_id = :rollout AND device_id = found.id AND state <> found.told
"""
COUNT = "SELECT phase, state, count(*) FROM rollout_devices WHERE rollout_id = :rollout GROUP BY phase, state"
OFFER = """
UPDATE rollout_devices SET state = 'offered', reason = '', detail = '', phase = 0, next_try = NULL,
    offered_at = :now, deadline = :deadline, updated = :now, before_id = (
        SELECT b.id FROM applications a JOIN bundles b ON b.manifest = a.manifest
        WHERE a.device_id = rollout_devices.device_id AND a.app = 'main')
WHERE rollout_id = :rollout AND device_id IN (
    SELECT m.device_id FROM rollout_devices m JOIN devices d ON d.id = m.device_id
    WHERE m.rollout_id = :rollout AND m.state = 'pending' AND d.online AND d.pinned = ''
    ORDER BY m.draw, d.name LIMIT :most)
RETURNING device_id, attempt
"""
NEWEST = """
SELECT d.id, d.name, a.sequence, s.sequence FROM devices d JOIN applications a ON a.device_id = d.id AND a.app = 'main'
LEFT JOIN assignments s ON s.device_id = d.id AND s.app = 'main' WHERE d.id IN (:ids) ORDER BY d.id
"""
TELL = """
INSERT INTO assignments (device_id, app, sequence, attempt, bundle_id, created, publication, body, rollout_id, force)
VALUES (:device, 'main', :sequence, :attempt, :bundle, :now, :publication, :body, :rollout, false)
"""
BEGIN = """
INSERT INTO rollouts (product, version, plan, kind, priority, note, "by", state, reason, paused_reason, phase,
    phase_since, gate, forgiven, created, expires)
VALUES (:product, :version, :plan, 'update', 0, '', 'bench', 'running', '', '', 0, :now, '', 0, :now, :expires)
RETURNING id
"""
SAY = """
INSERT INTO events (time, kind, cause, detail, rollout_id, data)
VALUES (:now, 'rollout', 'started', :detail, :rollout, '{}')
"""


class Raw:
    """Statements through the driver's own cursor, inside a change of the store's writer."""

    def __init__(self, connection: Connection, sign: Sign, plan: Plan, now: int) -> None:
        driver: Any = connection.connection.driver_connection
        self._cursor = driver.cursor()
        self._postgresql = connection.dialect.name == "postgresql"
        self._sign, self._plan, self._now = sign, plan, now
        self._facts: dict[str, Any] = {"now": now, "deadline": now + plan.deadline}

    def start(self) -> int:
        """A rollout with all devices as members, and an offer to the canary."""
        asked = {"product": PRODUCT, "version": VERSION, "plan": json.dumps(self._plan.as_dict())}
        (rollout,) = self._rows(BEGIN, **asked, expires=self._now + self._plan.expires)[0]
        self._rows("SELECT DISTINCT arch, libc, hardware FROM applications WHERE state_seq >= 0")
        a, b = mixed(self._plan.salt)
        known = {"rollout": rollout, "bundle": self._bundle(), "manifest": manifest_of(VERSION)}
        self._execute(JOIN, **known, a=a, b=b)
        if self._postgresql:
            self._execute("ANALYZE rollout_devices")
        counts = self._rows(COUNT, rollout=rollout)
        self._execute(SAY, rollout=rollout, detail=f"{PRODUCT} {VERSION} to {sum(row[2] for row in counts)} devices")
        self._offer(rollout, 1)
        return int(rollout)

    def advance(self, rollout: int, device_ids: Sequence[int]) -> None:
        """Take in what these devices said, count, and fill the places that are free, at most a batch."""
        self._execute(OBSERVE, rollout=rollout, ids=device_ids)
        counts = self._rows(COUNT, rollout=rollout)
        flying = sum(number for phase, state, number in counts if phase is not None and state != State.COMMITTED)
        if flying < self._plan.max_parallel:
            self._offer(rollout, min(decision.BATCH, self._plan.max_parallel - flying))

    def _offer(self, rollout: int, most: int) -> None:
        attempts = dict(self._rows(OFFER, rollout=rollout, most=most))
        ids, bundle, manifest = list(attempts), self._bundle(), manifest_of(VERSION)
        ((publication,),) = self._rows("SELECT coalesce(max(publication), 0) FROM assignments")
        newest = self._rows(NEWEST, ids=ids)
        self._execute("DELETE FROM assignments WHERE app = 'main' AND device_id IN (:ids)", ids=ids)
        rows = []
        for number, (device, name, reported, before) in enumerate(newest, publication + 1):
            sequence = max((before or 0) + 1, self._now, reported + 1)
            path = target_path(PRODUCT, VERSION, TARGET)
            body = self._sign(Wanted(name, MAIN, sequence, attempts[device], path, 1000, manifest))
            row = {"device": device, "sequence": sequence, "attempt": attempts[device], "bundle": bundle}
            rows.append(row | {"now": self._now, "publication": number, "body": body, "rollout": rollout})
        self._cursor.executemany(self._spelled(TELL), rows)

    def _bundle(self) -> int:
        ((bundle,),) = self._rows("SELECT id FROM bundles WHERE manifest = :manifest", manifest=manifest_of(VERSION))
        return int(bundle)

    def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        self._execute(statement, **values)
        return list(self._cursor.fetchall())

    def _execute(self, statement: str, **values: Any) -> None:
        ids: Sequence[int] = values.pop("ids", ())
        named = {f"id{number}": each for number, each in enumerate(ids)}
        spelled = self._spelled(statement.replace(":ids", ", ".join(f":{name}" for name in named)))
        self._cursor.execute(spelled, self._facts | values | named)

    def _spelled(self, statement: str) -> str:
        if not self._postgresql:
            return statement
        return re.sub(r":([a-z]\w*)", r"%(\1)s", statement.replace("%", "%%"))


class Rows:
    """Objects that are loaded, changed and flushed one by one; the rules decide for each of them."""

    def __init__(self, connection: Connection, sign: Sign, plan: Plan, now: int) -> None:
        self._session = Session(connection)
        self._sign, self._plan, self._now = sign, plan, now

    def join(self, device_ids: Sequence[int]) -> None:
        """A rollout with these devices as members."""
        rollout = _Rollout(
            product=PRODUCT, version=VERSION, plan=self._plan.as_dict(), note="", by="bench", state="running",
            reason="", created=self._now, expires=self._now + self._plan.expires,
        )  # fmt: skip
        self._session.add(rollout)
        self._session.flush()
        bundle = self._bundle()
        for number in device_ids:
            device = self._session.get_one(_Device, number)
            application = self._session.get_one(_Application, (number, MAIN))
            state, reason = State.PENDING, ""
            if device.pinned:
                state, reason = State.SKIPPED, "pinned"
            elif application.manifest == bundle.manifest and application.phase == "committed":
                state, reason = State.COMMITTED, "already"
            self._session.add(
                _Member(
                    rollout_id=rollout.id, device_id=number, bundle_id=bundle.id, attempt=1, state=state,
                    draw=draw(self._plan.salt, device.name), reason=reason, updated=self._now,
                )
            )  # fmt: skip
            self._session.flush()

    def advance(self, rollout: int, device_ids: Sequence[int]) -> None:
        """Take in what these devices said, count, and fill the places that are free, at most a batch."""
        bundle = self._bundle()
        for number in device_ids:
            row = self._session.get_one(_Member, (rollout, number))
            report = _report(self._session.get_one(_Application, (number, MAIN)))
            before = member.Member(
                bundle.manifest, row.attempt, State(row.state), row.reason, row.detail, row.phase,
                offered=row.offered_at is not None, tries=row.tries, deadline=row.deadline, updated=row.updated,
            )  # fmt: skip
            after = member.observed(before, report, self._plan, self._now)
            row.state, row.reason, row.detail, row.evidence = after.state, after.reason, after.detail, after.evidence
            row.deadline, row.updated = after.deadline, after.updated
            if after.state is State.COMMITTED:
                row.deadline = None
            self._session.flush()
        for order in self._decided(rollout):
            if isinstance(order, decision.Offer):
                self._offer(rollout, order.limit)

    def _decided(self, rollout: int) -> list[decision.Order]:
        columns = (rollout_devices.c.phase, rollout_devices.c.state, func.count())
        ours = rollout_devices.c.rollout_id == rollout
        counts = self._session.execute(select(*columns).where(ours).group_by(*columns[:2])).all()
        committed = sum(row[2] for row in counts if row[1] == State.COMMITTED)
        pending = sum(row[2] for row in counts if row[1] == State.PENDING)
        flying = sum(row[2] for row in counts) - committed - pending
        tally = decision.Tally(in_flight=flying, committed=committed)
        numbers = decision.Counts(
            sum(row[2] for row in counts), (tally,), pending=pending, pending_ready=min(pending, decision.BATCH)
        )
        row = self._session.get_one(_Rollout, rollout)
        return decision.decide(decision.Rollout(self._plan, row.expires, Progress(row.state)), numbers, self._now)

    def _offer(self, rollout: int, limit: int) -> None:
        bundle, manifest = self._bundle(), manifest_of(VERSION)
        waiting = (
            select(_Member)
            .join(_Device, devices.c.id == rollout_devices.c.device_id)
            .where(rollout_devices.c.rollout_id == rollout, rollout_devices.c.state == State.PENDING, devices.c.online)
            .order_by(rollout_devices.c.draw, devices.c.name)
            .limit(limit)
        )
        publication = self._session.scalar(select(func.max(assignments.c.publication))) or 0
        path = target_path(PRODUCT, VERSION, TARGET)
        for number, row in enumerate(self._session.scalars(waiting).all(), publication + 1):
            device = self._session.get_one(_Device, row.device_id)
            application = self._session.get_one(_Application, (row.device_id, MAIN))
            runs = self._session.scalars(select(_Bundle).where(bundles.c.manifest == application.manifest)).one()
            row.state, row.phase, row.before_id, row.offered_at = State.OFFERED, 0, runs.id, self._now
            row.deadline, row.updated = self._now + self._plan.deadline, self._now
            told = self._session.get_one(_Assignment, (row.device_id, MAIN))
            told.sequence = max(told.sequence + 1, self._now, application.sequence + 1)
            told.attempt, told.bundle_id, told.created, told.rollout_id = row.attempt, bundle.id, self._now, rollout
            told.publication = number
            told.body = self._sign(Wanted(device.name, MAIN, told.sequence, row.attempt, path, 1000, manifest))
            self._session.flush()

    def _bundle(self) -> Any:
        return self._session.scalars(select(_Bundle).where(bundles.c.manifest == manifest_of(VERSION))).one()


def _report(row: Any) -> member.Report:
    names: Mapping[str, Any] = member.Report.__dataclass_fields__
    return member.Report(**{name: getattr(row, name) for name in names if name != "seen"})


_mapped = registry()
_Device: Any = type("_Device", (), {})
_Application: Any = type("_Application", (), {})
_Assignment: Any = type("_Assignment", (), {})
_Bundle: Any = type("_Bundle", (), {})
_Member: Any = type("_Member", (), {})
_Rollout: Any = type("_Rollout", (), {})
for _each, _table in (
    (_Device, devices), (_Application, applications), (_Assignment, assignments), (_Bundle, bundles),
    (_Member, rollout_devices), (_Rollout, rollouts),
):  # fmt: skip
    _mapped.map_imperatively(_each, _table)
