"""Devices that leave, over the operators' API: their sessions end, others get their places, the audit has the act."""

from pathlib import Path

from tests.server.conftest import Centre
from tests.support.server import eventually


def actions(centre: Centre, device: str) -> list[tuple[str, str, str]]:
    entries = centre.server.get("/audit?newest=true&limit=1000")["items"]
    return [(each["action"], each["outcome"], each["detail"]) for each in entries if each["target"] == device]


def ids(centre: Centre, query: str) -> list[str]:
    return [each["id"] for each in centre.server.get(f"/devices?{query}")["items"]]


def test_a_decommissioned_device_is_shut_out_and_its_history_stays(centre: Centre, tmp_path: Path) -> None:
    device = centre.device("leaves-1", labels={"bench": "leaves"})
    left = centre.server.post("/devices/leaves-1/decommission", {}, 200)
    assert left["retired"] is not None
    assert (left["retired_by"], left["replaced_by"]) == ("admin", "")
    eventually("the end of its session", lambda: not device._client.is_connected())
    device.close()
    assert ids(centre, "selector=bench=leaves") == []
    (shown,) = centre.server.get("/devices?selector=bench=leaves&retired=true")["items"]
    assert (shown["id"], shown["retired"]) == ("leaves-1", left["retired"])
    history = [(each["kind"], each["cause"]) for each in centre.server.get("/devices/leaves-1")["history"]]
    assert {("retired", "decommissioned"), ("enrolled", "token")} <= set(history)
    assert centre.server.post("/devices/leaves-1/decommission", {}, 200)["retired"] == left["retired"]
    assert actions(centre, "leaves-1")[-2:] == [("devices.decommission", "ok", "")] * 2
    assert "leaves-1" not in [each["id"] for each in centre.server.get("/health/devices")["items"]]
    assert centre.server.api("DELETE", "/devices/leaves-1").status_code == 200
    assert centre.server.api("GET", "/devices/leaves-1").json()["code"] == "device.unknown"


def test_a_board_that_enrols_later_gets_the_place_of_the_one_that_it_replaces(centre: Centre, tmp_path: Path) -> None:
    old = centre.server.enrol("broken-1", tmp_path, labels={"bench": "broken"})
    assert centre.server.fetch(old, "/assignment").status_code == 204
    waiting = centre.server.post("/devices/broken-1/replace", {"by": "spare-1"}, 200)
    assert (waiting["by"], waiting["handed_over"], waiting["waits"]) == ("spare-1", None, False)
    assert centre.server.fetch(old, "/assignment").json()["code"] == "certificate.unknown"
    new = centre.server.enrol("spare-1", tmp_path)
    assert centre.server.fetch(new, "/assignment").status_code == 204
    assert ids(centre, "selector=bench=broken") == ["spare-1"]
    assert centre.server.get("/devices/spare-1")["replaces"] == "broken-1"
    again = centre.server.post("/devices/broken-1/replace", {"by": "spare-1"}, 200)
    assert again["handed_over"] is not None
    assert actions(centre, "broken-1")[-1] == ("devices.replace", "ok", "by spare-1")
    refused = centre.server.api("POST", "/devices/broken-1/replace", json={"by": "spare-2"})
    assert (refused.status_code, refused.json()["code"]) == (409, "device.replaced")
    assert actions(centre, "broken-1")[-1] == ("devices.replace", "device.replaced", "by spare-2")
