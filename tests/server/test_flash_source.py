"""Image files are read as they are, or unpacked into a file that has no name."""

import bz2
import gzip
import lzma
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_server.flash import source
from beamfleet_server.flash.errors import FlashError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = os.urandom(300_000) + bytes(9 << 20) + os.urandom(70_001)


def zipped(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", "how to")
        archive.writestr("board.img", content)


PACKERS: dict[str, Callable[[bytes, Path], object]] = {
    "raw": lambda content, path: path.write_bytes(content),
    "xz": lambda content, path: path.write_bytes(lzma.compress(content, preset=0)),
    "two streams of xz": lambda content, path: path.write_bytes(
        lzma.compress(content[:1000], preset=0) + lzma.compress(content[1000:], preset=0)
    ),
    "zstd": lambda content, path: path.write_bytes(zstd.compress(content, 1)),
    "gzip": lambda content, path: path.write_bytes(gzip.compress(content, 1)),
    "bzip2": lambda content, path: path.write_bytes(bz2.compress(content, 1)),
    "zip": zipped,
}


def read(path: Path, limit: int = 1 << 30) -> bytes:
    with source.opened(path, limit, lambda *_: None) as opened:
        assert opened.size == opened.path.stat().st_size
        return opened.path.read_bytes()


@pytest.mark.parametrize("kind", PACKERS)
def test_an_image_is_read_whatever_it_is_packed_with(kind: str, tmp_path: Path) -> None:
    image = tmp_path / "named-like-nothing"
    PACKERS[kind](CONTENT, image)
    assert read(image) == CONTENT
    assert list(tmp_path.iterdir()) == [image]


def test_zeros_at_the_end_are_not_lost(tmp_path: Path) -> None:
    image = tmp_path / "image.xz"
    image.write_bytes(lzma.compress(b"x" + bytes(8 << 20), preset=0))
    assert read(image) == b"x" + bytes(8 << 20)


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != "raw"])
def test_a_packed_image_that_is_cut_off_or_changed_is_refused(kind: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    PACKERS[kind](CONTENT, image)
    packed = image.read_bytes()
    image.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(FlashError) as refused:
        read(image)
    assert refused.value.code == "flash.image"


def test_what_unpacks_to_more_than_fits_is_stopped(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(lzma.compress(bytes(64 << 20), preset=0))
    with pytest.raises(FlashError) as refused:
        read(image, limit=16 << 20)
    assert refused.value.code == "flash.device_small"


def test_what_can_be_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("one.img", "1")
        archive.writestr("two.img", "2")
    for name in ("empty", "two.zip", "missing", "."):
        with pytest.raises(FlashError) as refused:
            read(tmp_path / name)
        assert refused.value.code == "flash.image"


def test_no_room_to_unpack_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "image"
    image.write_bytes(gzip.compress(CONTENT))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(FlashError, match="nothing can be unpacked") as refused:
        read(image)
    assert "TMPDIR" in refused.value.hint


def test_an_image_is_told_from_another_and_from_itself_after_a_change(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(CONTENT)
    other.write_bytes(CONTENT[::-1])
    os.utime(one, ns=(1, 1))
    os.utime(other, ns=(1, 1))

    def identity(path: Path) -> str:
        with source.opened(path, 1 << 30, lambda *_: None) as opened:
            return opened.identity

    first = identity(one)
    assert first == identity(one) != identity(other)
    os.utime(one, ns=(2, 2))
    assert identity(one) != first
