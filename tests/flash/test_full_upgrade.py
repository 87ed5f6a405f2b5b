"""Debian 12 becomes Debian 13 on a running device: `apt full-upgrade` replaces the package by that of the new Python.

Debian's own releases are fetched beforehand, into the cache of the device's apt; ours come from a repository with two
suites that is made here. The device itself has no network.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import rootfs
from tests.support.packaged import AGENT, LAUNCHER, PackagedDevice, Workshop, package

pytestmark = [pytest.mark.suite(name="upgrade"), pytest.mark.timeout(1800)]

OLD, NEW = "bookworm", "trixie"
PYTHONS = {OLD: "3.11", NEW: "3.13"}
REPOSITORY = "srv/repository"
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "-o", "Dpkg::Options::=--force-confnew")
VERSION_OF = ("dpkg-query", "--show", "--showformat", "${Version}", "beamfleet-agent")
FETCHING_S, UPGRADING_S = 900, 900
IN_ROOT = """
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
exec chroot "$ROOT" "$@"
"""


@pytest.fixture(scope="module")
def workshop(room: Path) -> Workshop:
    """Its base has the old package, sources of the new Debian, and in its cache all that a full upgrade fetches."""
    made = Workshop(room / "workshop")
    repository(made.base / REPOSITORY)
    etc = made.base / "etc/apt"
    ours = f"deb [trusted=yes] file:/{REPOSITORY} {NEW} main"
    (etc / "sources.list").write_text("\n".join([*rootfs.sources(NEW), ours, ""]))
    (etc / "apt.conf.d/90here").write_text("\n".join([*rootfs.apt_settings(), 'APT::Sandbox::User "root";', ""]))
    shutil.copy("/etc/resolv.conf", made.base / "etc/resolv.conf")
    shutil.copytree("/etc/ssl/certs", made.base / "etc/ssl/certs", dirs_exist_ok=True)
    in_root(made.base, *APT, "update")
    in_root(made.base, *APT, "--download-only", "full-upgrade")
    return made


def in_root(root: Path, *command: str) -> None:
    """A command in a root that does not run, with the network of this machine."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", IN_ROOT, "sh", *command],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "ROOT": str(root)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=FETCHING_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def repository(place: Path) -> None:
    """A repository with the package for each release of Debian, as a fleet's owner would keep one."""
    for suite, python in PYTHONS.items():
        index = place / f"dists/{suite}/main/binary-amd64"
        index.mkdir(parents=True)
        package(place / f"pool/{suite}", python=python)
        listed = _said("dpkg-scanpackages", "--multiversion", f"pool/{suite}", at=place)
        (index / "Packages").write_text(listed)
        release = place / f"dists/{suite}"
        told = ["-o", f"APT::FTPArchive::Release::Suite={suite}", "-o", f"APT::FTPArchive::Release::Codename={suite}"]
        text = _said("apt-ftparchive", *told, "release", f"dists/{suite}", at=place)
        (release / "Release").write_text(text)


def _said(*command: str, at: Path) -> str:
    return subprocess.run(command, cwd=at, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def device(workshop: Workshop, room: Path) -> Iterator[PackagedDevice]:
    made = PackagedDevice(workshop, room / "device", {"trial_deadline_s": 40})
    yield made
    made.close()


def test_a_full_upgrade_leaves_a_working_agent(device: PackagedDevice, workshop: Workshop) -> None:
    old, new = (workshop.ship("sensor_gateway", version) for version in ("1.0.0", "1.1.0"))
    device.flash()
    device.install(old)
    device.until_answers("1.0.0")
    vm, launcher = device.vm_pid(), device.main_pid(LAUNCHER)
    assert device.machine.run(*VERSION_OF).stdout.endswith("+py311")

    device.machine.run(*APT, "full-upgrade", timeout_s=UPGRADING_S)

    assert device.machine.run(*VERSION_OF).stdout.endswith("+py313")
    assert device.machine.path("/etc/debian_version").read_text().startswith("13")
    assert (device.vm_pid(), device.main_pid(LAUNCHER)) == (vm, launcher), "the release was disturbed"
    assert device.agent("status")["version"] == "1.0.0"

    device.machine.unified = True
    device.machine.reboot()
    device.until_answers("1.0.0")
    device.machine.until("the agent", lambda: device.main_pid(AGENT))
    device.install(new)
    device.until_answers("1.1.0")
    assert device.agent("status")["version"] == "1.1.0"
