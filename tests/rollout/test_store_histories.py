"""Generated histories through the real store, on both databases: what became of everything is what the rules say, row
by row, and a server that is restarted at any event makes no difference."""

from pathlib import Path
from random import Random

import pytest
from beamfleet_server.store.database import Database

from tests.rollout.histories import play
from tests.rollout.store_world import StoreWorld
from tests.rollout.world import Outcome, replay
from tests.support.postgres import Cluster

pytestmark = [pytest.mark.suite(name="rollout")]

HISTORIES = 300
GROUPS = 30
RESTARTED = 0.05
"""The share of events before which the server is killed, in every third history."""


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables and nothing in them: to copy one is much faster than to make one."""
    path = tmp_path_factory.mktemp("empty") / "beamfleet.db"
    database = Database(path)
    database.open()
    database.close()
    return path


def copied(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes())
    return to


def differences(expected: Outcome, found: Outcome) -> list[str]:
    """Where two outcomes differ."""
    told: list[str] = []
    for name in ("rollouts", "members", "told"):
        ours, theirs = getattr(expected, name), getattr(found, name)
        told += [
            f"{name} {key}: {ours.get(key)} on the reference, {theirs.get(key)} in the store"
            for key in sorted(ours.keys() | theirs.keys(), key=str)
            if ours.get(key) != theirs.get(key)
        ]
    for name in ("quarantine", "refused"):
        ours, theirs = getattr(expected, name), getattr(found, name)
        told += [f"{name}: {sorted(ours)} on the reference, {sorted(theirs)} in the store"] if ours != theirs else []
    return told


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_store_comes_to_what_the_rules_say(
    kind: str, group: int, cluster: Cluster, empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(group, HISTORIES, GROUPS):
        with capsys.disabled():
            print(f"history seed {seed} on {kind}")
        history = play(seed)
        chance = Random(seed)  # noqa: S311 (the same again every time)
        restarts = {number for number in range(len(history.ops) + 1) if seed % 3 == 0 and chance.random() < RESTARTED}
        place = copied(empty, tmp_path / f"{seed}.db") if kind == "sqlite" else cluster.database()
        world = StoreWorld(place, restarts.__contains__)
        try:
            found = replay(history.ops, world)
        finally:
            world.close()
        assert differences(history.outcome, found) == [], f"seed {seed} on {kind}"
        if not isinstance(place, Path):
            cluster.clear(place)
