"""`beamfleet simulate` against a real server with a real broker: who enrols, comes back, reports, and is removed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rollout.simulated import Api, Simulation, simulation
from tests.support.examples import tarball
from tests.support.fleet import Fleet, fleet, wait_for

QUICK = {"download": "500ms", "verify": "100ms", "stage": "100ms", "swap": "100ms", "trial": "500ms"}
SCENARIO = {
    "seed": 5,
    "times": QUICK,
    "labels": {"site": ["berlin", "paris"], "part": "first"},
    "timezones": ["Europe/Berlin"],
    "networks": {"cellular": 1},
    "health": "1s",
    "behaviours": [{"versions": ["1.1.0"], "reverts": {"after": "200ms", "cause": "hang"}}],
}
MANY = 12


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("simulated"), "sensor-gateway") as opened:
        for version in ("1.0.0", "1.1.0"):
            tar = str(tarball("sensor_gateway", version))
            built = opened.json("bundle", "build", tar, "--out", str(opened.work / version))
            opened.cli("bundle", "publish", built["path"])
        yield opened


def roll_out(api: Api, version: str, part: str) -> int:
    """Begin a rollout to the devices with the label `part`."""
    wish = {"product": "sensor-gateway", "version": version, "selector": f"part={part}", "canary": 1}
    return int(api.post("/rollouts", wish)["id"])


def ended(api: Api, rollout: int) -> str:
    """How a rollout ended."""

    def over() -> str:
        state = str(api.get(f"/rollouts/{rollout}")["state"])
        return state if state != "running" else ""

    return wait_for("the rollout to end", over, deadline_s=60, every_s=0.2)


def online(api: Api, here: Simulation) -> int:
    return sum(device["online"] for device in api.all("/devices") if device["id"].startswith(here.prefix))


def shown(api: Api, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/devices/{name}")
    return found


def test_a_simulated_fleet_enrols_commits_reverts_and_is_known_again(here: Fleet) -> None:
    api = Api(here)
    with simulation(here, MANY, SCENARIO) as first:
        wait_for("all to be online", lambda: online(api, first) == MANY, deadline_s=60)
        assert ended(api, roll_out(api, "1.0.0", "first")) == "completed"
        assert ended(api, roll_out(api, "1.1.0", "first")) == "halted"
        assert shown(api, "sim-00001")["health"]["verdict"] == "healthy"
        summary = first.stop()
    assert (summary["devices"], summary["installs"], summary["duplicate_installs"]) == (MANY, MANY + 1, 0)
    assert summary["ended"] == {"committed": MANY, "reverted hang": 1}
    assert summary["refused_assignments"] == {}
    one = shown(api, "sim-00001")
    assert one["labels"]["site"] in ("berlin", "paris")
    assert one["inventory"]["timezone"] == "Europe/Berlin"
    kept = first.memories()
    for device in api.all("/devices"):
        memory = kept[device["id"]]
        assert (device["slot"], device["phase"], device["version"]) == (memory.slot, memory.phase, "1.0.0")

    with simulation(here, MANY, SCENARIO) as second:
        second.wait("all to have told", lambda seen: seen["online"] == MANY and not seen["waiting_for_server"])
        again = second.stop()
    assert (again["running"], again["installs"]) == ({"sensor-gateway 1.0.0": MANY}, 0)
    assert {memory.boot for memory in second.memories().values()} == {2}
    here.cli("simulate", "--state", str(second.directory), "--remove")
    assert [device for device in api.all("/devices") if device["id"].startswith("sim-")] == []


def test_sessions_come_back_when_the_broker_was_killed_and_power_cuts_take_one_with_them(here: Fleet) -> None:
    script = {
        "times": QUICK,
        "labels": {"part": "cut"},
        "behaviours": [{"attempts": 1, "reverts": {"after": "100ms", "cause": "power"}}],
    }
    with simulation(here, 3, script, prefix="cut-") as cut:
        cut.wait_online(3)
        broker = here.broker_pid()
        assert broker is not None
        os.kill(broker, signal.SIGKILL)
        cut.wait("all to be back", lambda seen: seen["connects"] >= 6 and seen["online"] == 3)
        roll_out(Api(here), "1.0.0", "cut")
        cut.wait("a power cut", lambda seen: seen["ended"].get("reverted power"))
        cut.wait("its device to be back", lambda seen: seen["connects"] >= 7 and seen["online"] == 3)
        cut.stop()


def test_two_machines_with_one_identity_are_noticed(here: Fleet) -> None:
    with simulation(here, 1, {"behaviours": [{"clone": True}]}, prefix="twin-") as twins:
        api = Api(here)
        twins.wait_online(1)
        wait_for("the alarm", lambda: api.get("/devices/twin-00001")["clone"], deadline_s=60)
        twins.stop()


def test_who_comes_and_goes_does_so_and_who_never_comes_is_enrolled(here: Fleet) -> None:
    script = {
        "behaviours": [
            {"share": 0.3, "offline": "always"},
            {"share": 0.3, "offline": "once"},
            {"flaps": {"up": "1s", "down": "500ms"}},
        ]
    }
    with simulation(here, 10, script, prefix="flap-") as flapping:
        natures = {name: flapping.nature(name) for name in flapping.names}
        never = [name for name, nature in natures.items() if nature.never]
        once = [name for name, nature in natures.items() if nature.once]
        assert never
        assert once
        coming = 10 - len(never) - len(once)
        assert coming
        flapping.wait("many connections", lambda seen: seen["connects"] >= len(once) + 3 * coming)
        api = Api(here)
        wait_for("those to be away", lambda: not any(shown(api, name)["online"] for name in once), deadline_s=60)
        flapping.stop()
    assert all(shown(api, name)["last_seen"] is None for name in never)
    assert all(shown(api, name)["phase"] == "none" for name in once)


def test_bytes_are_fetched_when_they_are_asked_for_and_faster_than_the_clock(here: Fleet, tmp_path: Path) -> None:
    slow = {"times": {**QUICK, "trial": "100s"}, "labels": {"part": "load"}}
    with simulation(here, 2, slow, "--download", "50000", "--speed", "100", prefix="load-") as loading:
        loading.wait_online(2)
        roll_out(Api(here), "1.0.0", "load")
        loading.wait("both to be committed", lambda seen: seen["ended"].get("committed") == 2)
        assert loading.stop()["bytes"] == 100_000


def test_one_directory_is_not_used_by_two_at_once_nor_by_another_fleet(here: Fleet) -> None:
    with simulation(here, 1, {}, prefix="one-") as one:
        one.wait_online(1)
        refused = here.cli("simulate", "--devices", "1", "--state", str(one.directory), ok=(1,))
        assert "simulate.in_use" in refused.stderr
        one.stop()
    (one.directory / "root.json").write_bytes(b"{}")
    refused = here.cli("simulate", "--devices", "1", "--state", str(one.directory), ok=(1,))
    assert "simulate.other_fleet" in refused.stderr
