import gzip as stdlib_gzip
import io
import os
import random
import socket
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_bundles.build.archive import Limits, read
from beamfleet_bundles.build.tree import Tree
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.refusal import refusal
from tests.support.skeleton import gzip, header, lay_out, members, tar

FILES = {
    "bin/run": b"#!/bin/sh\n",
    "lib/a/ebin/a.app": b"x" * 1000,
    "lib/empty": b"",
    "releases/1/" + "long/" * 25 + "n": b"n",
}
LIMITS = Limits()
SMALL = Limits(members=50, member=100_000, total=300_000, ratio=100, ratio_from=50_000)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Read = Callable[..., Tree]


@pytest.fixture
def taken(tmp_path: Path) -> Read:
    """Reads bytes as a file, or a directory, and gives the tree."""
    spool = tmp_path / "spool"

    def call(source: bytes | Path, limits: Limits = LIMITS) -> Tree:
        if isinstance(source, bytes):
            (tmp_path / "archive").write_bytes(source)
            source = tmp_path / "archive"
        for old in spool.iterdir() if spool.exists() else ():
            old.unlink()
        spool.mkdir(exist_ok=True)
        tree = Tree(spool)
        read(source, tree, limits)
        tree.check_links()
        return tree

    return call


def contents(tree: Tree) -> dict[str, bytes]:
    return {path: tree.read(path, 1 << 30) for path in tree.files}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_tarballs_of_all_forms_and_directories_give_the_same_tree(
    taken: Read, tmp_path: Path, form: int, compress: str
) -> None:
    compressors: dict[str, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip, "zstd": zstd.compress}
    data = compressors[compress](tar(members(FILES), form))
    tree = taken(data)
    assert contents(tree) == FILES
    assert [path for path, file in tree.files.items() if file.executable] == ["bin/run"]
    assert contents(taken(lay_out(tmp_path / "folder", FILES))) == FILES


def test_leading_dots_directories_and_names_in_unicode_are_read(taken: Read) -> None:
    long_name = "lib/ü-" + "é" * 100
    found = taken(
        tar(
            [
                (header("./", kind=tarfile.DIRTYPE), b""),
                (header("./lib/", mode=0o2775, kind=tarfile.DIRTYPE), b""),
                (header("./lib/x", 1), b"x"),
                (header("./lib/", kind=tarfile.DIRTYPE), b""),
                (header(long_name, 1), b"y"),
                (header("lib/link", kind=tarfile.SYMTYPE, target="x"), b""),
                (header("lib/hard", kind=tarfile.LNKTYPE, target="./lib/x"), b""),
            ]
        )
    )
    assert contents(found) == {"lib/x": b"x", long_name: b"y", "lib/hard": b"x"}
    assert found.links == {"lib/link": "x"}


HOSTILE = {
    "archive.absolute": [header("/etc/passwd", 1), header("//x", 1), header("/", kind=tarfile.DIRTYPE)],
    "archive.parent": [
        header("../x", 1),
        header("lib/../../x", 1),
        header("lib/..", kind=tarfile.DIRTYPE),
        header("./../x", 1),
    ],
    "archive.name": [
        header("a//b", 1),
        header("a/./b", 1),
        header("a\nb", 1),
        header("e\u0301", 1),
        header("x" * 256, 1),
        header("/".join(["a"] * 33), 1),
        header("/".join(["a" * 99] * 6), 1),
        header("a\x1b[2J", 1),
    ],
    "archive.duplicate": [
        header("first", 1),
        header("./first", 1),
        header("first", 2),
        header("first", kind=tarfile.DIRTYPE),
        header("first", kind=tarfile.SYMTYPE, target="x"),
    ],
    "archive.conflict": [header("first/below", 1)],
    "archive.reserved": [header(".beamfleet/launch", 1), header(".beamfleet", 1)],
    "archive.link": [
        header("l", kind=tarfile.SYMTYPE, target=target)
        for target in ("/etc/passwd", "..", "../../x", "nothing", "l", "", "a/../../first")
    ],
    "archive.hard_link": [
        header("l", kind=tarfile.LNKTYPE, target=target) for target in ("/etc/passwd", "later", "../first")
    ],
    "archive.special": [
        header("d", kind=tarfile.CHRTYPE),
        header("d", kind=tarfile.BLKTYPE),
        header("d", kind=tarfile.FIFOTYPE),
    ],
    "archive.setuid": [header("s", 1, 0o4755), header("s", 1, 0o2755), header("s", 1, 0o1644)],
    "archive.member_type": [header("s", kind=b"S"), header("s", kind=b"V"), header("s", kind=b"?")],
    "archive.member_too_large": [header("b", 100_001)],
}


@pytest.mark.parametrize(
    ("code", "number"), [(code, number) for code, found in HOSTILE.items() for number in range(len(found))]
)
def test_a_hostile_member_is_refused_by_its_code_and_name(taken: Read, code: str, number: int) -> None:
    info = HOSTILE[code][number]
    data = tar([(header("first", 1), b"x"), (info, os.urandom(info.size).replace(b"x", b"y"))])
    assert refusal(taken, data, SMALL) == code
    assert refusal(taken, gzip(data), SMALL) == code


def test_the_same_file_may_come_again_as_mix_packs_its_overlays_but_not_with_another_mode(taken: Read) -> None:
    script = (header("bin/server", 3, 0o755), b"run")
    assert contents(taken(tar([script, script, (header("./bin/server", 3, 0o755), b"run")]))) == {"bin/server": b"run"}
    assert refusal(taken, tar([script, (header("bin/server", 3, 0o644), b"run")])) == "archive.duplicate"


def test_a_link_cannot_be_written_through(taken: Read, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = header("lib", kind=tarfile.SYMTYPE, target=str(outside))
    assert refusal(taken, tar([(link, b""), (header("lib/x", 1), b"x")])) == "archive.conflict"
    assert list(outside.iterdir()) == []


def test_counts_and_sizes_are_limits(taken: Read) -> None:
    many = [(header(f"f{number}", 0), b"") for number in range(51)]
    assert refusal(taken, tar(many[:50]), SMALL) == ""
    assert refusal(taken, tar(many), SMALL) == "archive.too_many"
    large = [(header(f"f{number}", 90_000), os.urandom(90_000)) for number in range(4)]
    assert refusal(taken, tar(large[:3]), SMALL) == ""
    assert refusal(taken, tar(large), SMALL) == "archive.too_large"
    links = [(header(f"l{number}", kind=tarfile.LNKTYPE, target="f0"), b"") for number in range(4)]
    assert refusal(taken, tar(large[:1] + links), SMALL) == "archive.too_large"


def test_bombs_are_cut_short_with_little_memory(taken: Read, tmp_path: Path) -> None:
    def zeros(*sizes: int) -> bytes:
        out = io.BytesIO()
        with stdlib_gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
            for number, size in enumerate(sizes):
                file.write(header(f"z{number}", size).tobuf())
                for _ in range(size >> 20):
                    file.write(bytes(1 << 20))
        return out.getvalue()

    one, several = zeros(300 << 20), zeros(100 << 20, 100 << 20, 100 << 20)
    tracemalloc.start()
    try:
        assert refusal(taken, one) == "archive.member_too_large"
        assert refusal(taken, several) == "archive.bomb"
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()) < 32 << 20


@pytest.mark.parametrize("compress", [bytes, gzip])
def test_every_truncation_is_called_one(taken: Read, compress: Callable[[bytes], bytes]) -> None:
    data = compress(tar([(header("a", 700), os.urandom(700)), (header("b", 3), b"abc")])[: 5 * 512 + 1024])
    assert refusal(taken, data) == ""
    for end in range(513, len(data) - (1024 if compress is bytes else 0), 7):
        assert refusal(taken, data[:end]) == "archive.truncated"


def test_damage_and_trailing_data_are_refused(taken: Read) -> None:
    plain = tar([(header("a", 5000), os.urandom(5000))])
    packed = gzip(plain)
    wrong_sum = bytearray(plain)
    wrong_sum[0] ^= 1
    assert refusal(taken, packed[:-8] + bytes(4) + packed[-4:]) == "archive.corrupt"
    assert refusal(taken, packed[:2000] + b"\xff" * 20 + packed[2020:]) == "archive.corrupt"
    assert refusal(taken, bytes(wrong_sum)) == "archive.not_an_archive"
    assert refusal(taken, tar([(header("b", 0), b"")])[:512] + bytes(wrong_sum)) == "archive.corrupt"
    assert refusal(taken, packed + b"\0") == "archive.trailing_data"
    assert refusal(taken, packed + packed) == "archive.trailing_data"
    assert refusal(taken, plain + b"x") == "archive.trailing_data"
    assert refusal(taken, plain + plain) == "archive.trailing_data"
    assert refusal(taken, plain + bytes(2 << 20)) == "archive.trailing_data"


@pytest.mark.parametrize(
    "data", [b"", b"x", b"x" * 5000, b"PK\3\4" + bytes(600), b"BZh91AY" + bytes(600), b"\xfd7zXZ\0" + bytes(600)]
)
def test_what_is_no_tarball_is_refused(taken: Read, data: bytes) -> None:
    assert refusal(taken, data) == "archive.not_an_archive"


def test_an_empty_archive_and_a_missing_one_are_refused(taken: Read, tmp_path: Path) -> None:
    assert refusal(taken, tar([])) == "archive.empty"
    assert refusal(taken, tar([(header("lib/", kind=tarfile.DIRTYPE), b"")])) == "archive.empty"
    assert refusal(taken, tmp_path / "missing") == "archive.unreadable"
    assert refusal(taken, Path("/dev/null")) == "archive.not_an_archive"


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of these records, then a file."""
    block = header("pax", len(records), kind=kind).tobuf() + records + bytes(-len(records) % 512)
    return block + tar([(header("name", 1), b"x")])


def test_extended_headers_are_read_strictly(taken: Read) -> None:
    assert contents(taken(pax(b"12 path=lib\n"))) == {"lib": b"x"}
    assert contents(taken(pax(b"18 comment=a text\n", tarfile.XGLTYPE))) == {"name": b"x"}
    for records in (b"99 path=lib\n", b"x path=lib\n", b"12 path=lib ", b"5 a\n", b"10 size=x1\n", b"11 size=-1\n"):
        assert refusal(taken, pax(records)) == "archive.corrupt"
    assert refusal(taken, pax(b"12 path=lib\n", tarfile.XGLTYPE)) == "archive.member_type"
    assert refusal(taken, pax(b"25 GNU.sparse.realsize=1\n")) == "archive.member_type"
    assert refusal(taken, pax(b"12 path=\xff\xfe\xfd\n")) == "archive.name"
    assert refusal(taken, pax(b"12 path=a\0b\n")) == "archive.name"
    assert refusal(taken, pax(b"12 path=/ab\n")) == "archive.absolute"
    assert refusal(taken, header("x", 1 << 20, kind=tarfile.GNUTYPE_LONGNAME).tobuf()) == "archive.header_too_large"


def test_names_that_are_not_utf_8_are_refused(taken: Read, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(header("gr\u00fcn"), io.BytesIO())
    assert refusal(taken, out.getvalue()) == "archive.name"
    folder = tmp_path / "folder"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/gr\xfcn")).touch()
    assert refusal(taken, folder) == "archive.name"


def test_a_directory_is_held_to_the_same_rules(taken: Read, tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        return lay_out(tmp_path / name, {"first": b"x"})

    (folder("out") / "link").symlink_to("/etc/passwd")
    assert refusal(taken, tmp_path / "out") == "archive.link"
    (folder("in") / "link").symlink_to("first")
    assert taken(tmp_path / "in").links == {"link": "first"}
    os.mkfifo(folder("fifo") / "pipe")
    assert refusal(taken, tmp_path / "fifo") == "archive.special"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder("socket") / "s"))
        assert refusal(taken, tmp_path / "socket") == "archive.special"
    (folder("setuid") / "first").chmod(0o4755)
    assert refusal(taken, tmp_path / "setuid") == "archive.setuid"
    deep = folder("deep").joinpath(*["d"] * 33)
    deep.mkdir(parents=True)
    assert refusal(taken, tmp_path / "deep") == "archive.name"
    (folder("large") / "big").write_bytes(bytes(100_001))
    assert refusal(taken, tmp_path / "large", SMALL) == "archive.member_too_large"


def test_full_temporary_space_is_told(taken: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tree, "place", lambda _: Path("/dev/full"))
    assert refusal(taken, tar(members(FILES))) == "archive.spool"


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32))
def test_no_damage_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 # not a secret
    data = bytearray(tar([*members(FILES), (header("lib/link", kind=tarfile.SYMTYPE, target="empty"), b"")]))
    for _ in range(chance.randrange(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "archive").write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
    (folder / "spool").mkdir()
    code = refusal(read, folder / "archive", Tree(folder / "spool"), SMALL)
    assert code == "" or code.startswith("archive.")
