"""Owns undoing the compression of an archive in a stream, gzip, zstd or none: bounded memory, bombs cut short."""

import sys
import zlib
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from beamfleet_bundles.errors import BundleError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PORTION = 1 << 16
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHERS = {b"PK\3\4": "a zip", b"BZh": "a bzip2", b"\xfd7zXZ\0": "an xz", b"7z\xbc\xaf": "a 7z"}


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's object in the form of the others: it keeps the input that it could not yet take."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._object.decompress(self._object.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length
        return piece


class Plain:
    """What an archive's file holds once its compression is undone; checked to end as it should.

    More than `ratio` times the bytes read, once more than `floor` bytes have come out, is a bomb.
    """

    def __init__(self, path: Path, ratio: int, floor: int) -> None:
        """Error: `archive.not_an_archive` for the compressions that are not taken."""
        self._file: BinaryIO = path.open("rb")
        self._ratio, self._floor = ratio, floor
        self._taken = self._given = 0
        self._ready = memoryview(b"")
        start = self._file.read(6)
        self._file.seek(0)
        self._decompressor: _Decompressor | None = None
        if start.startswith(_GZIP):
            self._decompressor = _Gzip()
        elif start.startswith(_ZSTD):
            self._decompressor = zstd.ZstdDecompressor()
        for magic, name in _OTHERS.items():
            if start.startswith(magic):
                self._file.close()
                hint = "pack it as .tar.gz, .tar.zst or .tar"
                raise BundleError("archive.not_an_archive", f"it is {name} archive", hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end.

        Errors: `archive.truncated`, `archive.corrupt`, `archive.trailing_data`, `archive.bomb`.
        """
        if self._decompressor is None:
            return self._file.read(size)
        data = bytearray()
        while len(data) < size:
            if not self._ready:
                self._ready = memoryview(self._piece(self._decompressor))
                if not self._ready:
                    break
            wanted = size - len(data)
            data += self._ready[:wanted]
            self._ready = self._ready[wanted:]
        return bytes(data)

    def _piece(self, decompressor: _Decompressor) -> bytes:
        """The next bytes; none at the end."""
        piece = b""
        while not piece and not decompressor.eof:
            data = self._file.read(_PORTION) if decompressor.needs_input else b""
            if decompressor.needs_input and not data:
                raise BundleError("archive.truncated", "the archive ends too early", "pack or copy it again")
            self._taken += len(data)
            try:
                piece = decompressor.decompress(data, 4 * _PORTION)
            except (zlib.error, zstd.ZstdError) as error:
                message = f"the archive is damaged: {error}"
                raise BundleError("archive.corrupt", message, "pack or copy it again") from None
        self._given += len(piece)
        if self._given > self._floor and self._given > self._ratio * self._taken:
            raise BundleError(
                "archive.bomb",
                f"the archive unpacks to more than {self._ratio} times its size",
                "a release is never like that: look for files full of zeros",
            )
        if decompressor.eof and (decompressor.unused_data or self._file.read(1)):
            raise BundleError("archive.trailing_data", "something follows the end of the compressed archive")
        return piece
