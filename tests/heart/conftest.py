"""What the suite stands on: slots of the example releases that all workers share, devices that are cleared, figures."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.heart.device import HeartDevice
from tests.support.release_slots import Releases

Make = Callable[..., HeartDevice]
Told = Callable[[object], None]


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Releases:
    """Slots of the example releases; the workers of one run share a directory."""
    place = tmp_path_factory.getbasetemp()
    return Releases((place.parent if hasattr(request.config, "workerinput") else place) / "releases")


@pytest.fixture
def room() -> Iterator[Path]:
    """An empty directory that every user may pass through, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="beamfleet-heart-")).resolve()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def make(room: Path, releases: Releases) -> Iterator[Make]:
    """Makes devices that are cleared at the end: make("relx", settings={...})."""
    made: list[HeartDevice] = []

    def device(kind: str, **more: Any) -> HeartDevice:
        made.append(HeartDevice(room / f"device-{len(made)}", kind, releases, **more))
        return made[-1]

    yield device
    for each in made:
        each.clear()


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Told:
    """Notes a figure of this test for the table that the suite ends with."""

    def note(figure: object) -> None:
        record_property("heart", str(figure))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = sorted(
        f"{report.nodeid.partition('::')[2][:96]:96} {figure}"
        for report in terminalreporter.getreports("passed")
        for key, figure in report.user_properties
        if key == "heart"
    )
    if lines:
        terminalreporter.write_sep("-", "heart suite: how long the service was away")
        for line in lines:
            terminalreporter.write_line(line)
