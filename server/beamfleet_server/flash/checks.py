"""Owns what stands against flashing a target: facts and a wish in, problems with their remedies out. Pure.

What is not known is not held against a target, but for what must be known: architecture, libc, Python and init.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from beamfleet_bundles.manifest import Requires

from beamfleet_server.flash.facts import Problem, TargetFacts
from beamfleet_server.flash.packages import ARCHES

MIN_PYTHON = (3, 11)
MIN_GLIBC = (2, 34)
MIN_INODES = 3000
MARGIN_BYTES = 16 << 20
"""Beside what is laid down: journals, logs, a trial of the next release is the owner's."""
CLOCK_TOLERANCE_S = 86_400
TOOLS = frozenset(
    {
        "awk", "cat", "chmod", "chown", "cut", "date", "dd", "env", "flock", "grep", "head", "id", "kill", "ln", "ls",
        "mkdir", "mkfifo", "mv", "readlink", "rm", "sed", "setpriv", "sh", "sha256sum", "sleep", "sync", "tail",
        "timeout", "tr", "wc",
    }
)  # fmt: skip
"""Commands that the launcher runs. Whether they can do all that it asks of them, the device's own setup tries."""
NOT_THERE, IS_FILE, IS_EMPTY = "it is not there", "it is a file", "it is empty"
INITS = ("systemd", "busybox", "sysvinit", "openrc")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be made of a target."""

    name: str = "this"
    """What people call it."""
    in_directory: bool = False
    """Whether it is a directory of this machine, and no image, card or machine."""
    device: str = ""
    """Its id; empty when it works that out itself."""
    allow_unsafe_filesystem: bool = False
    needed_bytes: int = 0
    """Of the package when it is unpacked, and of a bundle with its release."""
    needed_inodes: int = MIN_INODES
    release: Requires | None = None
    """What the bundle that comes along asks of a device."""
    now_s: float | None = None
    """The operator's clock, to compare a running target's with."""


def problems(facts: TargetFacts, wish: Wish) -> tuple[Problem, ...]:
    """All that stands against it; empty when it can be flashed. A target that is no root has that one problem only."""
    if facts.device and wish.device and facts.device != wish.device:
        return (_other_device(facts),)
    if problem := no_root(facts, wish):
        return (problem,)
    judges = (_arch, _libc, _python, _init, _tools, _filesystem, _space, _clock, _release)
    return tuple(problem for judge in judges for problem in judge(facts, wish))


def no_root(facts: TargetFacts, wish: Wish) -> Problem | None:
    """That the target is no root of a Linux system at all."""
    if facts.is_root:
        return None
    text = f"{wish.name} is not the root of a Linux system: {facts.not_root or 'it has no /etc and /usr'}"
    hint = "give the root of a Linux system that can run an agent"
    if facts.not_root == IS_FILE:
        hint = "an image is flashed by --image, a card by --device"
    elif facts.not_root == NOT_THERE:
        hint = "give the directory where the root file system is mounted"
    elif facts.not_root == IS_EMPTY and wish.in_directory:
        hint = "mount the root file system there, or add --single-user for a device in a directory"
    return Problem("flash.no_root", text, hint)


def other_device(facts: TargetFacts, device: str) -> Problem | None:
    """That the target is another device already; for a device in a directory, of which nothing else is asked."""
    return _other_device(facts) if facts.device and device and facts.device != device else None


def _other_device(facts: TargetFacts) -> Problem:
    how = "enrolled" if facts.enrolled else "laid down"
    hint = f"--id {facts.device} flashes it again; --remove --wipe makes it forget; or take another target"
    return Problem("flash.other_device", f"it is {how} as {facts.device} already", hint)


def _arch(facts: TargetFacts, _: Wish) -> Iterator[Problem]:
    if facts.arch not in ARCHES:
        what = f"it is a {facts.arch} system" if facts.arch else "its architecture cannot be seen: it has no /bin/sh"
        hint = (
            f"there are packages for {', '.join(ARCHES)}; build the agent's Python packages on the device for another"
        )
        yield Problem("flash.arch", what, hint)


def _libc(facts: TargetFacts, _: Wish) -> Iterator[Problem]:
    if facts.libc not in {"glibc", "musl"}:
        hint = "use a system with glibc 2.34 or newer, or with musl 1.2: Debian 12, Alpine, Yocto, Buildroot"
        yield Problem("flash.libc", "it has neither glibc nor musl that could be seen", hint)
    elif facts.libc == "glibc" and facts.libc_version and facts.libc_version < MIN_GLIBC:
        have, least = (".".join(map(str, each)) for each in (facts.libc_version, MIN_GLIBC))
        hint = "bring the system to a newer release first: Debian 12, Ubuntu 22.04, Yocto 4.0 or newer"
        yield Problem("flash.libc", f"it has glibc {have}, and the agent needs {least}", hint)


def _python(facts: TargetFacts, _: Wish) -> Iterator[Problem]:
    least = ".".join(map(str, MIN_PYTHON))
    if facts.python is None:
        hint = f"install Python {least} or newer: `apt-get install python3`, `apk add python3`, or python3 in the image"
        yield Problem("flash.python", "it has no Python 3", hint)
    elif facts.python < MIN_PYTHON:
        have = ".".join(map(str, facts.python))
        hint = "bring the system to a newer release, or add a newer python3 to the image"
        yield Problem("flash.python", f"it has Python {have}, and the agent needs {least}", hint)


def _init(facts: TargetFacts, _: Wish) -> Iterator[Problem]:
    if facts.init not in INITS:
        hint = "install systemd, BusyBox init, sysvinit or OpenRC there: something has to run launcher and agent"
        yield Problem("flash.init", "it has no init that we know", hint)


def _tools(facts: TargetFacts, _: Wish) -> Iterator[Problem]:
    missing = sorted(TOOLS - facts.tools) if facts.tools else []
    if missing := [*missing, *facts.lacking]:
        hint = "install util-linux and coreutils, or a BusyBox with these applets (flock, setpriv: from util-linux)"
        yield Problem("flash.abilities", f"the launcher needs, and it lacks: {', '.join(missing)}", hint)


def _filesystem(facts: TargetFacts, wish: Wish) -> Iterator[Problem]:
    if facts.read_only:
        hint = "mount it for writing (mount -o remount,rw), or flash the image that it is made from"
        yield Problem("flash.read_only", "its file system is read-only", hint)
    if not facts.filesystem.safe and not wish.allow_unsafe_filesystem:
        hint = "use ext4 with a journal (tune2fs -j), xfs, btrfs or f2fs; or --allow-unsafe-filesystem for a trial"
        text = f"{facts.filesystem.why}: a power cut may damage /var/lib/beamfleet"
        yield Problem("flash.filesystem", text, hint)


def _space(facts: TargetFacts, wish: Wish) -> Iterator[Problem]:
    needed = wish.needed_bytes + MARGIN_BYTES
    if facts.free_bytes is not None and facts.free_bytes < needed:
        hint = "make the partition larger, or free something: what is needed is the package, the bundle and its release"
        have, want = (f"{each / 1e6:.0f} MB" for each in (facts.free_bytes, needed))
        yield Problem("flash.space", f"{have} are free, and {want} are needed", hint)
    if facts.free_inodes is not None and facts.free_inodes < wish.needed_inodes:
        hint = "make the file system with more inodes (mkfs.ext4 -N), or remove files"
        yield Problem("flash.space", f"{facts.free_inodes} inodes are free, and {wish.needed_inodes} are needed", hint)


def _clock(facts: TargetFacts, wish: Wish) -> Iterator[Problem]:
    if facts.clock_s is not None and wish.now_s is not None and abs(facts.clock_s - wish.now_s) > CLOCK_TOLERANCE_S:
        days = abs(facts.clock_s - wish.now_s) / 86_400
        side = "behind" if facts.clock_s < wish.now_s else "ahead"
        hint = "set it (date -s, timedatectl set-ntp true): certificates are not good yet or no more by such a clock"
        yield Problem("flash.clock", f"its clock is {days:.0f} days {side}", hint)


def _release(facts: TargetFacts, wish: Wish) -> Iterator[Problem]:
    if (needs := wish.release) is None:
        return
    if facts.arch and needs.machine != facts.arch:
        text = f"the bundle is for {needs.machine}, and this is a {facts.arch} system"
        yield Problem("flash.arch", text, "give the bundle that was built for this architecture")
    if facts.libc and needs.libc != facts.libc:
        text = f"the bundle is for {needs.libc}, and this system has {facts.libc}"
        yield Problem("flash.libc", text, f"build the release with an Erlang that was built for {facts.libc}")
    least = tuple(int(part) for part in needs.libc_version.split(".")) if needs.libc_version else ()
    if facts.libc == needs.libc == "glibc" and facts.libc_version and least > facts.libc_version:
        text = f"the bundle needs glibc {needs.libc_version}, and this system has {_dotted(facts.libc_version)}"
        yield Problem("flash.libc", text, "build the release on a system as old as this one")
    if facts.libraries and (missing := sorted(set(needs.libraries) - facts.libraries)):
        hint = (
            "install the packages that have them (Debian: libssl3, libtinfo6, libstdc++6), or ship them in the release"
        )
        yield Problem("flash.library", f"the release needs libraries that it lacks: {', '.join(missing)}", hint)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
