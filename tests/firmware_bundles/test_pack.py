import io
import os
import sys
import tracemalloc
from collections.abc import Iterator

import pytest
from beamfleet_bundles import pack
from beamfleet_bundles.manifest import Manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import manifests
from tests.support.refusal import refusal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHECKSUM: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}


def packed(manifest: Manifest, contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    assert pack.write_pack(manifest, lambda entry: io.BytesIO(contents[entry.path]), out) == len(out.getvalue())
    return out.getvalue()


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def unpacked(manifest: Manifest, pieces: Iterator[bytes]) -> dict[str, bytes]:
    found: dict[str, bytearray] = {}
    for entry, piece in pack.unpack(pieces, manifest):
        assert len(piece) <= pack.FRAME
        found.setdefault(entry.path, bytearray()).extend(piece)
    return {path: bytes(content) for path, content in found.items()}


def drain(manifest: Manifest, data: bytes, size: int = 1 << 16) -> None:
    for _ in pack.unpack(chunks(data, size), manifest):
        pass


LARGE = {"a/random": os.urandom(2_500_000), "a/zeros": bytes(3_000_000), "a/empty": b"", "z/empty": b""}


@pytest.mark.parametrize("size", [999, 1 << 16, 1 << 30])
def test_files_larger_than_frames_come_back_whole_whatever_the_chunks(size: int) -> None:
    manifest, contents = manifests.manifest(LARGE), manifests.contents(LARGE)
    data = packed(manifest, contents)
    assert unpacked(manifest, chunks(data, size)) == contents
    assert refusal(pack.verify, chunks(data, size), manifest) == ""


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.binary(max_size=5000), max_size=8), st.integers(1, 3000))
def test_every_set_of_files_comes_back(more: dict[str, bytes], size: int) -> None:
    manifest, contents = manifests.manifest(more), manifests.contents(more)
    assert unpacked(manifest, chunks(packed(manifest, contents), size)) == contents


def test_the_same_files_give_the_same_bytes_in_frames_of_one_mebibyte() -> None:
    manifest, contents = manifests.manifest(LARGE), manifests.contents(LARGE)
    data = packed(manifest, contents)
    assert packed(manifest, contents) == data
    whole, sizes = b"".join(contents.values()), []
    while data:
        size = zstd.get_frame_size(data)
        sizes.append(len(zstd.decompress(data[:size])))
        data = data[size:]
    assert sizes == [min(pack.FRAME, len(whole) - start) for start in range(0, len(whole), pack.FRAME)]


def test_a_file_that_changed_since_it_was_hashed_is_not_packed() -> None:
    manifest, contents = manifests.manifest({"a": b"12345"}), manifests.contents({"a": b"12345"})
    for other in (b"12346", b"1234", b"123456", b""):
        assert refusal(packed, manifest, {**contents, "a": other}) == "pack.source"


def test_every_truncation_is_refused() -> None:
    more = {"a": os.urandom(300), "b": bytes(2000)}
    manifest = manifests.manifest(more)
    data = packed(manifest, manifests.contents(more))
    for end in range(len(data)):
        assert refusal(drain, manifest, data[:end]) == "pack.truncated"


def test_what_follows_the_last_file_is_refused() -> None:
    manifest = manifests.manifest()
    data = packed(manifest, manifests.contents())
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    for tail in (b"\0", skippable, zstd.compress(b""), data):
        assert refusal(drain, manifest, data + tail) == "pack.trailing"
        assert refusal(drain, manifest, data + tail, 1) == "pack.trailing"


def hostile() -> dict[str, tuple[int, bytes]]:
    """Packs of one frame, with the size that a manifest would claim for it."""
    content, zeros = os.urandom(1000), bytes(50 << 20)
    bomb = zstd.compress(zeros)
    compressor = zstd.ZstdCompressor()
    unsized = compressor.compress(content) + compressor.flush()
    empty_blocks = bytes.fromhex("28b52ffd60e802") + b"\0\0\0" * 100_000
    return {
        "skippable": (1000, b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd.compress(content)),
        "no frame": (1000, b"not a frame at all, but long enough to be one"),
        "without a size": (1000, unsized),
        "smaller than said": (1000, zstd.compress(content[:999])),
        "larger than said": (1000, zstd.compress(content + b"x")),
        "a bomb": (1000, bomb),
        "a bomb under a false size": (1000, bomb.replace(len(zeros).to_bytes(4, "little"), b"\xe8\x03\0\0", 1)),
        "two frames for one": (1000, zstd.compress(content[:500]) + zstd.compress(content[500:])),
        "larger than a frame": ((1 << 20) + 1, zstd.compress(bytes((1 << 20) + 1))),
        "a window of 128 MiB": (
            1000,
            bytes.fromhex("28b52ffd4088e802") + (1000 << 3 | 1).to_bytes(3, "little") + content,
        ),
        "empty blocks without end": (1000, empty_blocks),
        "a wrong checksum": (1000, zstd.compress(content, options=CHECKSUM)[:-4] + b"abcd"),
    }


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_frame_is_refused_with_little_memory(name: str) -> None:
    size, data = hostile()[name]
    entry = manifests.entry("a", bytes(size))
    manifest = manifests.manifest(entries=(entry,))
    tracemalloc.start()
    try:
        assert refusal(drain, manifest, data) in ("pack.frame", "pack.trailing")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_an_altered_byte_is_noticed_by_the_hash_at_the_latest() -> None:
    more = {"a": os.urandom(300), "b": bytes(2000)}
    manifest = manifests.manifest(more)
    data = packed(manifest, manifests.contents(more))
    unnoticed = 0
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 0x10
        code = refusal(pack.verify, [bytes(altered)], manifest)
        assert code == "" or code.startswith("pack.")
        unnoticed += not code
    assert unnoticed <= 2  # bits of a frame's header that decide nothing


def test_no_more_than_a_frame_is_read_ahead() -> None:
    manifest, contents = manifests.manifest(LARGE), manifests.contents(LARGE)
    data = packed(manifest, contents)
    taken = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks(data, 1 << 16):
            taken += len(chunk)
            yield chunk

    given_back = 0
    for _, piece in pack.unpack(counted(), manifest):
        given_back += len(piece)
        assert taken <= given_back + pack.FRAME + (1 << 17)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert refusal(drain, manifests.manifest(), data, 7).startswith("pack.")
