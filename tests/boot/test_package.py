"""The Debian package: made of the same sources twice it is the same; upgrades and removals respect what runs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.packaged import AGENT, APP, LAUNCHER, ROOT, VAR, PackagedDevice, Workshop, package

pytestmark = [pytest.mark.suite(name="boot"), pytest.mark.timeout(600)]

NEXT_VERSION = "99.0.0"
SITE = "/usr/lib/beamfleet/python/lib/python3.11/site-packages"


def dpkg(device: PackagedDevice, deb: Path, *words: str) -> str:
    """`dpkg WORDS` on a running device, which has the package as /srv/package.deb."""
    device.machine.path("/srv/package.deb").write_bytes(deb.read_bytes())
    done = device.machine.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", *words)
    return done.stdout + done.stderr


def copied(source: Path, place: Path) -> Path:
    """What a package is made of, somewhere else."""
    for part in ("agent", "firmware_bundles/beamfleet_bundles", "systemd", "requirements"):
        shutil.copytree(source / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(source / "LICENSE", place)
    return place


def test_the_same_sources_make_the_same_package_wherever_they_lie(tmp_path: Path) -> None:
    made = []
    source = ROOT
    for place in (tmp_path / "here", tmp_path / "another-place"):
        source = copied(source, place)
        made.append(package(place / "out", place).read_bytes())
    assert made[0] == made[1]


def test_the_package_holds_nothing_of_the_machine_that_made_it(workshop: Workshop) -> None:
    found = subprocess.run(
        ["grep", "-rlF", "-e", f"{ROOT}/", "-e", "/tmp/tmp.", workshop.base / "usr/lib/beamfleet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout == ""


def test_every_module_comes_with_its_byte_code(workshop: Workshop) -> None:
    site = workshop.base / SITE.lstrip("/")
    bare = [
        str(path.relative_to(site))
        for path in site.rglob("*.py")
        if not (path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc").exists()
    ]
    assert bare == []
    assert not (site / "beamfleet_bundles/build").exists()
    assert not list(site.rglob("tests"))


def test_an_upgrade_restarts_the_agent_and_lets_the_release_run(device: PackagedDevice, tmp_path: Path) -> None:
    tree = copied(ROOT, tmp_path / "tree")
    version = tree / "agent/beamfleet_agent/__init__.py"
    version.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEXT_VERSION}"', version.read_text()))
    vm, launcher, agent = device.vm_pid(), device.main_pid(LAUNCHER), device.main_pid(AGENT)
    dpkg(device, package(tmp_path / "out", tree), "--install", "/srv/package.deb")
    shown = device.machine.run("dpkg-query", "--show", "--showformat", "${Version}", "beamfleet-agent").stdout
    assert shown == f"{NEXT_VERSION}+py311"
    assert device.main_pid(AGENT) not in (0, agent)
    assert (device.vm_pid(), device.main_pid(LAUNCHER)) == (vm, launcher)
    assert device.agent("status")["health"] in {"healthy", "unknown"}
    device.systemctl("restart", LAUNCHER)
    device.until_answers("1.0.0")


def test_a_removal_ends_everything_and_leaves_what_is_the_owners(device: PackagedDevice, workshop: Workshop) -> None:
    count = device.until_answers("1.0.0")["count"]
    dpkg(device, workshop.package, "--remove", "beamfleet-agent")
    assert device.machine.run("pgrep", "-u", "beamfleet,beamfleet-app", ok=(0, 1)).stdout == ""
    assert device.machine.path(f"{APP}/data/count").exists()
    dpkg(device, workshop.package, "--install", "/srv/package.deb")
    assert device.until_answers("1.0.0")["count"] >= count
    assert device.agent("status")["version"] == "1.0.0"
    assert f"{VAR} and /etc/beamfleet stay" in dpkg(device, workshop.package, "--purge", "beamfleet-agent")
    assert device.machine.path(f"{APP}/data/count").exists()
