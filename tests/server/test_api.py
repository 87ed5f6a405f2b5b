"""The operators' API over HTTPS: who may ask, what is asked wrongly, and what lists answer."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import beamfleet_server
import pytest
import requests
from fastapi.openapi.models import OpenAPI

from tests.server.conftest import PRODUCT, Centre
from tests.support.mqtt_device import committed, update

PAGE = Path(beamfleet_server.__file__).parents[1] / "API.md"


def problem(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body.keys() == {"type", "title", "status", "detail", "code", "hint"}
    assert body["status"] == answer.status_code
    assert body["detail"]
    return answer.status_code, body["code"]


@pytest.mark.parametrize(
    "path", ["/server", "/health", "/devices", "/config", "/metadata/root", "/events", "/rollouts/1"]
)
def test_nothing_is_told_without_a_token(centre: Centre, path: str) -> None:
    assert problem(centre.server.api("GET", path, token="wrong")) == (401, "auth.required")
    url = f"{centre.server.facts['operators']}/api/v1{path}"
    bare = requests.get(url, verify=str(centre.server.ca), timeout=30)
    assert problem(bare) == (401, "auth.required")
    assert bare.headers["www-authenticate"].startswith("Bearer")


def test_every_route_but_the_description_needs_the_token(centre: Centre) -> None:
    description = centre.server.api("GET", "/openapi.json", token="").json()
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            assert operation["security"], f"{method} {path}"


def test_the_api_describes_itself(centre: Centre) -> None:
    description = centre.server.api("GET", "/openapi.json").json()
    OpenAPI.model_validate(description)
    assert {"/api/v1/devices", "/api/v1/bundles", "/api/v1/rollouts/{rollout}/abort"} <= description["paths"].keys()
    closed = description["components"]["schemas"]["NewRollout"]
    assert closed["additionalProperties"] is False


def test_the_page_about_the_api_lists_every_route_and_no_other(centre: Centre) -> None:
    description = centre.server.api("GET", "/openapi.json").json()
    served = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in description["paths"].items()
        for method in methods
    }
    assert set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", PAGE.read_text(), re.MULTILINE)) == served


def test_the_operator_is_told_who_they_are(centre: Centre) -> None:
    who: dict[str, object] = {"name": "admin", "role": "admin", "expires": None, "scopes": [], "session": None}
    assert centre.server.get("/whoami") == who


def test_settings_are_shown_with_their_source(centre: Centre) -> None:
    rows = {row["key"]: row for row in centre.server.get("/config")["items"]}
    assert (rows["data"]["value"], rows["data"]["source"]) == (str(centre.server.data), "flag")
    assert rows["host"]["source"] == "default"


def test_a_client_learns_what_it_needs_to_flash_a_device(centre: Centre) -> None:
    facts = centre.server.get("/server")
    assert facts["fleet_ca"] == centre.server.ca.read_text()
    ports = {name: address["port"] for name, address in facts["listeners"].items()}
    assert ports.items() <= centre.server.facts["ports"].items()
    assert ports.keys() == {"operators", "devices", "enrolment", "mqtt"}, "metrics are no business of clients"
    assert facts["online_keys"].keys() == {"snapshot", "timestamp", "director"}
    assert facts["metadata"]["root_json_base64"]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/tokens", {"device": "dev", "colour": "red"}, (422, "request.schema")),
        ("POST", "/tokens", {}, (422, "request.schema")),
        ("POST", "/tokens", {"device": 7}, (422, "request.schema")),
        ("POST", "/tokens", {"device": "dev", "expires_in_s": 0}, (422, "request.schema")),
        ("POST", "/tokens", {"device": "../dev"}, (422, "name.device")),
        ("POST", "/tokens", {"device": "dev", "labels": {"Site": "x"}}, (422, "name.label")),
        ("POST", "/rollouts", {"product": PRODUCT, "version": "1", "selector": "x"}, (422, "request.selector")),
        ("POST", "/rollouts", {"product": PRODUCT, "version": "1"}, (422, "rollout.no_selector")),
        ("POST", "/rollouts", {"product": PRODUCT, "version": "0", "all": True}, (404, "release.unknown")),
        ("POST", "/rollouts", {"product": "Ü", "version": "0", "all": True}, (422, "name.product")),
        ("POST", "/products", {"name": "x", "targets": "%", "product": ""}, (422, "request.schema")),
        ("POST", "/products", {"name": "root", "targets": "", "product": ""}, (422, "name.product")),
        ("POST", "/metadata", {"root": "AAAA"}, (422, "trust.malformed")),
        ("POST", "/devices/nobody/command", {"name": "report"}, (404, "device.unknown")),
        ("POST", "/devices/nobody/command", {"name": "explode"}, (422, "request.schema")),
        ("PATCH", "/devices/nobody", {"labels": {"a": "b"}}, (404, "device.unknown")),
        ("GET", "/devices/nobody", None, (404, "device.unknown")),
        ("GET", "/devices?selector=x", None, (422, "request.selector")),
        ("GET", "/devices?limit=0", None, (422, "request.schema")),
        ("GET", "/rollouts/999", None, (404, "rollout.unknown")),
        ("GET", "/rollouts/x", None, (422, "request.schema")),
        ("GET", f"/rollouts/{2**70}", None, (422, "request.schema")),
        ("GET", f"/events?after={2**70}", None, (422, "request.schema")),
        ("GET", "/rollouts?cursor=x", None, (422, "request.cursor")),
        ("POST", "/rollouts/999/abort", {}, (404, "rollout.unknown")),
        ("GET", "/bundles/a/b/c", None, (404, "bundle.unknown")),
        ("GET", "/metadata/nothing", None, (404, "metadata.none")),
        ("GET", "/metadata/..%2froot", None, (422, "request.schema")),
        ("GET", "/nothing", None, (404, "request.not_found")),
        ("DELETE", "/devices", None, (405, "request.method")),
    ],
)
def test_what_is_asked_wrongly_gets_its_code(
    centre: Centre, method: str, path: str, body: dict[str, object] | None, expected: tuple[int, str]
) -> None:
    assert problem(centre.server.api(method, path, json=body)) == expected


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"device": "a", "device": NaN}', b"[" * 100_000, b"null"])
def test_what_is_not_json_gets_a_code_as_well(centre: Centre, data: bytes) -> None:
    answer = centre.server.api("POST", "/tokens", data=data, headers={"Content-Type": "application/json"})
    assert problem(answer) in {(422, "request.schema"), (400, "request.malformed")}


def test_a_body_that_is_too_large_is_refused_announced_or_not(centre: Centre) -> None:
    assert problem(centre.server.api("POST", "/tokens", data=b"x" * (9 << 20))) == (413, "request.too_large")

    pieces = (b"x" * (1 << 20) for _ in range(9))
    answer = centre.server.api("POST", "/tokens", data=pieces, headers={"Content-Type": "application/json"})
    assert problem(answer) == (413, "request.too_large")


def test_lists_are_cut_into_pages_that_miss_nothing(centre: Centre) -> None:
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        centre.server.enrol(name, centre.work, labels={"shelf": "pages"})
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = centre.server.get(f"/devices?selector=shelf=pages&limit=2&cursor={cursor}")
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == names


def test_labels_are_set_and_taken_away(centre: Centre) -> None:
    centre.server.enrol("label-1", centre.work, labels={"site": "berlin"})
    answer = centre.server.api("PATCH", "/devices/label-1", json={"labels": {"site": None, "rack": "7"}})
    assert answer.json()["labels"] == {"rack": "7"}
    assert problem(centre.server.api("PATCH", "/devices/label-1", json={"labels": {"a b": "x"}})) == (422, "name.label")


def test_a_token_for_an_enrolled_device_must_say_so(centre: Centre) -> None:
    centre.server.enrol("again-1", centre.work)
    answer = centre.server.api("POST", "/tokens", json={"device": "again-1"})
    assert problem(answer) == (409, "device.exists")
    centre.server.new_token("again-1", replace=True)


def test_a_device_is_shown_with_all_that_it_said(centre: Centre) -> None:
    device = centre.device("shown-1", labels={"site": "berlin"})
    manifest = "c" * 64
    device.publish("health", health(verdict="healthy"))
    device.publish("progress", {"v": 1, "manifest": manifest, "phase": "downloading", "done": 5, "total": 9})
    device.acknowledged(device.report(update=update("downloading", manifest), **running("b" * 64)))
    shown = centre.server.get("/devices/shown-1")
    assert shown["update"] == {
        "phase": "downloading",
        "product": "sensor-gateway",
        "version": "1.0.0",
        "reason": "",
        "done": 5,
        "total": 9,
    }
    assert shown["health"]["verdict"] == "healthy"
    assert (shown["phase"], shown["manifest"], shown["slot"]) == ("committed", "b" * 64, "b" * 32)
    assert shown["certificate"]["serial"]
    assert shown["last_seen"].endswith("Z")
    assert [event["kind"] for event in shown["history"]] == ["presence", "enrolled"]
    (item,) = centre.server.get("/devices?selector=site=berlin&limit=1&cursor=show")["items"]
    assert item.pop("health").items() <= shown["health"].items()
    assert item.items() <= shown.items()
    device.close()


def running(manifest: str) -> dict[str, object]:
    facts = committed(manifest)
    del facts["update"]
    return facts


def health(**changes: object) -> dict[str, object]:
    beam = {"uptime_ms": 1, "memory": {"total": 5}, "processes": [1, 262_144], "run_queue": 0}
    host = {"load": [1, 2, 3], "memory": [500, 1000], "disk": [500, 1000]}
    told = {"v": 1, "time": int(time.time()), "verdict": "healthy", "starts": 1, "full": True}
    return told | {"beam": beam, "applications": ["kernel 8.5"], "host": host} | changes


def test_events_are_waited_for_and_come_at_once(centre: Centre) -> None:
    newest = centre.server.get("/events?newest=true&limit=1")["items"]
    last = newest[-1]["id"] if newest else 0
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        waiting = pool.submit(centre.server.get, f"/events?after={last}&device=event-2&wait_s=30")
        centre.server.enrol("event-2", centre.work)
        (event,) = waiting.result()["items"]
    assert (event["kind"], event["device"]) == ("enrolled", "event-2")
    assert time.monotonic() - began < 25, "the answer came with the event, not with the deadline"
    assert centre.server.get(f"/events?after={event['id']}&device=event-2&wait_s=0")["items"] == []


def test_the_newest_events_come_in_their_order(centre: Centre) -> None:
    for number in range(3):
        centre.server.enrol(f"newest-{number}", centre.work)
    newest = centre.server.get("/events?newest=true&limit=2")["items"]
    assert [event["device"] for event in newest] == ["newest-1", "newest-2"]


def test_a_command_goes_to_a_device_that_is_online_and_to_no_other(centre: Centre) -> None:
    device = centre.device("command-1")
    device.acknowledged(device.report())
    sent = centre.server.post("/devices/command-1/command", {"name": "refresh"}, 202)
    device.wait(
        "the command",
        lambda: [1 for kind, payload in device.received if kind == "command" and sent["id"].encode() in payload],
    )
    device.farewell(1)
    device.acknowledged(device.report())
    answer = centre.server.api("POST", "/devices/command-1/command", json={"name": "refresh"})
    assert problem(answer) == (409, "device.offline")
    device.close()


def test_a_rollout_whose_answer_was_lost_is_asked_for_again(centre: Centre) -> None:
    centre.author.publish(PRODUCT, "6.0.0")
    device = centre.device("lost-answer-1", labels={"bench": "lost"})
    device.acknowledged(device.report())
    body = {"product": PRODUCT, "version": "6.0.0", "selector": "bench=lost", "key": "0123456789abcdef"}
    first = centre.server.post("/rollouts", body)
    again = centre.server.post("/rollouts", body, 200)
    assert again["id"] == first["id"]
    device.close()
