"""Two machines with one identity: noticed when one comes back after the other, cut off when both are alive."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.api.operators.health import details, encode
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.store.clones import LIVE_S, REMEMBERED, judge
from beamfleet_server.store.reports import Report

from tests.server.conftest import Centre
from tests.support.fleet_store import FleetStore, health, presence
from tests.support.mqtt_device import MqttDevice
from tests.support.postgres import Place
from tests.support.server import Identity, eventually

A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[FleetStore]:
    opened = FleetStore(tmp_path, place)
    opened.enrol("gw-1")
    yield opened
    opened.close()


def judged(*births: tuple[str, int, int]) -> list[str]:
    """What each birth (boot, session, time) is: nothing, a return, told of, or live."""
    device: dict[str, Any] = {"machines": [], "returns": []}
    words = []
    for machine, session, now in births:
        sight = judge(device, machine, session, now)
        if sight is None:
            words.append("")
            continue
        returned = sight.returns != device["returns"]
        words.append("live" if sight.live else "told" if sight.told else "returned" if returned else "seen")
        device = {"machines": sight.machines, "returns": sight.returns}
    return words


@pytest.mark.parametrize(
    ("births", "expected"),
    [
        ([(A, 1, 0), (A, 2, 10), (B, 3, 20), (C, 4, 30)], ["seen"] * 4),
        ([(A, 1, 0), (B, 2, 10), (A, 3, 20)], ["seen", "seen", "told"]),
        ([(A, 1, 0), (B, 1, 10), (A, 2, 20), (B, 2, 30), (A, 3, 40)], ["seen", "seen", "told", "returned", "live"]),
        ([(A, 5, 0), (B, 6, 10), (A, 5, 20)], ["seen", "seen", ""]),
        ([("", 1, 0), (A, 2, 10), ("", 3, 20)], ["", "seen", ""]),
        ([(A, 1, 0), (B, 1, 9), (A, 2, 1000), (B, 2, 3000), (A, 3, 5000)], ["seen", "seen", "told", "told", "told"]),
    ],
    ids=["reboots", "a return", "both alive", "delivered twice", "no boot id", "now and then"],
)
def test_a_boot_that_comes_back_after_another_is_a_second_machine(
    births: list[tuple[str, int, int]], expected: list[str]
) -> None:
    assert judged(*births) == expected


def test_what_is_remembered_is_bounded() -> None:
    device: dict[str, Any] = {"machines": [], "returns": []}
    for number in range(100):
        sight = judge(device, f"{number:032x}", number, number)
        assert sight is not None
        device = {"machines": sight.machines, "returns": sight.returns}
    assert len(device["machines"]) == REMEMBERED
    for number in range(100):
        sight = judge(device, A if number % 2 else B, number, 200 + number)
        assert sight is not None
        device = {"machines": sight.machines, "returns": sight.returns}
    assert len(device["returns"]) == 3
    assert len(device["machines"]) == REMEMBERED


def birth(fleet: FleetStore, machine: str, session: int) -> set[str]:
    outcome = fleet.apply(Report("gw-1", "main", "presence", presence(session, machine=machine)))
    return outcome.cloned


def test_a_return_is_one_event_and_shown_until_somebody_says_that_all_is_well(fleet: FleetStore) -> None:
    for session, machine in enumerate((A, B, A, B), start=1):
        assert birth(fleet, machine, session) == set()
    told = [event for event in fleet.store.events.after(0, 99) if event.kind == "clone"]
    assert [(event.device, event.cause) for event in told] == [("gw-1", "returned")]
    assert fleet.store.devices.find("gw-1").clone == fleet.now
    fleet.apply(Report("gw-1", "main", "health", health(fleet.now)))
    assert ailing(fleet) == ("degraded", ["clone"])
    fleet.store.clones.accept("gw-1", fleet.now)
    assert fleet.store.devices.find("gw-1").clone is None
    assert birth(fleet, B, 9) == set()
    assert ailing(fleet) == ("healthy", [])


def ailing(fleet: FleetStore) -> tuple[str, list[str]]:
    """The verdict of the only device and why, as the list of health has them."""
    page, counts = fleet.store.health.page(Selector(), (), "verdict", None, 9, fleet.now)
    (shown,) = json.loads(encode(page, counts))["items"]
    told = details(fleet.store.devices.find("gw-1"))
    assert (told.verdict, [each.check for each in told.reasons]) == (
        shown["verdict"],
        [each["check"] for each in shown["reasons"]],
    )
    return shown["verdict"], [each["check"] for each in shown["reasons"]]


def test_a_machine_whose_session_is_the_lower_one_is_noticed_as_well(fleet: FleetStore) -> None:
    birth(fleet, A, 100)
    birth(fleet, B, 1)
    birth(fleet, A, 101)
    birth(fleet, B, 2)
    assert birth(fleet, A, 102) == {"gw-1"}


def test_slow_returns_cut_nobody_off(fleet: FleetStore) -> None:
    for session in range(1, 20):
        assert birth(fleet, A if session % 2 else B, session) == set()
        fleet.now += LIVE_S // 2 + 1


def test_two_live_machines_are_cut_off_until_somebody_decides(own_centre: Centre) -> None:
    server = own_centre.server
    identity = server.enrol("twin", own_centre.work)
    session = 0

    def live(machine: str) -> MqttDevice:
        nonlocal session
        session += 1
        device = MqttDevice(identity, server.facts["mqtt"], server.ca, session=session, machine=machine)
        device.birth()
        return device

    first = live(A)
    for machine in (B, A, B):
        live(machine).close()
    shown = eventually("the alarm", lambda: server.get("/devices/twin")["clone"])
    assert shown
    assert server.get("/devices/twin")["denial"] is None
    assert server.fetch(identity, "/assignment").status_code == 204, "an alarm alone cuts nobody off"
    last = live(A)
    denial = eventually("the denial", lambda: server.get("/devices/twin")["denial"])
    assert (denial["cause"], denial["until"]) == ("clone", None)
    eventually("the end of both sessions", lambda: not (last._client.is_connected() or first._client.is_connected()))
    refused = eventually("HTTPS to refuse it", lambda: refusal_of(own_centre, identity))
    assert refused == (403, "device.cloned")
    renewal = own_centre.server.simplereenroll(identity)
    assert (renewal.status_code, renewal.json()["code"]) == (403, "device.cloned")
    connections = last.connections
    server.restart()
    time.sleep(1)
    assert last.connections == connections, "a restart forgets nothing"
    first.close()

    assert server.post("/devices/twin/accept-clone", {}, 200)["clone"] is None
    last.wait("to be taken again", lambda: last.connections > connections)
    assert server.fetch(identity, "/assignment").status_code == 204
    kinds = [(each["kind"], each["cause"]) for each in server.get("/events?device=twin")["items"]]
    assert [cause for kind, cause in kinds if kind == "clone"] == ["returned", "accepted"]
    assert ("denied", "clone") in kinds
    last.close()


def refusal_of(centre: Centre, identity: Identity) -> tuple[int, str] | None:
    answer = centre.server.fetch(identity, "/assignment")
    return (answer.status_code, answer.json()["code"]) if answer.status_code >= 400 else None
