"""Devices' health over the API: the list by verdict, one device with all that it said, its history."""

import time
from typing import Any

import pytest

from tests.server.conftest import Centre
from tests.support.server import eventually


def report(**changes: Any) -> dict[str, Any]:
    """A full health report of a release that is well, but for `changes`."""
    beam = {"uptime_ms": 9, "memory": {"total": 40_000_000}, "processes": [50, 262_144], "queues": [], "atoms": [1, 10]}
    host = {"load": [10, 8, 5], "memory": [5 * 10**8, 10**9], "disk": [750, 1000], "temperature": 41_000}
    told = {"v": 1, "time": int(time.time()), "verdict": "healthy", "starts": 3, "full": True}
    return told | {"beam": beam | changes.pop("beam", {}), "host": host, "applications": ["kernel 8.5"]} | changes


def names(centre: Centre, query: str) -> list[str]:
    return [each["id"] for each in centre.server.get(f"/health/devices?{query}")["items"]]


def test_devices_are_listed_by_health_with_reasons_and_counted(centre: Centre) -> None:
    devices = [centre.device(f"health-{number}", labels={"ward": "7"}) for number in range(3)]
    centre.server.enrol("health-3", centre.work, labels={"ward": "7"})
    devices[0].publish("health", report(beam={"memory": {"total": 5}}))
    devices[1].publish("health", report(beam={"queues": [["worker", 100_000]], "restarts": 5}))
    devices[2].publish("health", report(beam={"atoms": [8, 10], "memory": {"total": 90_000_000}}))
    devices[2].acknowledged(devices[2].report())
    found = centre.server.get("/health/devices?selector=ward=7")
    assert found["counts"] == {"failing": 1, "degraded": 1, "unknown": 0, "offline": 1, "healthy": 1}
    assert [each["verdict"] for each in found["items"]] == ["failing", "degraded", "offline", "healthy"]
    worst = found["items"][0]
    assert worst["reasons"] == [{"check": "queues", "level": "failing", "detail": "100000 messages wait for worker"}]
    assert (worst["id"], worst["labels"], worst["online"], worst["starts"]) == ("health-1", {"ward": "7"}, True, 3)
    assert worst["beam"] == {
        "memory": 40_000_000,
        "processes": 50,
        "run_queue": None,
        "schedulers": None,
        "queue": 100_000,
        "queue_name": "worker",
        "atoms_permille": 100,
        "restarts": 5,
        "uptime_ms": 9,
    }
    assert worst["host"] == {"load": 10, "memory_permille": 500, "disk_permille": 250, "temperature": 41_000}
    absent = found["items"][2]
    assert (absent["beam"], absent["host"], absent["time"]) == (None, None, None)
    assert absent["reasons"] == [{"check": "offline", "level": "offline", "detail": "it was never here"}]
    assert names(centre, "selector=ward=7&verdict=failing,degraded") == ["health-1", "health-2"]
    assert names(centre, "selector=ward=7&sort=memory") == ["health-2", "health-1", "health-0", "health-3"]
    assert names(centre, "selector=ward=7&sort=name&limit=2") == ["health-0", "health-1"]
    assert centre.server.get("/health")["verdicts"]["failing"] >= 1
    for device in devices:
        device.close()


@pytest.mark.parametrize("sort", ["verdict", "name", "memory", "queue", "seen"])
def test_pages_of_any_order_miss_nothing_and_repeat_nothing(centre: Centre, sort: str) -> None:
    label = f"order-{sort}"
    for number in range(5):
        device = centre.device(f"{label}-{number}", labels={"order": sort})
        if number % 2:
            device.publish("health", report(beam={"memory": {"total": number // 3}}))
        device.acknowledged(device.report())
        device.close()
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        after = f"&cursor={cursor}" if cursor else ""
        page = centre.server.get(f"/health/devices?selector=order={sort}&sort={sort}&limit=2{after}")
        seen += [each["id"] for each in page["items"]]
        cursor = page["next"]
    assert sorted(seen) == [f"{label}-{number}" for number in range(5)]
    assert seen == names(centre, f"selector=order={sort}&sort={sort}")


def test_a_device_is_shown_with_its_health_and_its_history(centre: Centre) -> None:
    device = centre.device("history-1")
    device.publish("health", report())
    partial = {"v": 1, "time": int(time.time()), "verdict": "healthy", "starts": 3}
    device.publish("health", partial | {"beam": {"memory": {"total": 60_000_000}}})
    device.acknowledged(device.report())
    shown = centre.server.get("/devices/history-1")["health"]
    assert (shown["verdict"], shown["reasons"], shown["starts"]) == ("healthy", [], 3)
    assert shown["sections"]["beam"]["memory"] == {"total": 60_000_000}
    assert shown["sections"]["beam"]["processes"] == [50, 262_144], "what was not said again is as before"
    listed = centre.server.get("/devices?limit=1&cursor=history-0")["items"][0]
    assert listed["health"] == {"verdict": "healthy", "time": shown["time"]}
    answer = centre.server.get("/devices/history-1/samples")
    assert answer["resolution_s"] == 300
    assert sum(item["n"] for item in answer["items"]) == 2
    assert max(item["memory"][1] for item in answer["items"]) == 60_000_000
    assert answer["items"][0]["schedulers"] is None
    assert centre.server.get("/devices/history-1/samples?resolution=3600")["items"] == []
    device.close()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("verdict=ill", (422, "request.schema")),
        ("sort=colour", (422, "request.schema")),
        ("selector=x", (422, "request.selector")),
        ("cursor=x", (422, "request.cursor")),
        ("cursor=9999999999999999999:a", (422, "request.cursor")),
        ("limit=1001", (422, "request.schema")),
    ],
)
def test_what_is_asked_wrongly_gets_its_code(centre: Centre, query: str, expected: tuple[int, str]) -> None:
    answer = centre.server.api("GET", f"/health/devices?{query}")
    assert (answer.status_code, answer.json()["code"]) == expected


@pytest.mark.parametrize("query", ["resolution=1", f"since={2**70}", "since=-1"])
def test_a_history_is_asked_for_by_what_there_is(centre: Centre, query: str) -> None:
    assert centre.server.api("GET", f"/devices/nobody/samples?{query}").status_code == 422
    assert centre.server.api("GET", "/devices/nobody/samples").json()["code"] == "device.unknown"


def test_deleting_a_device_deletes_its_health_and_history(centre: Centre) -> None:
    device = centre.device("deleted-1")
    device.publish("health", report())
    device.acknowledged(device.report())
    device.close()
    eventually("its health", lambda: names(centre, "cursor=2:deleted-0&limit=1&sort=verdict") or True)
    assert centre.server.api("DELETE", "/devices/deleted-1").status_code == 200
    centre.device("deleted-1").close()
    assert centre.server.get("/devices/deleted-1")["health"]["sections"] == {}
