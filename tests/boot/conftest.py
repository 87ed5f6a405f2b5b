"""What the suite `boot` shares: the package, a root with it, signed bundles, and a device that was laid down once."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import nspawn, rootfs
from tests.support.packaged import PackagedDevice, Shipped, Workshop


@dataclass(frozen=True, slots=True)
class Releases:
    """What the devices of the suite install: two that are well, and one that dies at its start."""

    old: Shipped
    new: Shipped
    dying: Shipped


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A directory for whole root file systems, and for sockets whose paths must be short."""
    made = Path(tempfile.mkdtemp(prefix="beamfleet-boot-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def workshop(room: Path) -> Workshop:
    if reason := rootfs.missing() or nspawn.missing():
        pytest.skip(f"no device in systemd-nspawn: {reason}")
    return Workshop(room)


@pytest.fixture(scope="session")
def releases(workshop: Workshop) -> Releases:
    return Releases(*(workshop.ship("sensor_gateway", version) for version in ("1.0.0", "1.1.0", "1.2.0")))


@pytest.fixture(scope="session")
def laid_down(workshop: Workshop, releases: Releases, room: Path) -> Path:
    """The room of a device, off, whose committed release is the old one."""
    place = room / "laid-down"
    device = PackagedDevice(workshop, place, {"trial_deadline_s": 40})
    try:
        device.flash()
        device.install(releases.old)
        device.machine.power_off()
    finally:
        device.close()
    return place


@pytest.fixture
def device(workshop: Workshop, laid_down: Path, room: Path) -> Iterator[PackagedDevice]:
    """A device of one's own, on, whose committed release is the old one and answers."""
    with _device(workshop, laid_down, room) as made:
        yield made


@pytest.fixture(scope="module")
def standing(workshop: Workshop, laid_down: Path, room: Path) -> Iterator[PackagedDevice]:
    """The same, shared by tests that change nothing."""
    with _device(workshop, laid_down, room) as made:
        yield made


@pytest.fixture(scope="session")
def side_by_side(workshop: Workshop, laid_down: Path, room: Path) -> Callable[..., None]:
    """Runs a case for each of the words, each with such a device of its own, at the same time: they mostly wait."""

    def run(case: Callable[[PackagedDevice, str], None], *words: str) -> None:
        def one(word: str) -> None:
            try:
                with _device(workshop, laid_down, room) as device:
                    case(device, word)
            except BaseException as error:
                error.add_note(f"in the case of {word}")
                raise

        with ThreadPoolExecutor(len(words)) as pool:
            list(pool.map(one, words))

    return run


@contextlib.contextmanager
def _device(workshop: Workshop, laid_down: Path, room: Path) -> Iterator[PackagedDevice]:
    place = Path(tempfile.mkdtemp(prefix="device-", dir=room))
    made = PackagedDevice(workshop, place, like=laid_down)
    try:
        made.machine.boot()
        made.until_answers("1.0.0")
        yield made
        made.machine.power_off()
    finally:
        made.close()
        shutil.rmtree(place)


@pytest.fixture
def fresh(workshop: Workshop, room: Path) -> Iterator[Callable[[], PackagedDevice]]:
    """Makes devices that were never booted."""
    made: list[PackagedDevice] = []

    def make() -> PackagedDevice:
        made.append(PackagedDevice(workshop, Path(tempfile.mkdtemp(prefix="fresh-", dir=room))))
        return made[-1]

    yield make
    for device in made:
        device.close()
