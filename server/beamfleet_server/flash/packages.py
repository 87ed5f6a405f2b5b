"""Owns which package file a target takes: what its name says, and the choice by the facts; never opens a package.

    beamfleet-agent_VERSION_ARCH_pyXY.EXT     amd64, arm64, armhf; py311; deb, rpm, ipk, apk

A package is for one architecture and one minor version of Python, whose extensions it holds; apk is for musl, the
others are for glibc.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from beamfleet_server.flash.facts import Problem, TargetFacts

ARCHES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf"}
"""What there are packages for, as `uname -m` calls it and as their names do. A 64-bit kernel below 32-bit programs is
judged by the programs."""
_FORMATS = {"dpkg": "deb", "rpm": "rpm", "opkg": "ipk", "apk": "apk"}
_NAME = re.compile(r"beamfleet-agent_([0-9][0-9A-Za-z.+~-]*)_(amd64|arm64|armhf)_py3([0-9]{1,2})\.(deb|rpm|ipk|apk)")


@dataclass(frozen=True, slots=True)
class Package:
    """A package file, as its name says."""

    path: Path
    version: str
    arch: str
    python: tuple[int, int]
    format: str


def parse(path: Path) -> Package | None:
    """The package that a file is by its name, None when it is none."""
    if not (match := _NAME.fullmatch(path.name)):
        return None
    return Package(path, match[1], match[2], (3, int(match[3])), match[4])


def found(directory: Path) -> list[Package]:
    """The packages in a directory; none when it cannot be read."""
    try:
        names = sorted(directory.iterdir())
    except OSError:
        return []
    return [package for path in names if (package := parse(path))]


def format_of(facts: TargetFacts) -> str:
    """The format that is installed into a target. Into files without a packager that we can work from outside, the
    content of a package is unpacked: of a deb, or of an apk where the libc is musl."""
    if facts.running:
        return _FORMATS.get(facts.packager, "apk" if facts.libc == "musl" else "deb")
    return "apk" if facts.libc == "musl" else "deb"


def wanted(facts: TargetFacts) -> str:
    """The name of the file that a target needs, with * for the version."""
    arch, (major, minor) = ARCHES.get(facts.arch, facts.arch), facts.python or (3, 11)
    return f"beamfleet-agent_*_{arch}_py{major}{minor}.{format_of(facts)}"


def choose(facts: TargetFacts, available: Iterable[Package]) -> Package | None:
    """The newest package that fits."""
    arch, kind = ARCHES.get(facts.arch), format_of(facts)
    fit = [each for each in available if (each.arch, each.python, each.format) == (arch, facts.python, kind)]
    return max(fit, key=lambda each: _order(each.version), default=None)


def lacking(facts: TargetFacts, looked: str) -> Problem:
    """That there is no package for this target where it was `looked` for, and how one is made."""
    arch = ARCHES.get(facts.arch, facts.arch)
    python = ".".join(map(str, facts.python or (3, 11)))
    make = f"make it: ./dev package --arch {arch} --python {python} --format {format_of(facts)}; then --packages DIR"
    return Problem("flash.no_package", f"there is no {wanted(facts)} in {looked}", make)


def unfit(facts: TargetFacts, file: Path) -> Problem:
    """That the package which was named is none for this target, and which one would be."""
    what = f"{file.name} is no package for this target, which takes {wanted(facts)}"
    return Problem("flash.no_package", what, "give that one, or leave --package away to have it chosen")


def _order(version: str) -> tuple[tuple[int, int, str], ...]:
    parts = re.findall(r"[0-9]+|[A-Za-z~]+", version)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)
