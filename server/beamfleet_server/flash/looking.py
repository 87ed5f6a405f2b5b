"""Owns what a root file system that does not run says of itself by its files. Runs nothing of it, writes nothing."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from beamfleet_bundles.build import elf
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.filesystem import mount_of

from beamfleet_server.flash.checks import IS_EMPTY, IS_FILE, NOT_THERE, TOOLS
from beamfleet_server.flash.facts import Filesystem, TargetFacts, version
from beamfleet_server.flash.identity import identity_in
from beamfleet_server.flash.paths import inside, shown

PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
USERS = ("beamfleet", "beamfleet-app")
PYTHON = "usr/lib/beamfleet/python"
VAR = "var/lib/beamfleet"
_LIBRARIES = ("lib", "usr/lib", "lib64", "usr/lib64", "usr/local/lib")
_DATABASES = {
    "dpkg": ("var/lib/dpkg/status",),
    "apk": ("lib/apk/db/installed", "usr/lib/apk/db/installed"),
    "opkg": ("var/lib/opkg/status", "usr/lib/opkg/status"),
    "rpm": ("usr/lib/sysimage/rpm", "var/lib/rpm"),
}
_GLIBC = re.compile(rb"release version ([0-9]+\.[0-9]+)")
_PYTHON = re.compile(r"python3\.([0-9]{1,2})")
_VERSION = re.compile(r'^__version__ = "([^"\n]{1,40})"$', re.MULTILINE)
_LARGEST = 16 << 20


def look(root: Path) -> TargetFacts:
    """The facts of the system below `root`."""
    shell, init = _find(root, "sh"), _program(root, "sbin/init") or _program(root, "usr/lib/systemd/systemd")
    is_root = all(_directory(root, name) for name in ("etc", "usr")) and bool(shell or init)
    device, enrolled = identity_in(root)
    if not is_root:
        return TargetFacts(is_root=False, not_root=_not_root(root), device=device, enrolled=enrolled)
    image = next((found for place in (shell, init, _find(root, "ls")) if place and (found := _elf(place))), None)
    folders = list(_library_folders(root))
    libraries = frozenset(name for folder in folders for name in _names(folder) if ".so" in name)
    libc = _libc(image.interpreter if image else "", libraries)
    python, python_path = _python(root)
    free, inodes, read_only = _room(root)
    mount = mount_of(str(_existing(root, VAR)))
    tools = {name: place for name in TOOLS if (place := _find(root, name))}
    setpriv = tools.get("setpriv")
    return TargetFacts(
        arch=image.machine if image else "",
        libc=libc,
        libc_version=_libc_version(root, folders) if libc == "glibc" else None,
        python=python,
        python_path=python_path,
        init=_init(root, init),
        packager=_packager(root),
        os=_os(root),
        filesystem=Filesystem(mount.kind, mount.why),
        read_only=read_only,
        free_bytes=free,
        free_inodes=inodes,
        tools=frozenset(tools),
        lacking=("setpriv of util-linux",) if setpriv and setpriv.name == "busybox" else (),
        libraries=libraries,
        agent_version=agent_version(root),
        device=device,
        enrolled=enrolled,
        users=frozenset(line.split(":")[0] for line in text(root, "etc/passwd").splitlines()) & frozenset(USERS),
    )


def agent_version(root: Path) -> str:
    """The version of the agent that is installed, empty when none is."""
    folder = inside(root, f"{PYTHON}/lib")
    for minor in sorted(_names(folder)) if folder else ():
        found = _VERSION.search(text(root, f"{PYTHON}/lib/{minor}/site-packages/beamfleet_agent/__init__.py"))
        if found:
            return found[1]
    return ""


def text(root: Path, path: str) -> str:
    """A file of the root as text; empty when it cannot be read."""
    place = inside(root, path)
    try:
        if place and place.is_file() and place.stat().st_size <= _LARGEST:
            return place.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    return ""


def _not_root(root: Path) -> str:
    if not os.path.lexists(root):
        return NOT_THERE
    if not root.is_dir():
        return IS_FILE
    if not _names(root):
        return IS_EMPTY
    missing = [f"/{name}" for name in ("etc", "usr") if not _directory(root, name)]
    return f"it has no {' and no '.join(missing)}" if missing else "it has neither a shell nor an init"


def _program(root: Path, path: str) -> Path | None:
    place = inside(root, path)
    return place if place and place.is_file() else None


def _find(root: Path, name: str) -> Path | None:
    return next((place for folder in PATH if (place := _program(root, f"{folder}/{name}"))), None)


def _directory(root: Path, path: str) -> bool:
    place = inside(root, path)
    return place is not None and place.is_dir()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is asked for
    except OSError:
        return []


def _existing(root: Path, path: str) -> Path:
    place = inside(root, path) or root
    while not place.exists():
        place = place.parent
    return place


def _elf(place: Path) -> elf.Image | None:
    try:
        with place.open("rb") as file:
            return elf.inspect(place.name, file)
    except (OSError, BundleError):
        return None


def _libc(interpreter: str, libraries: frozenset[str]) -> str:
    loader = interpreter.rpartition("/")[2]
    if loader.startswith("ld-musl-") or (not loader and any(name.startswith("ld-musl-") for name in libraries)):
        return "musl"
    return "glibc" if loader.startswith("ld") or "libc.so.6" in libraries else ""


def _libc_version(root: Path, folders: list[Path]) -> tuple[int, int] | None:
    for folder in folders:
        place = _program(root, shown(root, folder / "libc.so.6"))
        if place is None or place.stat().st_size > _LARGEST:
            continue
        if found := _GLIBC.search(place.read_bytes()):
            return version(found[1].decode())
    return None


def _library_folders(root: Path) -> Iterator[Path]:
    named = [*_LIBRARIES]
    conf = inside(root, "etc/ld.so.conf.d")
    files = ["etc/ld.so.conf", *(f"etc/ld.so.conf.d/{name}" for name in (_names(conf) if conf else ()))]
    for file in files:
        named += [line.strip() for line in text(root, file).splitlines() if line.startswith("/")]
    for name in dict.fromkeys(named):
        if (folder := inside(root, name)) and folder.is_dir():
            yield folder
            yield from (
                below
                for each in _names(folder)
                if "-linux-" in each and (below := inside(root, shown(root, folder / each))) and below.is_dir()
            )


def _python(root: Path) -> tuple[tuple[int, int] | None, str]:
    place = _find(root, "python3")
    if place is None:
        return None, ""
    if found := _PYTHON.fullmatch(place.name):
        return (3, int(found[1])), shown(root, place)
    lib = inside(root, "usr/lib")
    minors = [int(found[1]) for name in (_names(lib) if lib else ()) if (found := _PYTHON.fullmatch(name))]
    return ((3, max(minors)) if minors else None), shown(root, place)


def _init(root: Path, init: Path | None) -> str:
    if init and init.name == "systemd":
        return "systemd"
    if _program(root, "sbin/openrc"):
        return "openrc"
    if init and init.name.startswith("busybox"):
        return "busybox"
    return "sysvinit" if init and text(root, "etc/inittab") else ""


def _packager(root: Path) -> str:
    for name, places in _DATABASES.items():
        for path in places:
            place = inside(root, path)
            if place and (place.stat().st_size if place.is_file() else place.is_dir() and _names(place)):
                return name
    return ""


def _os(root: Path) -> str:
    lines = text(root, "etc/os-release") or text(root, "usr/lib/os-release")
    for line in lines.splitlines():
        if line.startswith("PRETTY_NAME="):
            try:
                return str(tomllib.loads(line)["PRETTY_NAME"])[:80]
            except tomllib.TOMLDecodeError:
                return line.partition("=")[2][:80]
    return ""


def _room(root: Path) -> tuple[int, int | None, bool]:
    """(bytes that are free, inodes, whether one place is read-only), over the file systems that we write to."""
    states = [os.statvfs(_existing(root, path)) for path in ("usr/lib", "etc", VAR)]
    free = min(state.f_bavail * state.f_frsize for state in (states[0], states[2]))
    inodes = [state.f_favail for state in states if state.f_files]
    return free, min(inodes, default=None), any(state.f_flag & os.ST_RDONLY for state in states)
