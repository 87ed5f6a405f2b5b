"""Rollouts over the API of a real server, with devices that speak MQTT: phases, gates, stopping, undoing, looking."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server.conftest import PRODUCT, Centre, open_centre
from tests.support.mqtt_device import MqttDevice, committed, update
from tests.support.server import eventually, running_server


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    work = tmp_path_factory.mktemp("rollouts")
    with running_server(work / "server") as server:
        yield open_centre(work, server)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Some devices with a label of their own, and the manifests of two releases of their own."""

    centre: Centre
    label: str
    devices: Sequence[MqttDevice]
    versions: tuple[str, str]
    manifests: tuple[str, str]

    def plan(self, version: int = 1, **more: Any) -> dict[str, Any]:
        chosen = {"labels": {"shelf": self.label}, **more.pop("devices", {})}
        return {"product": PRODUCT, "version": self.versions[version], "devices": chosen, **more}

    def start(self, version: int = 1, **more: Any) -> int:
        started = self.centre.server.post("/rollouts", {"plan": self.plan(version, **more)})
        return int(started["id"])

    def act(self, rollout: int, verb: str, **body: Any) -> requests.Response:
        return self.centre.server.api("POST", f"/rollouts/{rollout}/{verb}", json=body)

    def see(self, rollout: int) -> dict[str, Any]:
        shown: dict[str, Any] = self.centre.server.get(f"/rollouts/{rollout}")
        return shown

    def until(self, rollout: int, **facts: object) -> dict[str, Any]:
        """The rollout once it has these facts."""
        return eventually(
            f"rollout {rollout} to have {facts}",
            lambda: shown if facts.items() <= (shown := self.see(rollout)).items() else None,
        )

    def canary(self) -> MqttDevice:
        """The one that is offered something first."""
        return eventually("an offer", lambda: next((device for device in self.devices if device.desired), None))

    def commit(self, *devices: MqttDevice, version: int = 1, attempt: int = 1, offers: int = 1) -> None:
        for device in devices:
            device.wait_for_offer(offers)
            device.acknowledged(device.report(**committed(self.manifests[version], self.versions[version], attempt)))


@pytest.fixture
def shelf(centre: Centre, request: pytest.FixtureRequest) -> Iterator[Shelf]:
    number = centre.server.get("/bundles?limit=1")["items"]
    count = number[0]["counter"] if number else 0
    versions = (f"{count + 1}.0.0", f"{count + 1}.1.0")
    manifests = tuple(centre.author.publish(PRODUCT, version)["manifest"] for version in versions)
    label = f"shelf-{count}"
    devices = [centre.device(f"{label}-{number}", labels={"shelf": label}) for number in range(1, 4)]
    for device in devices:
        device.acknowledged(device.report())
    yield Shelf(centre, label, devices, versions, (manifests[0], manifests[1]))
    for device in devices:
        device.close()


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def closed_today() -> str:
    """A day of the week that is neither today nor tomorrow."""
    return (datetime.now(UTC) + timedelta(days=3)).strftime("%a").lower()


def held(device: MqttDevice) -> bool:
    return len(device.desired) > 1 and not device.desired[-1]["targets"]


def states(shown: dict[str, Any]) -> dict[str, str]:
    return {member["id"].rpartition("-")[2]: member["state"] for member in shown["devices"]}


def test_phases_end_with_a_gate_that_a_person_opens_once(shelf: Shelf) -> None:
    phases = [{"name": "one", "devices": 1, "gate": True}, {"name": "two", "devices": 2, "soak": "1h"}]
    rollout = shelf.start(phases=phases)
    assert code(shelf.act(rollout, "approve")) == (409, "rollout.no_gate")
    first, second, third = shelf.devices
    shelf.commit(shelf.canary())
    waiting = shelf.until(rollout, gate="waiting")
    assert [(phase["name"], phase["size"], phase["state"]) for phase in waiting["phases"]] == [
        ("one", 1, "current"), ("two", 1, "ahead"), ("rest", 1, "ahead"),
    ]  # fmt: skip
    assert code(shelf.act(rollout, "approve", phase="two")) == (409, "rollout.no_gate")
    assert code(shelf.act(rollout, "approve", phase="nothing")) == (422, "request.schema")
    assert shelf.act(rollout, "approve", phase="one").json()["phase"] == "two"
    assert shelf.act(rollout, "approve", phase="one").status_code == 200, "the same wish again"
    assert shelf.see(rollout)["phase"] == "two"
    assert shelf.act(rollout, "abort", reason="enough").json()["state"] == "aborted"
    assert {first.name, second.name, third.name} == {member["id"] for member in shelf.see(rollout)["devices"]}


def test_a_pause_holds_what_has_not_swapped_and_may_be_said_twice(shelf: Shelf) -> None:
    rollout = shelf.start(phases=[{"name": "all", "devices": "all"}])
    for device in shelf.devices:
        device.wait_for_offer()
    paused = shelf.act(rollout, "pause", reason="lunch").json()
    assert (paused["state"], "lunch" in paused["reason"]) == ("paused", True)
    assert shelf.act(rollout, "pause").json()["state"] == "paused"
    assert set(states(shelf.until(rollout, state="paused")).values()) == {"pending"}
    for device in shelf.devices:
        device.wait("the hold", partial(held, device))
    assert shelf.act(rollout, "resume").json()["state"] == "running"
    assert shelf.act(rollout, "resume").json()["state"] == "running"
    shelf.commit(*shelf.devices, offers=2)
    shelf.until(rollout, state="completed")
    assert code(shelf.act(rollout, "pause")) == (409, "rollout.finished")


def test_what_halts_is_in_quarantine_until_somebody_lifts_it_and_may_be_tried_again(shelf: Shelf) -> None:
    rollout = shelf.start()
    canary = shelf.canary()
    canary.acknowledged(canary.report(update=update("reverted", shelf.manifests[1], reason="crash")))
    halted = shelf.until(rollout, state="halted")
    (reason,) = [each for each in halted["reasons"] if each["state"] == "reverted"]
    assert reason == {"state": "reverted", "reason": "crash", "count": 1, "example": canary.name}
    (member,) = [each for each in halted["devices"] if each["id"] == canary.name]
    assert (member["evidence"], member["phase"]) == (True, "canary")
    held = shelf.centre.server.get("/quarantine")["items"]
    assert [(each["version"], each["rollout"]) for each in held if each["manifest"] == shelf.manifests[1]] == [
        (shelf.versions[1], rollout)
    ]
    assert code(shelf.act(rollout, "resume")) == (409, "release.quarantined")
    assert code(shelf.centre.server.api("POST", "/rollouts", json={"plan": shelf.plan()})) == (
        409, "release.quarantined",
    )  # fmt: skip
    release = {"product": PRODUCT, "version": shelf.versions[1]}
    lifted = shelf.centre.server.post("/quarantine/lift", release, 200)
    assert lifted == {"lifted": [shelf.manifests[1]]}
    assert code(shelf.centre.server.api("POST", "/quarantine/lift", json=release)) == (404, "quarantine.unknown")
    (over,) = [e for e in shelf.centre.server.get("/quarantine?all=true")["items"] if e["manifest"] in lifted["lifted"]]
    assert (over["lifted_by"], bool(over["lifted"])) == ("admin", True)
    assert shelf.act(rollout, "retry", devices=[canary.name]).json() == {"rollout": rollout, "retried": 1}
    shelf.commit(canary, attempt=2, offers=2)
    shelf.commit(*[device for device in shelf.devices if device is not canary])
    shelf.until(rollout, state="completed")


def test_undo_brings_back_what_ran_before_once_for_its_key(shelf: Shelf) -> None:
    whole = [{"name": "all", "devices": "all"}]
    first = shelf.start(0, phases=whole)
    shelf.commit(*shelf.devices, version=0)
    shelf.until(first, state="completed")
    (change,) = shelf.centre.server.get(f"/rollouts/{first}/changes")["changes"]
    assert (change["before"], change["version"], change["devices"]) == ("", shelf.versions[0], 3)
    second = shelf.start(phases=whole)
    shelf.commit(*shelf.devices, offers=2)
    shelf.until(second, state="completed")
    (change,) = shelf.centre.server.get(f"/rollouts/{second}/changes")["changes"]
    assert (change["before"], change["version"], change["devices"]) == (*shelf.versions, 3)
    assert (change["before_manifest"], change["manifest"]) == shelf.manifests

    undoing = shelf.act(second, "undo", key="0123456789")
    assert (undoing.status_code, undoing.json()["kind"], undoing.json()["of"]) == (201, "undo", second)
    again = shelf.act(second, "undo", key="0123456789")
    assert (again.status_code, again.json()["id"]) == (200, undoing.json()["id"])
    for device in shelf.devices:
        device.wait_for_offer(3)
        attempt = device.desired[-1]["beamfleet"]["attempt"]
        device.acknowledged(device.report(**committed(shelf.manifests[0], shelf.versions[0], attempt)))
    shelf.until(undoing.json()["id"], state="completed")
    assert shelf.centre.server.get("/rollouts?kind=undo&limit=1")["items"][0]["of"] == second


def test_a_preview_says_who_gets_what_and_who_does_not_and_changes_nothing(shelf: Shelf) -> None:
    server = shelf.centre.server
    pinned = shelf.devices[0].name
    assert server.api("POST", f"/devices/{pinned}/pin", json={"reason": "bench"}).json()["pinned"] == "bench"
    before = [rollout["id"] for rollout in server.get("/rollouts")["items"]]
    plan = shelf.plan(
        phases=[{"name": "half", "devices": "50%", "soak": "10m", "gate": True}],
        window=[{"days": [closed_today()], "from": "02:00", "to": "02:01"}],
    )
    seen = server.post("/plans/preview", {"plan": plan}, 200)
    (bundle,) = seen["bundles"]
    assert (bundle["manifest"], bundle["devices"], bundle["bytes"]) == (shelf.manifests[1], 2, seen["bytes"])
    assert seen["bytes"] == 2 * bundle["size"] > 0
    assert [(phase["name"], phase["size"], phase["soak_s"], phase["gate"]) for phase in seen["phases"]] == [
        ("half", 1, 600, True), ("rest", 1, 0, False),
    ]  # fmt: skip
    assert {"reason": "pinned", "count": 1, "examples": [pinned]} in seen["excluded"]
    assert [(zone["zone"], zone["open"]) for zone in seen["windows"]] == [("UTC", False)]
    assert seen["windows"][0]["next"].endswith("Z")
    assert [rollout["id"] for rollout in server.get("/rollouts")["items"]] == before
    assert server.api("DELETE", f"/devices/{pinned}/pin").json()["pinned"] == ""
    assert server.post("/plans/preview", {"plan": plan}, 200)["bundles"][0]["devices"] == 3


def test_a_pinned_device_is_shown_as_skipped_with_its_reason(shelf: Shelf) -> None:
    server = shelf.centre.server
    server.post(f"/devices/{shelf.devices[0].name}/pin", {"reason": "bench"}, 200)
    rollout = shelf.start(phases=[{"name": "all", "devices": "all"}])
    shelf.commit(*shelf.devices[1:])
    shelf.until(rollout, state="completed")
    (skipped,) = server.get(f"/rollouts/{rollout}/devices?state=skipped")["items"]
    assert (skipped["id"], skipped["reason"]) == (shelf.devices[0].name, "pinned")
    assert not shelf.devices[0].desired


def test_devices_of_a_rollout_come_in_pages_that_miss_nothing(shelf: Shelf) -> None:
    rollout = shelf.start(phases=[{"name": "one", "devices": 1}])
    shelf.until(rollout, state="running")
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = shelf.centre.server.get(f"/rollouts/{rollout}/devices?limit=2&cursor={cursor}")
        seen += [member["id"] for member in page["items"]]
        cursor = page["next"]
    assert seen == [device.name for device in shelf.devices]
    path = f"/rollouts/{rollout}/devices"
    assert len(shelf.centre.server.get(f"{path}?state=pending")["items"]) == 2
    assert len(shelf.centre.server.get(f"{path}?phase=one&state=offered,trial")["items"]) == 1
    for wrong in ("state=lost", "phase=nothing"):
        assert code(shelf.centre.server.api("GET", f"{path}?{wrong}")) == (422, "request.schema")
    assert len(shelf.centre.server.get(f"/rollouts/{rollout}?devices=1")["devices"]) == 1
    shelf.act(rollout, "abort")


def test_the_history_is_asked_by_product_version_state_and_kind(shelf: Shelf) -> None:
    rollout = shelf.start()
    shelf.act(rollout, "abort", reason="enough")

    def found(query: str) -> list[int]:
        return [item["id"] for item in shelf.centre.server.get(f"/rollouts?{query}")["items"]]

    assert found(f"version={shelf.versions[1]}&state=aborted,halted&kind=update") == [rollout]
    assert found(f"version={shelf.versions[1]}&state=running") == []
    assert found("product=nothing") == []
    assert code(shelf.centre.server.api("GET", "/rollouts?state=sleeping")) == (422, "request.schema")
    assert code(shelf.centre.server.api("GET", "/rollouts?kind=party")) == (422, "request.schema")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phases": [{"name": "a", "devices": 5}, {"name": "b", "devices": 2}]}, "plan.phases"),
        ({"colour": "red"}, "plan.unknown_field"),
        ({"deadline": "soon"}, "plan.duration"),
        ({"devices": {}}, "plan.devices"),
        ({"window": [{"from": "at night"}]}, "plan.window"),
        ({"priority": 10**30}, "plan.type"),
        ({"notes": "x" * 100_000}, "plan.too_many"),
        ({"version": 7}, "plan.type"),
    ],
)
def test_a_plan_that_is_none_is_refused_with_its_place_and_a_hint(
    centre: Centre, changes: dict[str, Any], expected: str
) -> None:
    plan = {"product": PRODUCT, "version": "1.0.0", "devices": {"all": True}, **changes}
    for path in ("/rollouts", "/plans/preview"):
        answer = centre.server.api("POST", path, json={"plan": plan})
        assert code(answer) == (422, expected)
        assert answer.json()["detail"].startswith(next(iter(changes)))
        assert answer.json()["hint"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"plan": None},
        {"plan": []},
        {"plan": {}, "product": PRODUCT},
        {"plan": {}, "all": True},
        {"product": PRODUCT, "all": True},
    ],
)
def test_a_rollout_is_asked_for_by_a_plan_or_in_short_and_not_by_both(centre: Centre, body: dict[str, Any]) -> None:
    assert code(centre.server.api("POST", "/rollouts", json=body)) == (422, "request.schema")


@pytest.mark.parametrize("body", [{}, {"manifest": "x"}, {"product": PRODUCT}, {"manifest": "a" * 64, "product": "p"}])
def test_what_is_lifted_is_a_manifest_or_a_release(centre: Centre, body: dict[str, Any]) -> None:
    assert centre.server.api("POST", "/quarantine/lift", json=body).status_code == 422


def test_what_people_do_to_a_rollout_is_in_the_audit_with_its_number(shelf: Shelf, tmp_path: Path) -> None:
    rollout = shelf.start()
    shelf.act(rollout, "pause", reason="lunch")
    shelf.act(rollout, "resume")
    shelf.act(rollout, "approve")
    shelf.act(rollout, "abort", reason="enough")
    kept = {
        (entry["action"], entry["target"], entry["outcome"], entry["detail"])
        for entry in shelf.centre.server.get("/audit?newest=true&limit=20")["items"]
    }
    assert {
        ("rollouts.pause", str(rollout), "ok", "lunch"),
        ("rollouts.resume", str(rollout), "ok", ""),
        ("rollouts.approve", str(rollout), "rollout.no_gate", ""),
        ("rollouts.abort", str(rollout), "ok", "enough"),
        ("rollouts.start", f"{PRODUCT} {shelf.versions[1]}", "ok", f"shelf={shelf.label}"),
    } <= kept
