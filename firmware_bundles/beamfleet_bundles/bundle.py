"""Owns the `.bundle` file: one release in one file, to upload or to carry by hand.

A zip of stored entries in fixed order with fixed times: `manifest.json`, `pack`, then `metadata/ROLE.N.json` sorted by
role and number. `Bundle.open` takes exactly that form, since the file is hostile; whether its metadata is signed by
whom it should be is for `trust` to say, and whether the pack is what the manifest names is what `Bundle.verify` reads.
"""

import io
import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from beamfleet_bundles import durable, pack
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.manifest import MAX_SIZE, Manifest, decode

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIX = ".bundle"
MAX_METADATA = 1 << 20
"""Largest single metadata document, in bytes."""
MAX_DOCUMENTS = 256
MAX_PACK = 7 << 28
"""Largest pack, in bytes: the zip stays below what would need zip64."""
_MANIFEST, _PACK = "manifest.json", "pack"
_DOCUMENT = re.compile(r"metadata/([a-z][a-z0-9-]{0,30})(?:\.([1-9][0-9]{0,15}))?\.json")
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_END = struct.Struct("<4sHHHHLLH")
_PIECE = 1 << 20
_TAIL = 1 << 16


def file_name(manifest: Manifest) -> str:
    """`PRODUCT-VERSION-TARGET.bundle`."""
    return f"{manifest.product}-{manifest.version}-{manifest.target}{SUFFIX}"


def write_bundle(path: Path, manifest_bytes: bytes, pack_file: BinaryIO, metadata: Mapping[str, bytes]) -> None:
    """Write a bundle to `path`, whole or not at all, and durably: a temporary file beside it, fsync, rename.

    `metadata` maps a role and its version, such as `root.1`, to signed bytes. Errors: `bundle.too_large`, `bundle.io`.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as out:
                _write_zip(out, manifest_bytes, pack_file, metadata)
                out.flush()
                os.fchmod(out.fileno(), 0o644)
                os.fsync(out.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
        durable.sync_directory(path.parent)
    except zipfile.LargeZipFile:
        raise BundleError("bundle.too_large", f"a pack is at most {MAX_PACK} bytes") from None
    except OSError as error:
        hint = "check the directory, its owner and the space on the disk"
        raise BundleError("bundle.io", f"{path} cannot be written: {error.strerror}", hint) from error


@dataclass(frozen=True, slots=True)
class Bundle:
    """A `.bundle` file of the right form, with a valid manifest; its signatures and its pack are not yet checked."""

    path: Path
    manifest_bytes: bytes
    manifest: Manifest
    metadata: Mapping[str, bytes]
    """Role and version, such as `root.1`, to the bytes in the file."""
    pack_size: int
    """Bytes."""
    _pack_start: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read everything but the pack.

        Errors: `bundle.not_found`, `bundle.not_a_bundle`, `bundle.truncated`, `bundle.malformed`, `bundle.too_large`,
        and those of `manifest.decode`.
        """
        try:
            with path.open("rb") as file:
                starts = _check_form(path, file)
                with zipfile.ZipFile(file) as archive:
                    manifest_bytes = archive.read(_MANIFEST)
                    documents = {name: archive.read(name) for name in archive.namelist()[2:]}
                    pack_size = archive.getinfo(_PACK).file_size
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
            raise _malformed(path, str(error)) from None
        except OSError as error:
            hint = "check the path; beamfleet bundle build TARBALL makes a bundle"
            raise BundleError("bundle.not_found", f"{path} cannot be read: {error.strerror}", hint) from error
        metadata = {name.removeprefix("metadata/").removesuffix(".json"): data for name, data in documents.items()}
        return cls(path, manifest_bytes, decode(manifest_bytes), metadata, pack_size, starts[_PACK])

    def open_pack(self) -> BinaryIO:
        """The pack alone, for reading from its first byte to its last."""
        return io.BufferedReader(_Section(self.path, self._pack_start, self.pack_size))

    def pack_chunks(self) -> Iterator[bytes]:
        """The pack in pieces of at most 1 MiB."""
        with self.open_pack() as file:
            while piece := file.read(_PIECE):
                yield piece

    def verify(self) -> None:
        """Read the whole pack against the manifest; error `bundle.altered`."""
        try:
            pack.verify(self.pack_chunks(), self.manifest)
        except BundleError as error:
            hint = "copy it again, or build it again"
            raise BundleError("bundle.altered", f"{self.path.name} is damaged: {error.message}", hint) from error

    def with_metadata(self, path: Path, metadata: Mapping[str, bytes]) -> None:
        """Write the same manifest and pack with other metadata to `path`, which may be this bundle's own."""
        with self.open_pack() as file:
            write_bundle(path, self.manifest_bytes, file, metadata)


class _Section(io.RawIOBase):
    """A part of a file, for reading in order."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._file.seek(start)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._file.readinto(view) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _write_zip(out: BinaryIO, manifest_bytes: bytes, pack_file: BinaryIO, metadata: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        archive.writestr(_info(_MANIFEST), manifest_bytes)
        size = 0
        with archive.open(_info(_PACK), "w") as entry:
            while piece := pack_file.read(_PIECE):
                size += len(piece)
                if size > MAX_PACK:
                    raise zipfile.LargeZipFile
                entry.write(piece)
        for name in sorted((f"metadata/{name}.json" for name in metadata), key=_order):
            archive.writestr(_info(name), metadata[name.removeprefix("metadata/").removesuffix(".json")])


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    return info


def _order(name: str) -> tuple[str, int]:
    match = _DOCUMENT.fullmatch(name)
    if not match:
        raise BundleError("bundle.malformed", f"{name[:80]!r} is no name of metadata")
    return match[1], int(match[2] or 0)


def _check_form(path: Path, file: BinaryIO) -> dict[str, int]:
    """Hold the zip to the form that `write_bundle` gives it; returns where each entry's content starts."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != b"PK\3\4":
        hint = "build one with: beamfleet bundle build TARBALL"
        raise BundleError("bundle.not_a_bundle", f"{path} is not a .bundle file", hint)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    end = tail[-_END.size :]
    if not end.startswith(b"PK\5\6"):
        if 0 <= tail.find(b"PK\5\6") <= len(tail) - _END.size:
            raise _malformed(path, "something follows its end")
        raise BundleError("bundle.truncated", f"{path} ends too early", "copy it again")
    _, _, _, _, count, directory_size, directory_start, comment = _END.unpack(end)
    if comment or directory_start + directory_size + _END.size != size or count > MAX_DOCUMENTS + 2:
        raise _malformed(path, "its directory is not where it should be")
    if directory_size > count * 128:
        raise _malformed(path, "its directory is too large")
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    if len(infos) != count:
        raise _malformed(path, "its directory does not have the entries that it announces")
    _check_names(path, [info.filename for info in infos])
    starts: dict[str, int] = {}
    position = 0
    for info in infos:
        starts[info.filename] = position + _LOCAL.size + len(info.filename)
        _check_entry(path, file, info, position)
        position = starts[info.filename] + info.file_size
    if position != directory_start:
        raise _malformed(path, "it holds bytes that belong to no entry")
    return starts


def _check_entry(path: Path, file: BinaryIO, info: zipfile.ZipInfo, position: int) -> None:
    limit = {_MANIFEST: MAX_SIZE, _PACK: MAX_PACK}.get(info.filename, MAX_METADATA)
    if info.file_size > limit:
        raise BundleError("bundle.too_large", f"{info.filename} in {path} is larger than {limit} bytes")
    name = info.filename.encode()
    file.seek(position)
    header = file.read(_LOCAL.size + len(name))
    if len(header) != _LOCAL.size + len(name) or info.header_offset != position or info.extra or info.comment:
        raise _malformed(path, f"{info.filename} is not where it should be")
    signature, _, flags, method, _, _, crc, stored, plain, name_size, extra = _LOCAL.unpack_from(header)
    if (
        (signature, flags, method, extra, name_size) != (b"PK\3\4", 0, 0, 0, len(name))
        or (info.flag_bits, info.compress_type, info.compress_size) != (0, 0, info.file_size)
        or (crc, stored, plain) != (info.CRC, info.file_size, info.file_size)
        or header[_LOCAL.size :] != name
    ):
        raise _malformed(path, f"{info.filename} is not stored as it should be")


def _check_names(path: Path, found: list[str]) -> None:
    if found[:2] != [_MANIFEST, _PACK] or len(set(found)) != len(found):
        raise _malformed(path, "it does not begin with manifest.json and pack")
    documents = found[2:]
    if not all(_DOCUMENT.fullmatch(name) for name in documents) or sorted(documents, key=_order) != documents:
        raise _malformed(path, "it holds something other than metadata, or that in another order")


def _malformed(path: Path, why: str) -> BundleError:
    return BundleError("bundle.malformed", f"{path} is not a bundle as beamfleet writes them: {why}", "build it again")
