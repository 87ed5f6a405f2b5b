"""A rogue device that says more than anybody may, beside an honest one with a real agent and a real release."""

import contextlib
import itertools
import threading
from collections.abc import Iterator

import pytest
import requests
from beamfleet_bundles import topics

from tests.support.fleet import Device, Fleet, fleet, wait_for
from tests.support.interception import identity_of
from tests.support.mqtt_device import MqttDevice
from tests.support.server import Identity
from tests.trust.threats.captive import PRODUCT, built, committed, logged, running_device, start_rollout

pytestmark = pytest.mark.suite(name="trust")

SETTINGS = ("--ingest-rate", "2", "--flood-patience-s", "5", "--flood-deny-s", "15")


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server that takes two messages a second of each device, a minute's worth at once."""
    with fleet(tmp_path_factory.mktemp("flooded"), PRODUCT, settings=SETTINGS) as opened:
        for version in ("1.0.0", "1.1.0"):
            opened.cli("bundle", "publish", built(opened, version))
        yield opened


def enrolled(here: Fleet, name: str) -> tuple[Device, Identity]:
    """A device whose agent has been taken away from it, and what it left."""
    device = here.flash(name)
    here.wait_online(name)
    device.stop()
    return device, Identity(name, *reversed(identity_of(device)))


@contextlib.contextmanager
def flood(rogue: MqttDevice) -> Iterator[None]:
    """Hundreds of messages a second, for as long as the block lasts and the broker lets it."""
    enough = threading.Event()

    def pour() -> None:
        for number in itertools.count():
            if rogue._client.is_connected():
                rogue._client.publish(topics.up(rogue.name, "main", "health"), b"nonsense %d" % number, qos=0)
            if number % 20 == 0 and enough.wait(0.05):
                return

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def refused_messages(here: Fleet) -> int:
    """How many messages came too fast."""
    return int(here.json("health", ok=(0, 1))["refused_messages"].get("message.rate", 0))


def events(here: Fleet, device: str) -> list[str]:
    """The kinds of what is known to have happened to a device."""
    return [item["kind"] for item in here.json("events", "--device", device)]


def test_others_are_served_and_it_is_throttled_then_cut_then_taken_again(here: Fleet) -> None:
    honest = running_device(here, "honest")
    device, identity = enrolled(here, "rogue")
    rogue, lost = MqttDevice(identity, here.address("mqtt"), here.data / "ca.pem"), len(logged(honest, "session down"))
    with flood(rogue):
        wait_for("the throttle", lambda: refused_messages(here) > 100, deadline_s=30)
        start_rollout(here, "honest", "1.1.0")
        wait_for("the end of its patience", lambda: "denied" in events(here, "rogue"), deadline_s=60)
        wait_for("the session to end", lambda: not rogue._client.is_connected(), deadline_s=30)
        answer = requests.get(
            f"{here.address('devices')}/assignment", cert=(str(identity.certificate), str(identity.key)),
            verify=str(here.data / "ca.pem"), timeout=30,
        )  # fmt: skip
        assert (answer.status_code, answer.json()["code"]) == (429, "request.rate")
        committed(honest, "1.1.0")
    rogue.close()
    wait_for("it to be known", lambda: here.json("device", "show", "honest")["version"] == "1.1.0", deadline_s=30)
    assert len(logged(honest, "session down")) == lost
    assert "denied" not in events(here, "honest")
    device.start()
    here.wait_online("rogue", deadline_s=90)
