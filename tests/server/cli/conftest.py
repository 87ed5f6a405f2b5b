from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.cli.api_script import ScriptedApi
from tests.server.cli.terminal import Operator
from tests.support.fleet import Fleet


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """Somebody who has not logged in anywhere."""
    return Operator(tmp_path / "operator")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ScriptedApi]:
    scripted = ScriptedApi(tmp_path)
    yield scripted
    scripted.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A real server, initialised by the operator in `fleet.work / "operator"`, with the product my-app."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    fleet.open("my-app")
    yield fleet
    fleet.close()


@pytest.fixture
def owner(fleet: Fleet) -> Operator:
    """The operator who initialised the server and has its keys."""
    return Operator(fleet.work / "operator")


@pytest.fixture
def guest(fleet: Fleet, operator: Operator) -> Operator:
    """An operator who has logged in and has no keys."""
    operator.log_in(fleet)
    return operator
