"""What the agent tells systemd, over a real socket."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beamfleet_agent.loop import Loop
from beamfleet_agent.notify import Notify
from beamfleet_agent.paths import Paths

from tests.agent.device import lay_down, words

Spin = Callable[[str, Callable[[], object]], None]


class Init:
    """Somebody who listens."""

    def __init__(self, address: str) -> None:
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.line.bind("\0" + address[1:] if address.startswith("@") else address)
        self.line.settimeout(30)

    def hears(self) -> str:
        return self.line.recv(1024).decode()

    def has_heard(self) -> list[str]:
        """Everything so far."""
        heard = []
        self.line.setblocking(False)
        try:
            while True:
                heard.append(self.line.recv(1024).decode())
        except BlockingIOError:
            return heard


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@beamfleet-test-{os.getpid()}-{id(request)}"


@pytest.fixture
def init(address: str) -> Iterator[Init]:
    made = Init(address)
    yield made
    made.line.close()


def test_it_tells_that_it_is_ready_alive_and_leaving(loop: Loop, address: str, init: Init) -> None:
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notify = Notify(loop, environment)
    assert environment == {"HOME": "/"}, "the worker must not speak for the agent"
    notify.ready()
    notify.alive()
    notify.stopping()
    assert init.has_heard() == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_the_timer_is_only_for_want_of_other_signs_of_life(loop: Loop, address: str, init: Init, spin: Spin) -> None:
    notify = Notify(loop, {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"})
    notify.ready()
    heard: list[str] = []

    def three() -> bool:
        heard.extend(init.has_heard())
        return heard.count("WATCHDOG=1") >= 3

    spin("three signs of life", three)
    notify = Notify(loop, {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3600000000"})
    notify.alive()
    notify.alive()
    assert init.has_heard()[-2:] == ["WATCHDOG=1", "WATCHDOG=1"]
    assert loop.pending("notify.watchdog")


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}])
def test_without_a_watchdog_of_ours_nothing_wakes_the_agent_up(
    loop: Loop, address: str, init: Init, more: dict[str, str]
) -> None:
    notify = Notify(loop, {"NOTIFY_SOCKET": address, **more})
    notify.ready()
    assert (init.has_heard(), loop.pending("notify.watchdog")) == (["READY=1"], False)


@pytest.mark.parametrize("nobody", [{}, {"NOTIFY_SOCKET": "/nonexistent"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_an_init_that_does_not_listen_stops_nobody(loop: Loop, nobody: dict[str, str]) -> None:
    notify = Notify(loop, nobody)
    notify.ready()
    notify.stopping()


def test_the_resident_agent_is_ready_when_it_answers(address: str, init: Init, tmp_path: Path) -> None:
    paths = lay_down(tmp_path / "device", words("gw-1"))
    environment = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"}
    command = [sys.executable, "-I", "-m", "beamfleet_agent", "run", "--root", paths.root]
    agent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert init.hears() == "READY=1"
    assert Path(Paths(paths.root).agent_sock).exists()
    assert init.hears() == "WATCHDOG=1"
    agent.terminate()
    said = init.hears()
    while said == "WATCHDOG=1":
        said = init.hears()
    assert said == "STOPPING=1"
    assert agent.wait(30) == 0
