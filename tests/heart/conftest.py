"""What the suite stands on: slots of the example releases that all workers share, devices that are cleared, figures."""

import fcntl
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
def common(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A directory that the workers of one run share."""
    place = tmp_path_factory.getbasetemp()
    return place.parent if hasattr(request.config, "workerinput") else place


@pytest.fixture(scope="session")
def releases(common: Path) -> Releases:
    """Slots of the example releases."""
    return Releases(common / "releases")


@pytest.fixture
def oom_expected(common: Path) -> Iterator[None]:
    """The kernel may have to kill for memory in this test. Its count of such kills is the whole machine's."""
    with (common / "oom").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def no_oom(common: Path) -> Iterator[None]:
    """The kernel kills nothing for memory while this test runs: a SIGKILL here is just that."""
    with (common / "oom").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


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
