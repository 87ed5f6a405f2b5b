"""What the suite `flash` shares: the package, a root file system to copy, and a real fleet to flash for."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import examples, nspawn, packaged, rootfs
from tests.support.fleet import Fleet
from tests.support.fleet import fleet as open_fleet

PRODUCT = "sensor-gateway"
MIB = 1 << 20
LIMIT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole machines boot here, several at a time, and the first test makes what all share: that is no hang."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A directory for whole root file systems, and for sockets whose paths must be short."""
    if reason := rootfs.missing() or nspawn.missing():
        pytest.skip(f"no device in systemd-nspawn: {reason}")
    made = Path(tempfile.mkdtemp(prefix="beamfleet-flash-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def packages(room: Path) -> Path:
    """A directory with the Debian package of the device side."""
    packaged.package(room / "packages")
    return room / "packages"


@pytest.fixture(scope="session")
def fleet(room: Path) -> Iterator[Fleet]:
    """A server and an operator with development keys."""
    with open_fleet(room / "fleet", PRODUCT) as here:
        yield here


@pytest.fixture(scope="session")
def bundle(fleet: Fleet, room: Path) -> Path:
    """A signed bundle of the first release."""
    tarball = examples.tarball("sensor_gateway", "1.0.0")
    built = fleet.json("bundle", "build", str(tarball), "--out", str(room / "bundles"))
    fleet.cli("bundle", "sign", built["path"])
    return Path(built["path"])


@pytest.fixture
def mounted(room: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Path]]:
    """`mounted(mib, kind, *options)`: a new file system in a file, mounted; unmounted at the end."""
    places: list[Path] = []

    def mount(mib: int, kind: str = "ext4", *made_with: str) -> Path:
        place = Path(tempfile.mkdtemp(prefix="mounted-", dir=room))
        image, at = place / "image", place / "root"
        at.mkdir()
        with image.open("wb") as file:
            file.truncate(mib * MIB)
        run(f"mkfs.{kind}", "-q", *made_with, image)
        run("mount", "-o", "loop", image, at)
        places.append(at)
        return at

    yield mount
    for at in places:
        run("umount", at)
        shutil.rmtree(at.parent)


def run(*command: str | Path) -> None:
    """A command of this machine, which has to do what it says."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
