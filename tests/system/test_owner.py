"""The owner's say, through the whole system: hooks around each step of an update, and the schema of the data.

One device, one server, real BEAMs; the scripts write down what they were told.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for

pytestmark = pytest.mark.timeout(600)

DEVICE = "owned"
TELLING = """#!/bin/sh
echo "$BEAMFLEET_HOOK ${BEAMFLEET_FROM_SCHEMA:--} ${BEAMFLEET_TO_SCHEMA:--}" >>"${BEAMFLEET_DATA%/data}/told"
"""
CLOSED = """#!/bin/sh
echo "the window
is closed"
[ -e "${BEAMFLEET_DATA%/data}/open" ] || exit 21
"""
REFUSING = """#!/bin/sh
echo "no room for a copy"
exit 3
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("owner"), "sensor-gateway") as opened:
        opened.flash(DEVICE, labels={"owner": "here"})
        opened.wait_online(DEVICE)
        opened.cli(*push("1.0.0", 1))
        yield opened


@pytest.fixture
def device(here: Fleet) -> Device:
    return here.devices[DEVICE]


def push(version: str, schema: int) -> tuple[str, ...]:
    words = ("push", str(tarball("sensor_gateway", version)), "-l", "owner=here", "--timeout", "120s")
    return (*words, "--data-schema", str(schema))


def hook(device: Device, point: str, name: str, script: str) -> Path:
    place = device.root / "usr/lib/beamfleet/hooks.d" / point / name
    place.parent.mkdir(parents=True, mode=0o755, exist_ok=True)
    place.write_text(script)
    place.chmod(0o755)
    return place


def agent(device: Device, *words: str) -> tuple[int, dict[str, Any]]:
    program = Path(sys.executable).parent / "beamfleet-agent"
    command = [str(program), *words, "--root", str(device.root), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


def told(device: Device) -> list[str]:
    lines = (device.root / "var/lib/beamfleet/apps/main/told").read_text().splitlines()
    (device.root / "var/lib/beamfleet/apps/main/told").unlink()
    return lines


def reported(here: Fleet, kind: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = here.json("events", "--device", DEVICE)
    return [event for event in events if event["kind"] == kind]


def test_hooks_are_run_in_their_order_with_both_schemas_and_reported(here: Fleet, device: Device) -> None:
    for point in ("pre-download", "pre-swap", "post-swap", "commit"):
        hook(device, point, "20-tell", TELLING)
    late = hook(device, "pre-download", "10-window", CLOSED)
    pushed = here.begin(*push("1.1.0", 2))
    shown = wait_for("the hook's wish", lambda: agent(device, "status")[1]["update"]["reason"], deadline_s=60)
    assert shown == "update.hook"
    detail = agent(device, "status")[1]["update"]["detail"]
    assert detail == "the hook 10-window of pre-download ended with 21: the window is closed"
    (device.root / "var/lib/beamfleet/apps/main/open").touch()
    out, said = pushed.communicate(timeout=180)
    assert pushed.returncode == 0, out + said
    wait_for("the commit's hook", lambda: reported(here, "hook")[1:], deadline_s=30)
    assert told(device) == ["pre-download 1 -", "pre-swap 1 2", "post-swap 1 2", "commit 1 2"]
    points = {event["data"]["point"]: event["data"]["status"] for event in reported(here, "hook")}
    assert points == {"post-swap": 0, "commit": 0}
    late.unlink()


def test_a_rollback_to_the_lower_schema_asks_for_force(device: Device) -> None:
    code, answer = agent(device, "rollback")
    assert (code, answer["error"]["code"]) == (1, "update.lower_schema")
    assert "rollback --force" in answer["error"]["hint"]
    code, answer = agent(device, "rollback", "--force")
    assert (code, answer["phase"], answer["version"]) == (0, "committed", "1.0.0"), answer
    wait_for("all hooks", lambda: device.path("told").read_text().count("\n") == 3, deadline_s=30)
    assert told(device) == ["pre-swap 2 1", "post-swap 2 1", "commit 2 1"]


def test_a_hook_that_refuses_keeps_the_release_that_runs_and_halts_the_rollout(here: Fleet, device: Device) -> None:
    refusing = hook(device, "pre-swap", "10-copy", REFUSING)
    started = device.http()
    ended = here.json(*push("1.1.0", 2), ok=(3,))
    assert "update.hook: the hook 10-copy of pre-swap ended with 3: no room for a copy" in ended["reason"]
    assert started is not None
    now = device.http()
    assert now is not None
    assert now["started_ms"] == started["started_ms"], "it was never touched"
    refusing.unlink()
