import gzip
from pathlib import Path

import pytest
from beamfleet_bundles.build import beams
from beamfleet_bundles.build.tree import Tree

from tests.support.refusal import refusal
from tests.support.skeleton import beam

PATH = "lib/a-1/ebin/a.beam"


def tree(folder: Path, **files: bytes) -> Tree:
    made = Tree(folder)
    for path, data in files.items():
        made.replace(path, data)
    return made


def test_gzipped_modules_are_unpacked_and_plain_ones_left(tmp_path: Path) -> None:
    made = tree(tmp_path, **{PATH: gzip.compress(beam()), "lib/a-1/ebin/b.beam": beam()})
    assert beams.normalise(made) == []
    assert made.read(PATH, 1000) == beam()
    assert made.read("lib/a-1/ebin/b.beam", 1000) == beam()


def test_modules_with_debug_information_are_counted(tmp_path: Path) -> None:
    made = tree(
        tmp_path,
        **{PATH: beam((b"Dbgi", bytes(9000))), "lib/a-1/ebin/b.beam": gzip.compress(beam((b"Docs", bytes(3000))))},
    )
    (notice,) = beams.normalise(made)
    assert notice.startswith("2 .beam files hold 12 kB of debug information")


def test_files_outside_ebin_are_left_as_they_are(tmp_path: Path) -> None:
    packed = gzip.compress(b"anything")
    made = tree(tmp_path, **{"lib/a-1/priv/fixture.beam": packed})
    assert beams.normalise(made) == []
    assert made.read("lib/a-1/priv/fixture.beam", 1000) == packed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a module",
        beam()[:-1],
        beam()[:20],
        b"FOR1\0\0\0\x10BEAMCode\0\0\0\xffabcd",
        gzip.compress(beam(), mtime=0)[:-9],
        gzip.compress(beam(), mtime=0) + b"x",
        gzip.compress(beam(), mtime=0)[:-8] + bytes(8),
        gzip.compress(b"no module", mtime=0),
        gzip.compress(bytes(beams.MAX_BEAM + 1), 1),
    ],
)
def test_a_broken_module_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal(beams.normalise, tree(tmp_path, **{PATH: data})) == "release.broken_beam"
