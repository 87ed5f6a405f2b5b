"""Whom a plan means is the same in SQL as by the pure rule, for generated selections, on both databases."""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
from beamfleet_server.fleet.draw import draw, lot
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.selection import Candidate
from beamfleet_server.store import Store
from beamfleet_server.store.selecting import conditions, drawn, population, reasons
from beamfleet_server.store.tables import applications, devices, labels
from sqlalchemy import Connection, and_, insert, select

from tests.support.postgres import Place

FACTS = {
    "agent": ("0.1.0", "0.2.0"),
    "arch": ("x86_64", "aarch64", ""),
    "libc": ("glibc", "musl"),
    "hardware": ("", "rpi4", "kiosk"),
    "timezone": ("Europe/Berlin", "Asia/Tokyo", ""),
    "network": ("wired", "cellular", ""),
}
LABELS = {"site": ("berlin", "paris"), "ring": ("1", "2", "3"), "timezone": ("Europe/Berlin", "Pacific/Apia")}
VERSIONS = ("1.0.0", "1.0.5", "1.2.0", "1.10.0", "2.0.0-rc1", "2.0.0", "")
CONDITIONS = ("<1.2", ">=1.2,<2", "1.0.5", "!=2.0.0", "<=1.10", ">2")


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = Store(place, lambda _: b"")
    opened.open()
    yield opened
    opened.close()


def a_fleet(chance: Random) -> list[Candidate]:
    """Devices as rows; `facts` as they say them, without what labels and defaults make of it."""
    return [
        Candidate(
            f"gw-{number}",
            {key: chance.choice(values) for key, values in LABELS.items() if chance.random() < 0.6},
            {key: chance.choice(values) for key, values in FACTS.items()},
            chance.choice(VERSIONS),
        )
        for number in range(150)
    ]


def put(connection: Connection, fleet: list[Candidate]) -> None:
    for id_, each in enumerate(fleet, 1):
        said = {key: value for key, value in each.facts.items() if key != "agent"}
        row = {"id": id_, "name": each.device, "lot": lot(each.device), "agent": each.facts["agent"]}
        connection.execute(insert(devices).values(row))
        connection.execute(insert(applications).values(device_id=id_, app="main", version=each.version, **said))
        for key, value in each.labels.items():
            connection.execute(insert(labels).values(device_id=id_, key=key, value=value))


def seen(each: Candidate) -> Candidate:
    """The device as selections see it."""
    zone = each.labels.get("timezone") or each.facts["timezone"] or "UTC"
    facts = {**each.facts, "timezone": zone, "network": each.facts["network"] or "unknown"}
    return Candidate(each.device, each.labels, facts, each.version)


def a_selection(chance: Random) -> dict[str, Any]:
    chosen: dict[str, Any] = {"all": True}
    if chance.random() < 0.4:
        key = chance.choice(list(LABELS))
        chosen["labels"] = {key: chance.sample(LABELS[key], 2)}
    if chance.random() < 0.5:
        key = chance.choice(list(FACTS))
        values = [value for value in (*FACTS[key], "unknown") if value]
        chosen["facts"] = {key: chance.sample(values, chance.choice((1, 2)))}
    if chance.random() < 0.4:
        chosen["versions"] = chance.sample(CONDITIONS, chance.choice((1, 2)))
    if chance.random() < 0.2:
        chosen["ids"] = [f"gw-{chance.randrange(200)}" for _ in range(40)]
    if chance.random() < 0.4:
        chosen |= {"percent": chance.choice((1, 10, 50, 99)), "salt": chance.choice(("", "one", "two"))}
    return chosen


def test_sql_means_whom_the_rule_means(store: Store) -> None:
    chance = Random(7)  # noqa: S311 (the same again every time)
    fleet = a_fleet(chance)
    store.database.write(lambda connection: put(connection, fleet))
    met = 0
    for _ in range(120):
        plan = Plan.parse({"product": "p", "version": "1.0.0", "devices": a_selection(chance)})
        whys = {each.device: plan.devices.excluded(seen(each), plan.salt) for each in fleet}

        def meant(connection: Connection, plan: Plan = plan) -> dict[str, int]:
            query = select(devices.c.name, drawn(plan.salt)).select_from(population())
            rows = connection.execute(query.where(*conditions(connection, plan))).all()
            return {row[0]: row[1] for row in rows}

        def left_out(connection: Connection, word: str, plan: Plan = plan) -> set[str]:
            asked = dict(reasons(connection, plan))
            words = list(asked)
            first = [asked[other] for other in words[: words.index(word)]]
            query = select(devices.c.name).select_from(population()).where(and_(*first, ~asked[word]))
            return set(connection.scalars(query))

        found = store.database.read(meant)
        assert found == {name: draw(plan.salt, name) for name, why in whys.items() if not why}, plan.devices
        for word in {why for why in whys.values() if why}:
            named = store.database.read(partial(left_out, word=word))
            assert named == {name for name, why in whys.items() if why == word}, (word, plan.devices)
        met += 0 < len(found) < len(fleet)
    assert met > 60
