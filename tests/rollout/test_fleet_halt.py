"""The demo's broken release on fifty simulated devices and two real ones with a BEAM: it halts in the canary phase."""

from collections.abc import Iterator

import pytest
from beamfleet_server.fleet.draw import draw

from tests.rollout.simulated import Api, Simulation, simulation
from tests.support.examples import tarball
from tests.support.fleet import Fleet, fleet, wait_for

pytestmark = [pytest.mark.suite(name="rollout"), pytest.mark.timeout(400)]

PRODUCT = "sensor-gateway"
SIMULATED = 50
CANARIES = 2
TIMES = {"download": "1s", "verify": "200ms", "stage": "200ms", "swap": "200ms", "trial": "2s"}
SCENARIO = {
    "times": TIMES,
    "behaviours": [
        {"versions": ["1.2.0"], "slow": "20s"},
        {"versions": ["1.2.0"], "reverts": {"after": "500ms", "cause": "crash"}},
    ],
}


def real_names(simulated: list[str]) -> tuple[str, str]:
    """Ids of two devices: one that is drawn before all the simulated ones, and one that is drawn after them."""
    draws = [draw(PRODUCT, name) for name in simulated]
    names = [f"real-{number}" for number in range(10_000)]
    first = next(name for name in names if draw(PRODUCT, name) < min(draws))
    last = next(name for name in names if draw(PRODUCT, name) > max(draws))
    return first, last


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Simulation]]:
    with (
        fleet(tmp_path_factory.mktemp("halt"), PRODUCT) as opened,
        simulation(opened, SIMULATED, SCENARIO) as simulated,
    ):
        names = real_names(simulated.names)
        for name in names:
            opened.flash(name, trial_s=5)
        simulated.wait_online(SIMULATED)
        opened.wait_online(*names)
        yield opened, simulated


def test_the_broken_release_stops_at_its_canaries_and_nobody_else_is_touched(here: tuple[Fleet, Simulation]) -> None:
    opened, simulated = here
    canary, other = real_names(simulated.names)
    opened.cli("push", str(tarball("sensor_gateway", "1.1.0")), "--all", "--canary", "10", "--timeout", "120")
    before = simulated.wait("all to have committed", lambda seen: seen["running"] == {f"{PRODUCT} 1.1.0": SIMULATED})
    ground = opened.devices[other].boot_state()
    api = Api(opened)
    sequences = {device["id"]: device["update"] for device in api.all("/devices")}

    broken = ["push", str(tarball("sensor_gateway", "1.2.0")), "--all", "--canary", str(CANARIES), "--timeout", "120"]
    opened.cli(*broken, ok=(3,))

    wait_for("the BEAM to be back", lambda: api.get(f"/devices/{canary}")["phase"] == "reverted", deadline_s=90)
    (rollout,) = [each for each in api.all("/rollouts") if each["version"] == "1.2.0"]
    assert (rollout["state"], rollout["phase"]) == ("halted", "canary")
    members = {member["id"]: member for member in api.all(f"/rollouts/{rollout['id']}/devices")}
    assert len(members) == SIMULATED + 2
    touched = {name for name, member in members.items() if member["state"] != "pending"}
    offered = touched | {name for name, member in members.items() if member["reason"] == "held"}
    assert canary in touched
    assert len(offered) <= CANARIES
    assert {members[name]["state"] for name in touched} == {"reverted"}

    summary = simulated.stop()
    assert summary["downloads"] - before["downloads"] <= CANARIES - 1
    assert summary["running"] == {f"{PRODUCT} 1.1.0": SIMULATED}
    for name, memory in simulated.memories().items():
        assert (len(memory.installs), memory.phase) == ((2, "reverted") if name in touched else (1, "committed"))
    for device in api.all("/devices"):
        assert device["version"] == "1.1.0"
        if device["id"] not in offered:
            assert device["update"] == sequences[device["id"]]
    assert opened.devices[other].boot_state() == ground
    assert opened.devices[canary].boot_state()["phase"] == "reverted"
