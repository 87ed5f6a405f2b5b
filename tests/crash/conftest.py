"""The scratch room of the crash suite, in memory where that can be had, and the figures that it ends with."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.crash import bootloader, device
from tests.crash.bootloader import OLD, Bootloader
from tests.crash.device import Maker, Versions

FIGURES: Counter[str] = Counter()
KEYS = (
    "states", "epochs_recorded", "epochs_explored", "violations", "planted", "caught", "syscall_faults",
    "lint_findings",
)  # fmt: skip


@pytest.fixture(scope="session")
def figures() -> Counter[str]:
    """What was counted, by the keys that the suite prints."""
    return FIGURES


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """An empty directory, in memory: the suites make thousands of small files."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="beamfleet-crash-", dir=memory if memory.is_dir() else None))
    yield made.resolve()
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def maker(room: Path) -> Maker:
    return Maker(room)


@pytest.fixture(scope="session")
def bundles(maker: Maker) -> Versions:
    """Signed bundles."""
    return Versions(*(maker.bundle(version) for version in ("0.8.0", "0.9.0", "1.0.0", "1.1.0")))


@pytest.fixture(scope="session")
def installed(room: Path, maker: Maker, bundles: Versions) -> Path:
    """A device, to be copied, with a slot that runs, the one before it, and one of no more use."""
    root = room / "installed"
    paths = maker.lay_down(root)
    state = Path(paths.boot, "state")
    state.write_text(f"format=1\nslot={bundles.runs.slot}\nprevious={bundles.previous.slot}\nphase=committed\n")
    for bundle in (bundles.runs, bundles.previous, bundles.spare):
        assert device.staged(root, bundle.path).status == 0, (root / device.STDOUT).read_text()
    (root / device.VAR / "trust/high-water").unlink()  # so that the next installation has to write it
    return root


@pytest.fixture(scope="session")
def running(room: Path, maker: Maker) -> Path:
    """A device, to be copied, whose launcher runs OLD, committed, and was stopped cleanly."""
    root = room / "running"
    bootloader.furnish(maker.lay_down(root))
    made = Bootloader(root, "committed")
    made.boot.request(f"swap {OLD} 1")
    made.install()
    return root


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """With `--json` the figures are the last line: after everything that others have to say."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    ours = any(item.path.parent == Path(__file__).parent for item in session.items)
    if reporter is not None and ours and session.config.getoption("json"):
        reporter.write_line(json.dumps({key: FIGURES[key] for key in KEYS}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.write_sep("-", "crash suite")
        for key in (*KEYS, *sorted(set(FIGURES) - set(KEYS))):
            terminalreporter.write_line(f"{key:24} {FIGURES[key]:8}")
