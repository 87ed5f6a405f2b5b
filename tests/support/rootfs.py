"""Root file systems of Debian 12 devices: made once by mmdebstrap, kept by the hash of their recipe, unpacked at will.

Of this machine's architecture or of another (`arch`, a name of Debian's): `tests.support.emulation` then runs what its
packages want to be run, which takes four to six times as long.

`unpack` is all a test needs. A root has systemd, Python and what Erlang releases link to, and nothing of beamfleet;
it has never booted, has no machine id, no password and no address of the archive that it came from. Packages come from
where this machine's apt gets Debian 12; without such a source, as another user than root, or without the tools, none
can be made, and `missing` says why. Several makers wait for one another.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support import emulation

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".build/rootfs"
SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "util-linux", "iproute2", "procps",
    "python3", "libstdc++6", "libssl3", "libtinfo6", "libncurses6", "zlib1g",
)  # fmt: skip
"""procps for people who look into a device; beamfleet does not need it."""
DROPPED = ("doc", "man", "locale", "i18n", "lintian", "info")
HOSTNAME = "device"
_CUSTOMIZE = (
    'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap',
    f'echo {HOSTNAME} >"$1/etc/hostname"',
    'rm -f "$1/etc/resolv.conf" "$1/var/lib/dbus/machine-id"; : >"$1/etc/machine-id"',
    'rm -f "$1"/lib/systemd/system/timers.target.wants/* "$1"/etc/systemd/system/timers.target.wants/*',
)
_TOOLS = {"mmdebstrap": "mmdebstrap", "zstd": "zstd", "tar": "tar", "apt-get": "apt", "dpkg": "dpkg"}
_PASSED_ON = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
MAKING_S = 1800


class RootError(Exception):
    """A root could not be made or unpacked; the text has what the tool said."""


def missing(arch: str = "") -> str:
    """Why no root can be made here; "" when one can. `arch`: of another architecture than this machine's."""
    if os.geteuid() != 0:
        return "only root can make the root file system of a device"
    if lacking := sorted(package for tool, package in _TOOLS.items() if shutil.which(tool) is None):
        return f"missing Debian packages: {' '.join(lacking)}"
    if not any(CACHE.glob(f"{SUITE}-*.tar.zst")) and not _sources():
        return f"apt has no source of Debian {SUITE} here"
    return emulation.missing(arch) if arch else ""


def unpack(into: Path, extra: Sequence[str] = (), arch: str = "") -> Path:
    """A fresh root with `extra` packages in the directory `into`, which is made; RootError when it cannot be had."""
    into.mkdir(parents=True, exist_ok=True)
    _run("tar", "--zstd", "--numeric-owner", "--xattrs", "-xpf", str(archive(extra, arch)), "-C", str(into))
    return into


def archive(extra: Sequence[str] = (), arch: str = "") -> Path:
    """The cached tar.zst of a root with `extra` packages; it takes a minute or two to make when it is not there."""
    packages = sorted({*PACKAGES, *extra})
    options = [*_options(packages), *([f"--architectures={arch}"] if arch else [])]
    recipe = hashlib.sha256(json.dumps([SUITE, options]).encode()).hexdigest()[:16]
    kept = CACHE / f"{SUITE}-{recipe}.tar.zst"
    if kept.exists():
        return kept
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"lock{arch and f'-{arch}'}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            if arch:
                emulation.enable(arch)
            _make(kept, options)
    return kept


def extract(into: Path, packages: Sequence[str], arch: str = "") -> Path:
    """The files of these packages and of all that they depend on, in the directory `into`; nothing is installed and
    nothing of them is run. RootError when they cannot be had."""
    architecture = [f"--architectures={arch}"] if arch else []
    passed_on = [f"--aptopt={line}" for line in apt_settings()]
    options = ["--mode=root", "--variant=extract", f"--include={','.join(packages)}", *architecture, *passed_on]
    _run("mmdebstrap", "--quiet", *options, SUITE, str(into), *_known_sources())
    return into


def sources(suite: str) -> list[str]:
    """Lines of sources.list for another release of Debian, from where apt has SUITE here."""
    return [re.sub(r"^deb (\[[^]]*\] )?", "deb ", line).replace(f" {SUITE}", f" {suite}") for line in _known_sources()]


def apt_settings() -> list[str]:
    """How apt reaches its sources here: proxies, certificates, tolerated clocks."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return [line for line in dump.splitlines() if line.startswith(_PASSED_ON) and not line.endswith(' "";')]


def _options(packages: Sequence[str]) -> list[str]:
    return [
        "--mode=root", "--variant=minbase", f"--include={','.join(packages)}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in DROPPED),
        *(f"--customize-hook={line}" for line in _CUSTOMIZE),
    ]  # fmt: skip


def _make(kept: Path, options: Sequence[str]) -> None:
    sources = _known_sources()
    scratch = CACHE / f"making.{os.getpid()}"
    scratch.mkdir()
    try:
        made = scratch / kept.name
        passed_on = [f"--aptopt={line}" for line in apt_settings()]
        _run("mmdebstrap", "--quiet", *options, *passed_on, SUITE, str(made), *sources)
        made.rename(kept)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _known_sources() -> list[str]:
    if not (sources := _sources()):
        raise RootError(f"apt has no source of Debian {SUITE} here")
    return sources


def _sources() -> list[str]:
    """Lines as in sources.list for every source of the suite, its updates and its security that apt knows here."""
    shape = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", shape, "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    wanted = {SUITE, f"{SUITE}-updates", f"{SUITE}-security", f"{SUITE}/updates"}
    found = []
    for line in dict.fromkeys(done.stdout.splitlines()):
        address, release, component, keyring = line.split("|")
        if release in wanted and component == "main":
            signed = f"[signed-by={keyring}] " if keyring.startswith("/") else ""
            found.append(f"deb {signed}{address} {release} {component}")
    return found if any(f" {SUITE} " in line for line in found) else []


def _run(*command: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=MAKING_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise RootError(f"{command[0]} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
