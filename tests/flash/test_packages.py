"""The packages of the device side: what is in each format by its own tool, and what they do to a root file system."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.support import rootfs
from tests.support.packaged import ROOT, install_package, package

pytestmark = [pytest.mark.suite(name="flash")]

LIB = "usr/lib/beamfleet"
UNITS = {f"usr/lib/systemd/system/beamfleet-{name}.service" for name in ("agent", "launcher", "setup")}
PYTHONS = {"deb": "3.11", "ipk": "3.11", "rpm": "3.11", "apk": "3.12"}
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
LOAD_ALL = """
import importlib, pkgutil
import beamfleet_agent, beamfleet_bundles
for package in (beamfleet_agent, beamfleet_bundles):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package of each format, for amd64."""
    made = tmp_path_factory.mktemp("packages")
    package_all(made)
    return made


def package_all(out: Path) -> None:
    package(out, format="apk", python="3.12")
    package(out, format="deb,ipk,rpm")


def of(shelf: Path, format_: str) -> Path:
    """The package of that format."""
    (found,) = shelf.glob(f"*.{format_}")
    return found


def said(*command: str | Path) -> str:
    """What a tool prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def in_deb(path: Path) -> set[str]:
    lines = said("dpkg-deb", "--contents", path).splitlines()
    return {line.split()[5].strip("./") for line in lines if not line.startswith("d")}


def in_rpm(path: Path) -> set[str]:
    lines = said("rpm", "--query", "--list", "--package", "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]", path)
    return {line.split()[1].strip("/") for line in lines.splitlines() if line.startswith(("-", "l"))}


def in_ipk(path: Path) -> set[str]:
    with tarfile.open(path) as outer:
        data = outer.extractfile("./data.tar.gz")
        assert data
        with tarfile.open(fileobj=data) as inner:
            return {member.name.strip("./") for member in inner if not member.isdir()}


def in_apk(path: Path) -> set[str]:
    """Its three gzip streams are one archive to tar."""
    lines = said("tar", "--ignore-zeros", "-tzvf", path).splitlines()
    names = {line.split()[5] for line in lines if not line.startswith("d")}
    return {name for name in names if not name.startswith(".")}


LISTS: dict[str, Callable[[Path], set[str]]] = {"deb": in_deb, "rpm": in_rpm, "ipk": in_ipk, "apk": in_apk}


@pytest.mark.parametrize("format_", LISTS)
def test_each_format_brings_the_same_device(shelf: Path, format_: str) -> None:
    names = LISTS[format_](of(shelf, format_))
    python = PYTHONS[format_]
    site = f"{LIB}/python/lib/python{python}/site-packages"
    wanted = {"usr/bin/beamfleet-agent", f"{LIB}/launcher", f"{LIB}/rules", f"{LIB}/beamfleet_link.beam"}
    wanted |= {f"{LIB}/python/bin/python3", f"{site}/beamfleet_agent/worker/__main__.py", f"{site}/tuf/api/metadata.py"}
    assert wanted <= names
    assert (names >= UNITS) is (format_ != "apk")
    assert not {name for name in names if "/tests/" in name or name.endswith((".pyi", "/RECORD"))}
    tag = f"cpython-{python.replace('.', '')}"
    modules = {name for name in names if name.startswith(site) and name.endswith(".py")}
    bare = {name for name in modules if compiled(name, tag) not in names}
    assert bare == (modules if f"{LIB}/python/compile-here" in names else set())


def compiled(module: str, tag: str) -> str:
    """Where the byte code of a module lies."""
    folder, _, name = module.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"


@pytest.mark.parametrize(
    ("format_", "arch"), [("deb", "amd64"), ("ipk", "x86_64"), ("rpm", "x86_64"), ("apk", "x86_64")]
)
def test_each_format_calls_the_architecture_as_its_tools_do(shelf: Path, format_: str, arch: str) -> None:
    path = of(shelf, format_)
    match format_:
        case "deb":
            told = said("dpkg-deb", "--field", path, "Architecture")
        case "rpm":
            told = said("rpm", "--query", "--package", "--queryformat", "%{ARCH}", path)
        case "ipk":
            control = said("sh", "-c", f"tar -xzOf {path} ./control.tar.gz | tar -xzO ./control")
            told = next(line.split()[1] for line in control.splitlines() if line.startswith("Architecture:"))
        case _:
            told = said("tar", "--ignore-zeros", "-xzOf", path, ".PKGINFO").split("arch = ")[1].split()[0]
    assert told.strip() == arch


def test_the_same_sources_make_the_same_bytes_in_each_format(shelf: Path, tmp_path: Path) -> None:
    package_all(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in shelf.iterdir()
    }


def test_a_package_for_another_architecture_has_no_extension_of_this_one(tmp_path: Path) -> None:
    deb = package(tmp_path, arch="arm64", python="3.13")
    assert deb.name.endswith("_arm64_py313.deb")
    assert said("dpkg-deb", "--field", deb, "Architecture").strip() == "arm64"
    assert "python3.13" in said("dpkg-deb", "--field", deb, "Depends")
    subprocess.run(["dpkg-deb", "--extract", deb, tmp_path / "x"], check=True)
    extensions = list((tmp_path / "x").rglob("*.so"))
    assert len(extensions) >= 4
    for path in extensions:
        with path.open("rb") as file:
            assert ELFFile(file)["e_machine"] == "EM_AARCH64", path.name


def test_lintian_finds_nothing_but_what_is_listed_with_a_reason(shelf: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", of(shelf, "deb")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    for line in (ROOT / "systemd/packaging/lintian-overrides").read_text().splitlines():
        assert line.startswith(("#", "beamfleet-agent: "))


# --- in a root file system


@pytest.fixture(scope="module")
def root(room: Path) -> Path:
    """A root with nothing of beamfleet; who installs there removes it again."""
    return rootfs.unpack(room / "packages-root")


def tree(root: Path) -> set[str]:
    """All paths of a root but those of package management and of logs."""
    found = set()
    for folder, folders, files in os.walk(root):
        within = Path(folder).relative_to(root)
        if str(within) in {"var/lib/dpkg", "var/log", "var/cache"}:
            folders.clear()
            continue
        found |= {str(within / name) for name in (*folders, *files)}
    return found


def dpkg(root: Path, *words: str | Path, outside: bool = False) -> str:
    """`dpkg WORDS` in a root, or `outside` it: then nothing of the root is run."""
    command = ["dpkg", f"--root={root}", "--force-script-chrootless"] if outside else ["chroot", root, "dpkg"]
    done = subprocess.run(
        [*command, *words], env=ENVIRONMENT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_every_module_loads_from_the_package_alone(root: Path, shelf: Path) -> None:
    install_package(root, of(shelf, "deb"))
    done = subprocess.run(
        ["chroot", root, "/usr/lib/beamfleet/python/bin/python3", "-I", "-W", "error", "-c", LOAD_ALL],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    dpkg(root, "--purge", "beamfleet-agent")
    assert done.returncode == 0, done.stderr
    assert {"beamfleet_agent.worker.enrol", "beamfleet_bundles.sealing"} <= set(done.stdout.split())


def test_a_purge_before_a_device_was_laid_down_leaves_only_the_users(root: Path, shelf: Path) -> None:
    before = tree(root)
    install_package(root, of(shelf, "deb"))
    assert f"{LIB}/launcher" in tree(root)
    assert "stay" not in dpkg(root, "--purge", "beamfleet-agent")
    left = tree(root) - before
    assert {path for path in left if path not in {"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-"}} == set()


def test_a_purge_leaves_identity_and_data_of_a_device(root: Path, shelf: Path) -> None:
    install_package(root, of(shelf, "deb"))
    owned = ("etc/beamfleet/agent.toml", "var/lib/beamfleet/identity/pair.pem", f"{LIB}/hooks.d/commit/10-mine")
    for name in owned:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert "/var/lib/beamfleet and /etc/beamfleet stay" in dpkg(root, "--purge", "beamfleet-agent")
    assert all((root / name).exists() for name in owned)
    assert not (root / LIB / "launcher").exists()
    for name in ("etc/beamfleet", "var/lib/beamfleet", LIB):
        shutil.rmtree(root / name)


def test_a_root_is_served_from_outside_without_running_anything_of_it(root: Path, shelf: Path) -> None:
    kept = {
        path: path.stat().st_mode for path in (root / "usr/bin").iterdir() if path.is_file() and not path.is_symlink()
    }
    host = Path("/etc/passwd").read_bytes()
    before = tree(root)
    for path in kept:
        path.chmod(0o644)
    try:
        dpkg(root, "--install", of(shelf, "deb"), outside=True)
        wants = root / "etc/systemd/system/multi-user.target.wants"
        assert {path.name for path in wants.iterdir()} >= {Path(unit).name for unit in UNITS}
        entry = next(
            line.split(":") for line in (root / "etc/group").read_text().splitlines() if line.startswith("beamfleet:")
        )
        shared = (root / "var/lib/beamfleet").stat()
        assert (shared.st_uid, shared.st_gid, shared.st_mode & 0o7777) == (0, int(entry[2]), 0o1775)
        dpkg(root, "--install", of(shelf, "deb"), outside=True)
        dpkg(root, "--purge", "beamfleet-agent", outside=True)
    finally:
        for path, mode in kept.items():
            path.chmod(mode)
    assert Path("/etc/passwd").read_bytes() == host
    assert {path for path in tree(root) - before if not path.startswith("etc/")} == set()
