"""Owns what the ELF files of a release say about the machine that can run it; reads headers only, through pyelftools.

The emulator decides architecture and libc. A device must bring the libraries that any ELF file of the release needs and
the release does not hold, and a glibc that has every symbol version used.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Literal

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import ARMAttributesSection
from elftools.elf.segments import InterpSegment

from beamfleet_bundles.build.tree import Tree
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.manifest import MIN_AGENT, Requires

MAGIC = b"\x7fELF"
_MACHINES = {
    ("EM_X86_64", 64, True): "x86_64",
    ("EM_386", 32, True): "i686",
    ("EM_AARCH64", 64, True): "aarch64",
    ("EM_RISCV", 64, True): "riscv64",
    ("EM_PPC64", 64, True): "ppc64le",
    ("EM_S390", 64, False): "s390x",
    ("EM_LOONGARCH", 64, True): "loongarch64",
    ("EM_ARM", 32, True): "arm",
}
_ARM_V6, _ARM_V7 = 6, 10
_GLIBC = re.compile(r"GLIBC_([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})")
_LIBRARY = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._+-]{0,254}")
_MOST = 4096
_UNUSED = frozenset({"epmd"})
"""Never started by beamfleet; Debian's needs libsystemd, which a small device may well lack."""


@dataclass(frozen=True, slots=True)
class Image:
    """An executable or shared ELF file."""

    machine: str
    """As `uname -m` says it, or pyelftools's name of an architecture that beamfleet has no name for."""
    interpreter: str
    soname: str
    needed: tuple[str, ...]
    glibc: tuple[int, ...]
    """Highest version of a glibc symbol, such as (2, 34); empty for none."""


def needs(tree: Tree, emulator: str) -> Requires:
    """What a device must have to run `tree`, whose emulator is at the path `emulator`.

    Errors: `release.not_linux`, `release.elf`, `release.arch`, `release.libc`, `release.foreign_elf`.
    """
    images = dict(_images(tree))
    if emulator not in images:
        hint = "build the release on Linux, for the device's architecture"
        raise BundleError("release.not_linux", f"{emulator} is not a Linux executable", hint)
    main = images[emulator]
    if main.machine not in {*_MACHINES.values(), "armv5tel", "armv6l", "armv7l"}:
        raise BundleError("release.arch", f"{emulator} is for the unknown architecture {main.machine}")
    libc = _libc(emulator, main)
    for path, image in images.items():
        if image.machine != main.machine:
            hint = "build everything for the device, or leave the file out of the release"
            message = f"{path} is for {image.machine}, but {emulator} is for {main.machine}"
            raise BundleError("release.foreign_elf", message, hint)
    shipped = {path.rpartition("/")[2] for path in (*images, *tree.links)} | {image.soname for image in images.values()}
    used = [image for path, image in images.items() if path.rpartition("/")[2] not in _UNUSED]
    wanted = {name for image in used for name in image.needed}
    for name in wanted:
        if not _LIBRARY.fullmatch(name):
            raise BundleError("release.elf", f"the release needs a library with the impossible name {name[:80]!r}")
    version = max(image.glibc for image in images.values()) if libc == "glibc" else ()
    return Requires(main.machine, libc, ".".join(map(str, version)), tuple(sorted(wanted - shipped)), MIN_AGENT)


def inspect(path: str, file: BinaryIO) -> Image | None:
    """The facts of an executable or shared ELF file, None for anything else; `path` is for the error `release.elf`."""
    if file.read(4) != MAGIC:
        return None
    file.seek(0)
    try:
        elf = ELFFile(file)
        if elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
            return None
        interpreter, soname, needed = "", "", []
        for segment in islice(elf.iter_segments(), _MOST):
            if isinstance(segment, InterpSegment):
                interpreter = segment.get_interp_name()
            elif isinstance(segment, DynamicSegment):
                tag: Any  # its attributes depend on its kind
                for tag in islice(segment.iter_tags(), _MOST):
                    if tag.entry.d_tag == "DT_NEEDED":
                        needed.append(tag.needed)
                    elif tag.entry.d_tag == "DT_SONAME":
                        soname = tag.soname
        return Image(_machine(elf), interpreter, soname, tuple(needed), _glibc(elf))
    except _DAMAGE as error:
        raise BundleError("release.elf", f"{path} is a damaged ELF file: {error}") from None


_DAMAGE = (
    ELFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, AssertionError, struct.error,
)  # fmt: skip
"""What pyelftools raises on bytes that are no ELF file."""


def _images(tree: Tree) -> Iterable[tuple[str, Image]]:
    for path in sorted(tree.files):
        with tree.open(path) as file:
            if image := inspect(path, file):
                yield path, image


def _machine(elf: ELFFile) -> str:
    machine = _MACHINES.get((elf["e_machine"], elf.elfclass, elf.little_endian), str(elf["e_machine"]))
    if machine != "arm":
        return machine
    version = _ARM_V7
    attributes = elf.get_section_by_name(".ARM.attributes")
    for subsection in attributes.iter_subsections() if isinstance(attributes, ARMAttributesSection) else ():
        for part in subsection.iter_subsubsections():
            for attribute in part.iter_attributes("TAG_CPU_ARCH"):
                version = attribute.value
    return "armv7l" if version >= _ARM_V7 else "armv6l" if version >= _ARM_V6 else "armv5tel"


def _glibc(elf: ELFFile) -> tuple[int, ...]:
    highest: tuple[int, ...] = ()
    for section in islice(elf.iter_sections(), _MOST):
        if isinstance(section, GNUVerNeedSection):
            for _, versions in islice(section.iter_versions(), _MOST):
                for version in islice(versions, _MOST):
                    if match := _GLIBC.fullmatch(version.name):
                        highest = max(highest, tuple(int(part) for part in match[1].split(".")))
    return highest


def _libc(path: str, image: Image) -> Literal["glibc", "musl"]:
    loader = image.interpreter.rpartition("/")[2]
    if loader.startswith("ld-musl-"):
        return "musl"
    if loader.startswith(("ld-linux", "ld64.so", "ld.so")):
        return "glibc"
    why = f"uses the loader {image.interpreter!r}" if image.interpreter else "is linked statically"
    raise BundleError("release.libc", f"{path} {why}", "beamfleet knows Erlang/OTP built for glibc and for musl")
