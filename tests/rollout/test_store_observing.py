"""The UPDATE that takes in what devices say is `fleet.member.observed`, for every kind of row and report, on both
databases."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from random import Random

import pytest
from beamfleet_server.fleet.member import Member, Report, observed, told
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import IN_FLIGHT, State
from beamfleet_server.store import Store
from beamfleet_server.store.bundles import add
from beamfleet_server.store.observing import observe, stale
from beamfleet_server.store.tables import applications, devices, rollout_devices, rollouts
from sqlalchemy import Connection, insert, select

from tests.rollout.world import PLAIN, manifest_of
from tests.support.fleet_store import bundle_of
from tests.support.postgres import Place

NOW = 1_800_000_000
OURS, OTHER = manifest_of("1.1.0"), manifest_of("1.0.0")
REASONS = (
    "", "deadline", "held", "crash", "power", "unconfirmed", "worker.network", "worker.networks", "Worker.network",
    "enrol.refused", "enrolled", "hook.busy", "update.hook", "pack.hash",
)  # fmt: skip
ROWS = 4000


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = Store(place, lambda _: b"")
    opened.open()
    yield opened
    opened.close()


def a_member(chance: Random) -> Member:
    state = chance.choice(list(State))
    detail = chance.choice(("", *IN_FLIGHT)) if state is State.FAILED else chance.choice(("", "told"))
    return Member(
        manifest=OURS,
        attempt=chance.choice((1, 2, 3)),
        state=state,
        reason=chance.choice(REASONS),
        detail=str(detail),
        phase=chance.choice((None, 0, 1)),
        offered=chance.random() < 0.85,
        step=chance.random() < 0.2,
        tries=chance.choice((0, 1, 2, 3)),
        next_try=chance.choice((0, NOW - 5, NOW + 5)),
        deadline=chance.choice((None, NOW - 1, NOW, NOW + 1)) if state in IN_FLIGHT else None,
        evidence=chance.random() < 0.4,
        updated=NOW - chance.choice((10, 20)),
    )


def a_report(chance: Random) -> Report:
    return Report(
        manifest=chance.choice((OURS, OTHER, "")),
        phase=chance.choice(("none", "trial", "committed", "reverted", "fallback")),
        failed_slot=chance.choice((OURS[:32], OTHER[:32], "")),
        failed_attempt=chance.choice((0, 1, 2)),
        failed_cause=chance.choice(REASONS),
        update_phase=chance.choice(
            ("", "idle", "downloading", "verified", "staged", "swapping", "trial", "committed", "reverted", "failed")
        ),
        update_manifest=chance.choice((OURS, OURS, OTHER)),
        update_attempt=chance.choice((1, 2)),
        update_reason=chance.choice(REASONS),
        update_detail=chance.choice(("", "so it was")),
        seen=NOW - chance.choice((5, 15, 25)),
    )


def put(connection: Connection, rows: list[tuple[Member, Report]], plan: Plan) -> None:
    add(connection, bundle_of("1.1.0", PLAIN, OURS, NOW))
    kept = {"id": 1, "product": plan.product, "version": plan.version, "plan": plan.as_dict(), "note": ""}
    connection.execute(insert(rollouts).values(**kept, state="running", reason="", created=NOW))
    numbered = list(zip(count(1), rows))
    connection.execute(
        insert(devices), [{"id": id_, "name": f"gw-{id_}", "last_seen": report.seen} for id_, (_, report) in numbered]
    )
    said = [name for name in Report.__dataclass_fields__ if name != "seen"]
    connection.execute(
        insert(applications),
        [
            {"device_id": id_, "app": "main"} | {name: getattr(report, name) for name in said}
            for id_, (_, report) in numbered
        ],
    )
    same = ("attempt", "state", "reason", "detail", "phase", "step", "tries", "deadline", "evidence", "updated")
    connection.execute(
        insert(rollout_devices),
        [
            {"rollout_id": 1, "device_id": id_, "bundle_id": 1, "draw": id_}
            | {name: getattr(member, name) for name in same}
            | {"offered_at": NOW - 30 if member.offered else None, "next_try": member.next_try or None}
            for id_, (member, _) in numbered
        ],
    )


def kept(connection: Connection) -> list[Member]:
    found = []
    for row in connection.execute(select(rollout_devices).order_by(rollout_devices.c.device_id)):
        climbed = row.bundle_id is None
        found.append(
            Member(
                manifest="" if climbed else OURS,
                attempt=row.attempt,
                state=State(row.state),
                reason=row.reason,
                detail=row.detail,
                phase=row.phase,
                offered=row.offered_at is not None,
                step=row.step,
                tries=row.tries,
                next_try=row.next_try or 0,
                deadline=row.deadline,
                evidence=row.evidence,
                updated=row.updated,
            )
        )
    return found


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_update_is_the_pure_rule(store: Store, seed: int, retries: int) -> None:
    chance = Random(seed)  # noqa: S311 (the same again every time)
    plan = Plan.parse(
        {
            "product": "sensor-gateway",
            "version": "1.1.0",
            "devices": {"all": True},
            "retries": retries,
            "backoff": "45s",
        }
    )
    rows = [(a_member(chance), a_report(chance)) for _ in range(ROWS)]
    store.database.write(lambda connection: put(connection, rows, plan))
    expected = []
    for member, report in rows:
        after = observed(member, report, plan, NOW)
        word = told(member, report)
        passed = word is not None and word.state is State.COMMITTED and after.state is State.PENDING
        expected.append(replace(after, manifest="", step=False, updated=NOW) if passed else after)
    changed = {index for index, (member, _) in enumerate(rows, 1) if expected[index - 1] != member}
    late = store.database.read(lambda connection: stale(connection, 1, plan, ROWS, NOW, all_=True))
    assert set(late) == changed
    store.database.write(lambda connection: observe(connection, 1, plan, None, NOW))
    for member, (before, report), found in zip(expected, rows, store.database.read(kept), strict=True):
        assert found == member, (before, report)
    assert len({member.state for member in expected}) == len(State), "every state is reached"
    assert len(changed) > ROWS // 20
