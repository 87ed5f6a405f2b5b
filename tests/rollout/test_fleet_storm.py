"""Two thousand simulated devices, some offline, reverting or stuck, while broker and server are killed twice each."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rollout.simulated import Api, Simulation, simulation
from tests.support.examples import tarball
from tests.support.fleet import Fleet, fleet, wait_for

pytestmark = [pytest.mark.suite(name="rollout"), pytest.mark.timeout(900)]

PRODUCT = "sensor-gateway"
DEVICES = 2000
SCENARIO: dict[str, Any] = {
    "seed": 11,
    "times": {"download": ["1s", "45s"], "verify": "500ms", "stage": "500ms", "swap": "500ms", "trial": ["2s", "5s"]},
    "health": 0,
    "behaviours": [
        {"share": "5%", "offline": "once"},
        {"share": "3%", "reverts": {"after": ["500ms", "3s"], "cause": "crash"}},
        {"share": "1%", "stuck": "downloading"},
        {"share": "0.5%", "stuck": "staged"},
        {"share": "0.5%", "stuck": "swapping"},
    ],
}
PLAN = {
    "product": PRODUCT,
    "version": "1.0.0",
    "devices": {"all": True},
    "phases": [
        {"name": "canary", "devices": 20, "failures": "100%", "successes": "10%"},
        {"name": "rest", "failures": "100%"},
    ],
    "deadline": "120s",
    "retries": 20,
    "backoff": "1s",
}
STORM = (0.15, 0.3, 0.45, 0.6)
"""The parts of the fleet that have swapped when something is killed: broker, server, broker, server."""


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Simulation]]:
    with fleet(tmp_path_factory.mktemp("storm"), PRODUCT) as opened:
        built = opened.json(
            "bundle", "build", str(tarball("sensor_gateway", "1.0.0")), "--out", str(opened.work / "made")
        )
        opened.cli("bundle", "publish", built["path"])
        with simulation(opened, DEVICES, SCENARIO) as simulated:
            yield opened, simulated


def kill_broker(opened: Fleet) -> None:
    """The power goes, for the broker alone; the server starts it again."""
    broker = wait_for("a broker to kill", opened.broker_pid, deadline_s=30)
    os.kill(broker, signal.SIGKILL)


def end(simulated: Simulation, name: str, manifest: str) -> str:
    """What becomes of a device, by its script alone."""
    if simulated.nature(name).once:
        return "away"
    fate = simulated.fate(name, manifest, "1.0.0")
    return fate.end if fate.stuck != "swapping" else "stuck swapping"


def test_every_device_ends_in_the_true_state_whatever_is_killed(here: tuple[Fleet, Simulation]) -> None:
    opened, simulated = here
    api = Api(opened)
    there = DEVICES - away(simulated)
    simulated.wait("all to have come, and some to be away", lambda seen: settled(seen, there), 300)
    number = api.post("/rollouts", {"plan": PLAN})["id"]
    blows: list[Callable[[Fleet], None]] = [kill_broker, Fleet.kill_server] * 2
    for part, blow in zip(STORM, blows, strict=True):
        simulated.wait(f"{part:.0%} to have swapped", swapped(part), 120)
        blow(opened)

    manifest = api.get("/bundles")["items"][0]["manifest"]
    expected = counts(simulated, manifest)

    def over() -> bool:
        return came_to(api, simulated, number, manifest, expected)

    wait_for(f"the rollout to come to {expected}", over, deadline_s=500, every_s=2)
    simulated.wait("all to be acknowledged", lambda seen: not seen["waiting_for_server"], 120)
    summary = simulated.stop()
    check(api, simulated, number, manifest)

    assert summary["duplicate_installs"] == 0
    assert summary["installs"] == sum(sum(memory.installs.values()) for memory in simulated.memories().values())
    assert summary["installs"] >= expected["committed"] + expected["reverted"]


def away(simulated: Simulation) -> int:
    """How many have come once and are gone."""
    return sum(simulated.nature(name).once for name in simulated.names)


def counts(simulated: Simulation, manifest: str) -> dict[str, int]:
    """How many devices come to each state, by their script alone."""
    script = Counter(end(simulated, name, manifest).split()[0] for name in simulated.names)
    failed = script["stuck"] + script["away"]
    return {"committed": script["committed"], "failed": failed, "reverted": script["reverted"]}


def came_to(api: Api, simulated: Simulation, number: int, manifest: str, expected: dict[str, int]) -> bool:
    """Whether the rollout is over with these counts. Who should get there and was too late is tried again."""
    rollout = api.get(f"/rollouts/{number}", devices=0)
    seen = {state: count for state, count in sorted(rollout["counts"].items()) if count}
    print(rollout["state"], rollout["phase"], seen)
    assert sum(seen.values()) == DEVICES
    if (rollout["state"], seen) == ("completed", expected):
        return True
    if not settled(simulated.status(), DEVICES - away(simulated)):
        return False  # what a device has to say heals what the server had to assume
    late = [member["id"] for member in api.all(f"/rollouts/{number}/devices", state="failed")]
    late = [name for name in late if end(simulated, name, manifest) in ("committed", "reverted")]
    if rollout["state"] == "completed" and late:  # a slow machine kept them waiting for longer than the deadline
        api.post(f"/rollouts/{number}/retry", {"devices": late})
    return False


def settled(seen: dict[str, Any], online: int) -> bool:
    """Whether everybody has been there, so many still are, and the server knows of all of them."""
    return bool(seen["connects"] >= DEVICES and seen["online"] == online and not seen["waiting_for_server"])


def swapped(part: float) -> Callable[[dict[str, Any]], bool]:
    """Whether this part of the fleet has swapped, as the simulator counts."""
    return lambda seen: bool(seen["installs"] >= part * DEVICES)


def check(api: Api, simulated: Simulation, number: int, manifest: str) -> None:
    """Server, devices and script say the same of each device."""
    members = {member["id"]: member for member in api.all(f"/rollouts/{number}/devices")}
    kept = simulated.memories()
    assert set(members) == set(kept) == set(simulated.names)
    wrong = []
    for name, member in members.items():
        said = (end(simulated, name, manifest), member["state"], member["reason"], kept[name].phase)
        match said:
            case ("committed", "committed", _, "committed"):
                good = kept[name].running() is not None
            case ("reverted", "reverted", "crash", "reverted") | ("away", "failed", "deadline", "none"):
                good = member["evidence"] == (member["state"] == "reverted")
            case ("stuck" | "stuck swapping", "failed", "deadline", "none"):
                good = not kept[name].installs
            case _:
                good = False
        if not good:
            wrong.append((name, *said))
    assert not wrong, f"{len(wrong)} of them, such as {wrong[:20]}"

    assert max(count for memory in kept.values() for count in memory.installs.values()) == 1
