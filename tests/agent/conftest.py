"""What the agent's tests stand on: an authority, a loop, a real broker."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from beamfleet_agent.loop import Loop
from beamfleet_bundles.build.builder import build
from beamfleet_bundles.bundle import Bundle

from tests.agent.authority import Authority
from tests.agent.broker import Broker, Listener
from tests.support import skeleton
from tests.support.repository import Repository

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


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], bytes]:
    """Two signed bundles of a tiny release, and the root that vouches for them."""
    folder = tmp_path_factory.mktemp("bundles")
    repository = Repository(now=datetime.now(UTC), releases=())
    repository.create("gateway")
    made = []
    for version in ("1.0.0", "1.1.0"):
        (folder / version).mkdir()
        source = skeleton.write(folder / version, skeleton.release("relx", "gateway", version))
        built = build(source, out_dir=folder / version, product="gateway", version=version)
        repository.release(built.manifest)
        made.append(built.path)
    repository.publish()
    for path in made:
        Bundle.open(path).with_metadata(path, repository.bundle_metadata("gateway"))
    return made, repository.root
