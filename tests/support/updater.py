"""A device that looks for updates, for tests: the production updater at a `tests.support.repository`."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.trust import Updater

from tests.support.repository import PRODUCT, TARGET, Repository

PATH = f"{PRODUCT}/1.1.0/{TARGET}/manifest"


def updater(repo: Repository, store: Path, now: datetime | None = None, **time: Any) -> Updater:
    return Updater(store, repo, repo.root, now or repo.now, **time)


def look(repo: Repository, store: Path, now: datetime | None = None) -> None:
    """One whole check: refresh, then the product's metadata."""
    updater(repo, store, now).target(PATH)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as refused:
        action()
    return refused.value.code


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
