"""A repository for each test, and a client that has been given its root."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.conformance.stage import Client, Play, Stage, opened
from tests.conformance.stage import program as load


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    with opened() as stage:
        yield stage


@pytest.fixture(scope="session")
def program() -> ModuleType:
    return load()


@pytest.fixture
def play(stage: Stage) -> Play:
    return stage.play()


@pytest.fixture
def fresh(tmp_path: Path, program: ModuleType) -> Client:
    """A client that trusts nothing yet."""
    return Client(tmp_path, program)


@pytest.fixture
def client(fresh: Client, play: Play) -> Client:
    """A client that trusts the first root."""
    assert fresh.init(play) == 0
    return fresh
