"""One real fleet with development keys for most of the threat model; each attacker has a device of their own there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, fleet
from tests.trust.threats.captive import PRODUCT, built


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """1.0.0 and 1.1.0 are published."""
    work = tmp_path_factory.mktemp("threats")
    with fleet(work, PRODUCT) as opened:
        for version in ("1.0.0", "1.1.0"):
            opened.cli("bundle", "publish", built(opened, version))
        yield opened


@pytest.fixture(scope="session")
def work(here: Fleet) -> Path:
    """Where attackers keep what they have."""
    folder = here.work / "attackers"
    folder.mkdir()
    return folder
