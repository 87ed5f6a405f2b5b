"""What the server takes from its broker at once: reports of health wait for others, and for nothing else."""

import asyncio
from pathlib import Path

import pytest
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.ca import FleetAuthority
from beamfleet_server.clock import wall_clock
from paho.mqtt.client import MQTTMessage

WAIT_S = 0.001
FOR_EVER_S = 3_600.0


@pytest.fixture
def client(tmp_path: Path) -> BrokerClient:
    authority = FleetAuthority.open(tmp_path, wall_clock)
    return BrokerClient("localhost", 1, authority.client_pair("_server"), str(tmp_path / "authority.pem"))


def arrive(client: BrokerClient, *kinds: str) -> None:
    for kind in kinds:
        client._on_message(client._client, None, MQTTMessage(topic=f"beamfleet/1/gw-1/main/up/{kind}".encode()))


def is_health(topic: str) -> bool:
    return topic.endswith("/up/health")


async def taken(client: BrokerClient, most: int, longest_s: float, *later: str) -> list[str]:
    """The kinds that are taken when `later` comes while it waits."""
    taking = asyncio.ensure_future(client.take(most, WAIT_S, longest_s, is_health))
    for kind in later:
        await asyncio.sleep(5 * WAIT_S)
        assert not taking.done()
        arrive(client, kind)
    async with asyncio.timeout(30):
        return [message.topic.rpartition("/")[2] for message in await taking]


def test_health_waits_until_something_else_comes_and_all_keep_their_order(client: BrokerClient) -> None:
    arrive(client, "health")
    assert asyncio.run(taken(client, 100, FOR_EVER_S, "health", "state")) == ["health", "health", "state"]


def test_what_else_has_come_does_not_wait_for_health(client: BrokerClient) -> None:
    arrive(client, "event", "health")
    assert asyncio.run(taken(client, 100, FOR_EVER_S)) == ["event", "health"]


def test_health_alone_waits_for_a_while_and_until_there_is_enough(client: BrokerClient) -> None:
    arrive(client, "health")
    assert asyncio.run(taken(client, 100, 3 * WAIT_S)) == ["health"]
    arrive(client, "health", "health")
    assert asyncio.run(taken(client, 3, FOR_EVER_S, "health")) == ["health"] * 3
    arrive(client, "health", "health", "health")
    assert asyncio.run(taken(client, 2, FOR_EVER_S)) == ["health"] * 2
