"""One real server with one product for all tests that only talk to it; each of them uses device ids of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.author import Author
from tests.support.mqtt_device import MqttDevice
from tests.support.postgres import cluster, place  # noqa: F401 (fixtures)
from tests.support.server import Server, running_server

PRODUCT = "sensor-gateway"


@dataclass(frozen=True, slots=True)
class Centre:
    """A server, somebody who signs for it, and a directory for devices."""

    server: Server
    author: Author
    work: Path

    def device(self, name: str, *, session: int = 1, **token: object) -> MqttDevice:
        """A device that has just enrolled, connected and been born."""
        identity = self.server.enrol(name, self.work, **token)
        device = MqttDevice(identity, self.server.facts["mqtt"], self.server.ca, session=session)
        device.birth()
        return device


def open_centre(work: Path, server: Server) -> Centre:
    """Sign the first metadata and a product."""
    author = Author(server, work / "author")
    assert author.initialise().status_code == 200
    assert author.create_product(PRODUCT).status_code == 201
    return Centre(server, author, work / "devices")


@pytest.fixture(scope="session")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    """Shared: whoever kills or restarts makes a server of their own."""
    work = tmp_path_factory.mktemp("centre")
    with running_server(work / "server") as server:
        yield open_centre(work, server)


@pytest.fixture
def own_centre(tmp_path: Path) -> Iterator[Centre]:
    """For one test alone."""
    with running_server(tmp_path / "server") as server:
        yield open_centre(tmp_path, server)
