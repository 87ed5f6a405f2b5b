"""Large rollouts need two people, where the owner wants that."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server.conftest import PRODUCT, Centre, open_centre
from tests.support.postgres import BOTH, named, placed
from tests.support.server import running_server


@pytest.fixture(scope="module", params=BOTH)
def centre(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    """A server on which more than one device needs two operators, with two devices and a release."""
    work = tmp_path_factory.mktemp("approvals")
    with placed(request, work) as place, running_server(work / "server", approval_above=1, **named(place)) as server:
        centre = open_centre(work, server)
        centre.author.publish(PRODUCT, "1.0.0")
        devices = [centre.device(name, labels={"name": name}) for name in ("gw-1", "gw-2")]
        for device in devices:
            device.acknowledged(device.report())
        yield centre
        for device in devices:
            device.close()


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def ask(centre: Centre, **more: Any) -> requests.Response:
    return centre.server.api("POST", "/rollouts", json={"product": PRODUCT, "version": "1.0.0"} | more)


def newest(centre: Centre) -> dict[str, Any]:
    approval: dict[str, Any] = centre.server.get("/approvals?limit=1")["items"][0]
    return approval


def second(centre: Centre, name: str, role: str = "operator") -> str:
    return str(centre.server.post("/operators", {"name": name, "role": role})["token"])


def test_a_large_rollout_waits_for_a_second_operator_and_starts_once(centre: Centre) -> None:
    wish = {"all": True, "key": "0123456789abcdef"}
    assert code(ask(centre, **wish)) == (409, "rollout.needs_approval")
    assert code(ask(centre, **wish)) == (409, "rollout.needs_approval")
    asked = newest(centre)
    assert (asked["devices"], asked["asked_by"], asked["state"]) == (2, "admin", "pending")
    assert len(centre.server.get("/approvals")["items"]) == 1, "the same key is the same wish"
    assert centre.server.get("/rollouts")["items"] == []

    path = f"/approvals/{asked['id']}/approve"
    assert code(centre.server.api("POST", path)) == (403, "approval.own")
    started = centre.server.api("POST", path, token=second(centre, "second-1"))
    assert (started.status_code, len(started.json()["devices"])) == (201, 2)
    assert code(centre.server.api("POST", path, token=second(centre, "third-1"))) == (409, "approval.decided")
    again = ask(centre, **wish)
    assert (again.status_code, again.json()["id"]) == (200, started.json()["id"])
    assert (newest(centre)["state"], newest(centre)["decided_by"]) == ("approved", "second-1")


def test_a_small_rollout_needs_nobody_else(centre: Centre) -> None:
    assert ask(centre, selector="name=gw-1").status_code == 201


def test_a_viewer_approves_nothing_and_a_rejected_one_stays_so(centre: Centre) -> None:
    assert code(ask(centre, all=True)) == (409, "rollout.needs_approval")
    number = newest(centre)["id"]
    viewer = second(centre, "viewer-1", "viewer")
    assert code(centre.server.api("POST", f"/approvals/{number}/approve", token=viewer)) == (403, "auth.forbidden")
    assert centre.server.api("POST", f"/approvals/{number}/reject").json()["state"] == "rejected"
    late = centre.server.api("POST", f"/approvals/{number}/approve", token=second(centre, "late-1"))
    assert code(late) == (409, "approval.decided")
    assert code(centre.server.api("POST", "/approvals/99999/approve")) == (404, "approval.unknown")


def test_both_people_are_in_the_audit(centre: Centre, tmp_path: Path) -> None:
    assert code(ask(centre, all=True)) == (409, "rollout.needs_approval")
    number = newest(centre)["id"]
    centre.server.api("POST", f"/approvals/{number}/approve", token=second(centre, "witness-1"))
    kept = [
        (entry["actor"], entry["action"], entry["outcome"])
        for entry in centre.server.get("/audit?newest=true&limit=10")["items"]
    ]
    assert ("admin", "rollouts.start", "ok") in kept, "the wish was kept"
    assert ("admin", "rollouts.start", "rollout.needs_approval") in kept
    assert ("witness-1", "approvals.approve", "ok") in kept
