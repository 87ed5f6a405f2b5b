import io
import random
import re
import struct
import subprocess
from pathlib import Path

import pytest
from beamfleet_bundles.build.elf import inspect, needs
from beamfleet_bundles.build.tree import Tree
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.refusal import refusal
from tests.support.skeleton import MACHINE_ELF

EMULATOR = "erts-13.1.5/bin/beam.smp"
AARCH64, ALPHA = 183, 0x9026


def for_machine(number: int) -> bytes:
    """This machine's ELF file, said to be another's."""
    return MACHINE_ELF[:18] + struct.pack("<H", number) + MACHINE_ELF[20:]


def with_loader(loader: bytes) -> bytes:
    """This machine's ELF file with another loader."""
    start = MACHINE_ELF.index(b"/lib")
    end = MACHINE_ELF.index(b"\0", start)
    return MACHINE_ELF[:start] + loader[: end - start].ljust(end - start, b"\0") + MACHINE_ELF[end:]


def tree(folder: Path, files: dict[str, bytes]) -> Tree:
    made = Tree(folder)
    for path, data in files.items():
        made.replace(path, data)
    return made


def test_what_the_loader_says_of_the_emulator_of_this_machine_is_what_is_read() -> None:
    (emulator,) = Path("/usr/lib/erlang").glob("erts-*/bin/beam.smp")
    with emulator.open("rb") as file:
        image = inspect(EMULATOR, file)
    assert image
    said = subprocess.run(["ldd", "-v", emulator], capture_output=True, text=True, check=True).stdout
    found, _, versions = said.partition("Version information:")
    own = versions.split("\n\t/")[1]
    assert image.machine == subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    assert f"\t{image.interpreter} (" in found
    assert set(re.findall(r"^\t\t(\S+) \(", own, re.MULTILINE)) <= {*image.needed, Path(image.interpreter).name}
    assert all(f"\t{name} => " in found for name in image.needed)
    assert image.glibc == max(tuple(map(int, text.split("."))) for text in re.findall(r"\(GLIBC_([0-9.]+)\)", own))


def test_libraries_that_the_release_ships_are_not_asked_of_the_device(tmp_path: Path) -> None:
    (crypto,) = Path("/usr/lib/erlang/lib").glob("crypto-*/priv/lib/crypto.so")
    files = {EMULATOR: MACHINE_ELF, "lib/crypto-1/priv/lib/crypto.so": crypto.read_bytes()}
    alone = needs(tree(tmp_path, files), EMULATOR)
    assert alone.libc == "glibc"
    assert alone.libraries == ("libc.so.6", "libcrypto.so.3")
    shipped = {**files, "lib/crypto-1/priv/libcrypto.so.3": MACHINE_ELF}
    assert needs(tree(tmp_path, shipped), EMULATOR).libraries == ("libc.so.6",)


def test_what_epmd_alone_needs_is_not_asked_of_the_device(tmp_path: Path) -> None:
    (crypto,) = Path("/usr/lib/erlang/lib").glob("crypto-*/priv/lib/crypto.so")
    files = {EMULATOR: MACHINE_ELF, "erts-13.1.5/bin/epmd": crypto.read_bytes()}
    assert needs(tree(tmp_path, files), EMULATOR).libraries == ("libc.so.6",)


@pytest.mark.parametrize(
    ("code", "files"),
    [
        ("release.not_linux", {EMULATOR: b"\xcf\xfa\xed\xfe Mach-O"}),
        ("release.not_linux", {"other": MACHINE_ELF}),
        ("release.arch", {EMULATOR: for_machine(ALPHA)}),
        ("release.libc", {EMULATOR: with_loader(b"/lib/ld-uClibc.so.0")}),
        ("release.foreign_elf", {EMULATOR: MACHINE_ELF, "lib/nif-1/priv/nif.so": for_machine(AARCH64)}),
        ("release.elf", {EMULATOR: MACHINE_ELF, "lib/nif-1/priv/nif.so": MACHINE_ELF[:100]}),
        ("release.elf", {EMULATOR: MACHINE_ELF[:3000]}),
    ],
)
def test_what_cannot_run_together_is_refused(tmp_path: Path, code: str, files: dict[str, bytes]) -> None:
    assert refusal(needs, tree(tmp_path, files), EMULATOR) == code


def test_musl_is_told_by_its_loader(tmp_path: Path) -> None:
    found = needs(tree(tmp_path, {EMULATOR: with_loader(b"/lib/ld-musl-x86_64.so.1")}), EMULATOR)
    assert (found.libc, found.libc_version) == ("musl", "")


def test_aarch64_is_told_by_its_number(tmp_path: Path) -> None:
    assert needs(tree(tmp_path, {EMULATOR: for_machine(AARCH64)}), EMULATOR).machine == "aarch64"


def test_files_that_only_look_like_programs_are_left_alone() -> None:
    assert inspect("x", io.BytesIO(b"#!/bin/sh\n")) is None
    assert inspect("x", io.BytesIO(b"")) is None
    relocatable = MACHINE_ELF[:16] + struct.pack("<H", 1) + MACHINE_ELF[18:]
    assert inspect("bpf.o", io.BytesIO(relocatable)) is None


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32))
def test_no_damage_breaks_the_reader(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 # not a secret
    data = bytearray(MACHINE_ELF)
    for _ in range(chance.randrange(1, 20)):
        data[chance.randrange(chance.choice([64, 1000, len(data)]))] = chance.randrange(256)
    data[:4] = MACHINE_ELF[:4]
    assert refusal(inspect, "x", io.BytesIO(bytes(data))) in ("", "release.elf")
