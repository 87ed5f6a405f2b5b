from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.cli.api_script import ScriptedApi
from tests.server.cli.terminal import Operator


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "operator")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ScriptedApi]:
    scripted = ScriptedApi(tmp_path)
    yield scripted
    scripted.close()
