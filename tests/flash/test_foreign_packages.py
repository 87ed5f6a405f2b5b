"""Packages for other architectures, run by an emulator with the Python of the Debian that they are for."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.flash.test_packages import LOAD_ALL
from tests.support.packaged import ROOT, package

pytestmark = [pytest.mark.suite(name="upgrade"), pytest.mark.timeout(1200)]

EMULATORS = {"armhf": "qemu-arm-static", "arm64": "qemu-aarch64-static"}
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
LIBRARIES = (
    "libffi8", "libexpat1", "zlib1g", "libgcc-s1", "libc6", "libuuid1", "liblzma5", "libbz2-1.0", "libzstd1",
)  # fmt: skip
SSL = {"bookworm": "libssl3", "trixie": "libssl3t64"}
WORK = """
import msgspec
from backports import zstd
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

key = ec.generate_private_key(ec.SECP256R1())
key.public_key().verify(key.sign(b"x", ec.ECDSA(hashes.SHA256())), b"x", ec.ECDSA(hashes.SHA256()))
assert msgspec.json.decode(msgspec.json.encode({"a": 2**53})) == {"a": 2**53}
assert zstd.decompress(zstd.compress(b"x" * 100_000)) == b"x" * 100_000
print("worked")
"""


@pytest.mark.parametrize(
    ("arch", "python"), [("armhf", "3.11"), ("armhf", "3.13"), ("arm64", "3.11"), ("arm64", "3.13")]
)
def test_a_package_for_another_architecture_works_there(arch: str, python: str, tmp_path: Path) -> None:
    if shutil.which(EMULATORS[arch]) is None:
        pytest.skip("missing Debian packages: qemu-user-static")
    root, suite = tmp_path / "root", SUITES[python]
    names = (f"python{python}-minimal", f"libpython{python}-minimal", f"libpython{python}-stdlib", SSL[suite])
    subprocess.run(
        [ROOT / "systemd/packaging/fetch", suite, arch, root, *names, *LIBRARIES], check=True, capture_output=True
    )
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    deb = package(tmp_path, arch=arch, python=python)
    subprocess.run(["dpkg-deb", "--extract", deb, root], check=True)
    site = f"{root}/usr/lib/beamfleet/python/lib/python{python}/site-packages"
    done = subprocess.run(
        [EMULATORS[arch], "-L", root, f"{root}/usr/bin/python{python}", "-I", "-W", "error::ImportWarning", "-c",
         f"import sys; sys.path.insert(0, {site!r})\n{LOAD_ALL}\n{WORK}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "worked"
