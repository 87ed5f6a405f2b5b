"""What the agent's tests stand on: an authority, a loop, a real broker."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beamfleet_agent.loop import Loop

from tests.agent.authority import Authority
from tests.agent.broker import Broker, Listener

DEADLINE_S = 20.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def spin(loop: Loop) -> Callable[[str, Callable[[], object]], None]:
    """Turns the loop until `look` is true: spin("what for", look)."""

    def turn_until(what: str, look: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE_S
        late = False

        def give_up() -> None:
            nonlocal late
            late = True

        loop.after("test", DEADLINE_S, give_up)
        while not look():
            assert not late, f"waited {DEADLINE_S:.0f} s for {what}"
            assert time.monotonic() < end + 1, f"waited {DEADLINE_S:.0f} s for {what}"
            loop.turn()
        loop.cancel("test")

    return turn_until


@pytest.fixture
def broker(authority: Authority) -> Iterator[Broker]:
    made = Broker(authority)
    yield made
    made.kill()


@pytest.fixture
def listener(authority: Authority, broker: Broker) -> Iterator[Listener]:
    made = Listener(authority, broker.port)
    yield made
    made.close()
