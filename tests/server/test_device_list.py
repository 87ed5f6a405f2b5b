"""The list of devices says of each what its own page says, in the shape that is described, on both databases."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_server.api.operators import device_list
from beamfleet_server.api.operators.devices import details
from beamfleet_server.api.schemas import Device, Page
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store.reports import Report

from tests.support.fleet_store import FleetStore, manifest_of, presence
from tests.support.mqtt_device import update
from tests.support.postgres import Place


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    store = FleetStore(tmp_path, place)
    yield store
    store.close()


def listed(fleet: FleetStore, limit: int, after: str = "") -> dict[str, object]:
    """A page as it travels."""
    rows = fleet.store.devices.page(Selector(), after, limit + 1)
    page: dict[str, object] = json.loads(device_list.encode(rows, limit))
    Page[Device].model_validate(page)
    return page


def test_each_device_of_the_list_is_as_its_own_page_has_it(fleet: FleetStore) -> None:
    fleet.enrol("a-silent")
    fleet.enrol("b-busy", site="berlin", rack="7")
    fleet.enrol("c-reverted", "d-twins")
    fleet.publish("1.0.0")
    fleet.online("b-busy", "c-reverted")
    downloading = update("downloading", manifest_of("1.0.0"))
    fleet.report("b-busy", inventory={"unsafe_filesystem": True}, starts=4, cause="crash")
    fleet.report("c-reverted", update=update("reverted", manifest_of("1.0.0"), reason="crash"), failed="x:1:crash")
    rollout = fleet.roll_out("1.0.0", selector="site=berlin")
    fleet.report("b-busy", update=downloading, inventory={"unsafe_filesystem": True}, starts=4, cause="crash")
    told = {"v": 1, "manifest": manifest_of("1.0.0"), "phase": "downloading", "done": 40, "total": 90}
    fleet.apply(Report("b-busy", "main", "progress", told))
    for number, machine in enumerate("ababab", 1):
        fleet.apply(Report("d-twins", "main", "presence", presence(number, machine=machine * 32)))

    items = listed(fleet, 10)["items"]
    assert isinstance(items, list)
    by_name = {item["id"]: item for item in items}
    assert list(by_name) == ["a-silent", "b-busy", "c-reverted", "d-twins"]
    for name, item in by_name.items():
        page = details(fleet.store, fleet.store.devices.find(name)).model_dump()
        page["health"] = {key: page["health"][key] for key in ("verdict", "time")}
        assert item == {key: page[key] for key in item}
    busy = by_name["b-busy"]
    assert (busy["rollout"], busy["labels"]) == (rollout, {"site": "berlin", "rack": "7"})
    assert (busy["update"]["done"], busy["update"]["total"], busy["unsafe_filesystem"]) == (40, 90, True)
    assert (by_name["a-silent"]["update"], by_name["a-silent"]["labels"]) == (None, {})
    assert by_name["d-twins"]["clone"] is not None


def test_a_page_names_the_next_one_exactly_when_there_is_one(fleet: FleetStore) -> None:
    fleet.enrol("a", "b", "c")
    assert listed(fleet, 2)["next"] == "b"
    assert listed(fleet, 2, "b")["next"] is None
    assert listed(fleet, 3)["next"] is None
