"""Owns the full pack: the contents of a manifest's files, in manifest order, in independent zstd frames of 1 MiB.

A pack has no headers; the manifest is its index. `unpack` reads hostile bytes in a stream: it never holds more than a
frame, never yields more than the manifest's sizes, and takes neither a byte less nor a byte more. It knows no hashes of
its own: whoever writes the pieces checks each file against its entry, as `verify` does.
"""

import hashlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.manifest import FileEntry, Manifest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FRAME = 1 << 20
"""Bytes of content in each frame but the last, which has the rest."""
LEVEL = 19
_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_HEADER = 18
_PORTION = 1 << 16
_MAX_OVERHEAD = 4096
"""Most bytes by which a frame may be larger than its content; eight blocks with headers of 3 bytes need far less."""


def write_pack(manifest: Manifest, open_file: Callable[[FileEntry], BinaryIO], out: BinaryIO) -> int:
    """Write the manifest's files, each opened by `open_file`, to `out`; returns the bytes written.

    Frames are compressed side by side and written in order: the same content gives the same bytes (with the same
    version of libzstd). A file that is not what its entry says raises `pack.source`, and what was written is of no use.
    """
    written = 0
    workers = os.cpu_count() or 1
    pending: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for frame in _frames(manifest, open_file):
                pending.append(pool.submit(_compress, frame))
                if len(pending) > 2 * workers:
                    written += out.write(pending.popleft().result())
            while pending:
                written += out.write(pending.popleft().result())
        finally:
            for future in pending:
                future.cancel()
    return written


def unpack(chunks: Iterable[bytes], manifest: Manifest) -> Iterator[tuple[FileEntry, bytes]]:
    """Yield (entry, piece) in the order of the manifest: at least one piece for each file, none above 1 MiB.

    `chunks` are the pack's bytes in pieces of any size. Errors: `pack.truncated`, `pack.frame`, `pack.trailing`.
    """
    entries = iter(manifest.files)
    entry = next(entries, None)
    missing = entry.size if entry else 0
    for content in _contents(_Source(chunks), manifest.unpacked):
        view = memoryview(content)
        while view and entry:
            piece, view = view[:missing], view[missing:]
            yield entry, bytes(piece)
            missing -= len(piece)
            if not missing:
                entry = next(entries, None)
                missing = entry.size if entry else 0
    while entry:  # only empty files can be left
        yield entry, b""
        entry = next(entries, None)


def verify(chunks: Iterable[bytes], manifest: Manifest) -> None:
    """Read a whole pack and compare each file with its entry; errors of `unpack` and `pack.altered`."""
    digest, seen = hashlib.sha256(), 0
    for entry, piece in unpack(chunks, manifest):
        digest.update(piece)
        seen += len(piece)
        if seen == entry.size:
            if digest.hexdigest() != entry.sha256:
                raise BundleError("pack.altered", f"the pack's {entry.path} is not the one that the manifest names")
            digest, seen = hashlib.sha256(), 0


def _compress(content: bytes) -> bytes:
    return zstd.compress(content, LEVEL)


def _frames(manifest: Manifest, open_file: Callable[[FileEntry], BinaryIO]) -> Iterator[bytes]:
    frame = bytearray()
    for entry in manifest.files:
        digest, missing = hashlib.sha256(), entry.size
        with open_file(entry) as content:
            while piece := content.read(min(missing, FRAME - len(frame)) or 1):
                digest.update(piece)
                missing -= len(piece)
                if missing < 0:
                    break
                frame += piece
                if len(frame) == FRAME:
                    yield bytes(frame)
                    frame.clear()
        if missing or digest.hexdigest() != entry.sha256:
            raise BundleError("pack.source", f"{entry.path} changed while it was packed")
    if frame:
        yield bytes(frame)


def _contents(source: "_Source", unpacked: int) -> Iterator[bytes]:
    """The decoded pieces of the frames of `unpacked` bytes in all."""
    while unpacked:
        size = min(FRAME, unpacked)
        _check_header(source.peek(_MAX_HEADER), size)
        try:
            yield from _frame(source, size)
        except zstd.ZstdError as error:
            raise BundleError("pack.frame", f"the pack has a frame that cannot be read: {error}") from None
        unpacked -= size
    if source.take(1):
        raise BundleError("pack.trailing", "the pack goes on after its last file")


def _check_header(header: bytes, size: int) -> None:
    """Refuse, before anything is allocated, what is not a frame of `size` bytes of content without a dictionary."""
    if len(header) >= len(_MAGIC) and not header.startswith(_MAGIC):
        raise BundleError("pack.frame", "the pack has something else where a frame begins")
    try:
        info = zstd.get_frame_info(header)
    except zstd.ZstdError:
        if len(header) < _MAX_HEADER:
            raise _truncated() from None
        raise BundleError("pack.frame", "the pack has a frame with a broken header") from None
    if info.decompressed_size != size or info.dictionary_id:
        raise BundleError("pack.frame", f"the pack has a frame that does not say that it holds {size} bytes")


def _frame(source: "_Source", size: int) -> Iterator[bytes]:
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: FRAME.bit_length() - 1})
    allowance = size + _MAX_OVERHEAD
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            if not allowance:
                raise BundleError("pack.frame", "the pack has a frame that is larger than its content")
            data = source.take(min(_PORTION, allowance))
            if not data:
                raise _truncated()
            allowance -= len(data)
        piece = decompressor.decompress(data, size + 1)
        size -= len(piece)
        if size < 0:
            raise BundleError("pack.frame", "the pack has a frame with more than it says")
        if piece:
            yield piece
    if size:
        raise BundleError("pack.frame", "the pack has a frame with less than it says")
    source.push(decompressor.unused_data)


def _truncated() -> BundleError:
    return BundleError("pack.truncated", "the pack ends before its last file", "fetch it again")


class _Source:
    """The pack's bytes, taken in any portions."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._ready: list[memoryview] = []

    def take(self, most: int) -> bytes:
        """1 to `most` bytes; none at the end of the pack."""
        while not self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self.push(chunk)
        top = self._ready.pop()
        self.push(top[most:])
        return bytes(top[:most])

    def push(self, data: bytes | memoryview) -> None:
        """Put bytes back: they are taken next."""
        if data:
            self._ready.append(memoryview(data))

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, which stay in the source; fewer at the end of the pack."""
        seen = bytearray()
        while len(seen) < size and (piece := self.take(size - len(seen))):
            seen += piece
        self.push(bytes(seen))
        return bytes(seen)
