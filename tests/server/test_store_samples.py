"""The history of devices' numbers: buckets, their rings, hours made of them, what comes late, and what is bounded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.checks.report import LARGEST
from beamfleet_server.errors import ServerError
from beamfleet_server.store.health_tables import HEADLINES, samples
from beamfleet_server.store.samples import BETWEEN_S, GRACE_S, LONG_S, MOST, SHORT_S, SLOTS, Bucket, Point
from beamfleet_server.store.telemetry import Sample
from sqlalchemy import func, select

from tests.support.fleet_store import FleetStore
from tests.support.postgres import Place


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    opened.now -= opened.now % LONG_S
    opened.enrol("dev-1", "dev-2")
    yield opened
    opened.close()


def take(fleet: FleetStore, *memory: int, name: str = "dev-1", at: int | None = None) -> None:
    time = fleet.now if at is None else at
    new = [Sample(name, "main", time, dict.fromkeys(HEADLINES) | {"memory": size}) for size in memory]
    fleet.store.samples.take(new, fleet.now)


def shown(fleet: FleetStore, resolution: int = SHORT_S, name: str = "dev-1", since: int = 0) -> list[tuple[Any, ...]]:
    """(seconds before now, n, average and largest memory) of each bucket."""
    found = fleet.store.samples.find(name, "main", resolution, since, fleet.now)
    return [(point.time - fleet.now, point.n, point.numbers["memory"]) for point in found]


def rows(fleet: FleetStore) -> int:
    number = select(func.count()).select_from(samples)
    return fleet.store.database.read(lambda connection: connection.scalar(number)) or 0


def test_a_bucket_is_one_row_when_it_is_over_and_is_shown_before(fleet: FleetStore) -> None:
    take(fleet, 10, 20, 60)
    assert shown(fleet) == [(0, 3, (30, 60))]
    fleet.now += SHORT_S + GRACE_S - 1
    assert fleet.store.samples.write(fleet.now) == 0
    fleet.now += 1
    assert fleet.store.samples.write(fleet.now) == 1
    assert shown(fleet) == [(-SHORT_S - GRACE_S, 3, (30, 60))]
    assert fleet.store.samples.find("dev-1", "main", SHORT_S, 0, fleet.now)[0] == Point(
        fleet.now - SHORT_S - GRACE_S, 3, dict.fromkeys(HEADLINES) | {"memory": (30, 60)}
    )


def test_a_stop_keeps_the_open_bucket_and_a_start_goes_on_with_it(fleet: FleetStore) -> None:
    take(fleet, 10)
    fleet.store.samples.write(fleet.now, everything=True)
    take(fleet, 30, 50)
    assert shown(fleet) == [(0, 3, (30, 50))]
    fleet.store.samples.write(fleet.now, everything=True)
    assert shown(fleet) == [(0, 3, (30, 50))]
    assert rows(fleet) == 1


def test_an_hour_is_made_of_its_parts_when_it_is_over(fleet: FleetStore) -> None:
    for size in (10, 30):
        take(fleet, size)
        fleet.now += SHORT_S
    take(fleet, 80, name="dev-2")
    fleet.now += LONG_S
    fleet.store.samples.write(fleet.now)
    assert shown(fleet, LONG_S) == [(-LONG_S - 2 * SHORT_S, 2, (20, 30))]
    assert shown(fleet, LONG_S, "dev-2") == [(-LONG_S - 2 * SHORT_S, 1, (80, 80))]


def test_what_comes_late_is_put_into_its_bucket_and_its_hour(fleet: FleetStore) -> None:
    begin = fleet.now
    take(fleet, 10)
    fleet.now += 2 * LONG_S
    fleet.store.samples.write(fleet.now)
    assert shown(fleet, LONG_S) == [(-2 * LONG_S, 1, (10, 10))]
    take(fleet, 30, at=begin + 10)
    take(fleet, 50, at=begin + SHORT_S)
    found = [(-2 * LONG_S, 2, (20, 30)), (-2 * LONG_S + SHORT_S, 1, (50, 50))]
    assert fleet.store.samples.write(fleet.now) == 0, "it was written just now"
    assert shown(fleet) == found
    fleet.now += BETWEEN_S
    assert fleet.store.samples.write(fleet.now) == 2
    fleet.now -= BETWEEN_S
    assert shown(fleet) == found
    assert shown(fleet, LONG_S) == [(-2 * LONG_S, 3, (35, 50))]


def test_two_full_buckets_of_the_largest_numbers_can_be_joined() -> None:
    one, other = Bucket(), Bucket()
    for bucket in (one, other):
        for _ in range(MOST + 1):
            bucket.add(dict.fromkeys(HEADLINES, LARGEST))
    one.join(other.row())
    assert one.row()["memory_avg"] == one.row()["memory_max"] == LARGEST


def test_the_rings_are_bounded_and_old_buckets_go(fleet: FleetStore) -> None:
    take(fleet, 10)
    fleet.store.samples.write(fleet.now, everything=True)
    fleet.now += SHORT_S * SLOTS[SHORT_S]
    assert shown(fleet) == [], "its slot is that of now"
    take(fleet, 20)
    take(fleet, 99, at=fleet.now - SHORT_S * SLOTS[SHORT_S])
    fleet.store.samples.write(fleet.now, everything=True)
    assert shown(fleet) == [(0, 1, (20, 20))]
    kept = select(samples.c.time).where(samples.c.resolution == SHORT_S)
    assert fleet.store.database.read(lambda connection: list(connection.scalars(kept))) == [fleet.now]


def test_a_history_begins_where_it_is_asked_to(fleet: FleetStore) -> None:
    for size in (10, 20, 30):
        take(fleet, size)
        fleet.now += SHORT_S
    fleet.store.samples.write(fleet.now + GRACE_S)
    assert [each[2] for each in shown(fleet, since=fleet.now - SHORT_S - 1)] == [(20, 20), (30, 30)]
    assert shown(fleet, since=2**62) == []


def test_what_cannot_be_written_is_written_later_with_what_came_meanwhile(
    fleet: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(fleet, 10)

    def away(_: object) -> None:
        take(fleet, 30)
        raise ServerError("server.database_unreachable", "gone", "")

    with monkeypatch.context() as patched:
        patched.setattr(fleet.store.database, "write", away)
        with pytest.raises(ServerError):
            fleet.store.samples.write(fleet.now, everything=True)
    assert shown(fleet) == [(0, 2, (20, 30))]
    fleet.store.samples.write(fleet.now, everything=True)
    assert shown(fleet) == [(0, 2, (20, 30))]


def test_a_deleted_device_leaves_nothing_and_gets_nothing(fleet: FleetStore) -> None:
    take(fleet, 10)
    take(fleet, 20, name="dev-2")
    fleet.now += 2 * LONG_S
    fleet.store.samples.write(fleet.now)
    assert rows(fleet) == 4
    take(fleet, 30)
    fleet.store.devices.remove("dev-1", fleet.now)
    fleet.store.samples.write(fleet.now, everything=True)
    assert rows(fleet) == 2
    assert shown(fleet, name="dev-2") == [(-2 * LONG_S, 1, (20, 20))]
