"""Owns the framing of tar archives: headers, long names, padding, the end. Knows no limits and no policy of names.

`members` reads a byte stream once, front to back, ustar, GNU and pax; what it does not understand it refuses. It is not
`tarfile`: that one bridges over bad headers, takes any tail, and reads extended headers of any size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from beamfleet_bundles.errors import BundleError

BLOCK = 512
_MAX_EXTENDED = 1 << 16
_MAX_TAIL = 1 << 20
_ZEROS = bytes(BLOCK)
_KINDS: dict[bytes, "Kind"] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hard link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
}

Kind = Literal["file", "directory", "link", "hard link", "device", "fifo"]


class Reader(Protocol):
    """A stream of bytes."""

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only where the stream ends well; raises where it ends badly."""


@dataclass(frozen=True, slots=True)
class Member:
    """A header: `size` bytes of content follow for a file, none for the others."""

    path: str
    kind: Kind
    mode: int
    size: int
    target: str
    """Where a link or hard link leads; empty for the others."""


def members(stream: Reader) -> Iterator[tuple[Member, "Content"]]:
    """Each member with its content, which is gone once the next one is asked for.

    Errors: `archive.not_an_archive`, `archive.truncated`, `archive.corrupt`, `archive.member_type`, `archive.name`,
    `archive.trailing_data`, `archive.header_too_large`.
    """
    extended: dict[str, str] = {}
    first = True
    while (header := _block(stream, first)) != _ZEROS:
        _check_sum(header, first)
        first = False
        type_flag, size = header[156:157], _number(header[124:136])
        if type_flag in b"LKxg":
            extended |= _extended(stream, type_flag, size)
            continue
        member = _member(header, type_flag, size, extended)
        extended = {}
        content = Content(stream, member.size, member.path)
        yield member, content
        content.skip()
    if extended:
        raise BundleError("archive.corrupt", "the archive ends where a member should follow")
    _check_tail(stream)


class Content:
    """The content of one member."""

    def __init__(self, stream: Reader, size: int, path: str) -> None:
        self._stream = stream
        self._path = path
        self._left = size
        self._padding = -size % BLOCK

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the member's end. Error: `archive.truncated`."""
        piece = self._exactly(min(size, self._left))
        self._left -= len(piece)
        return piece

    def skip(self) -> None:
        """Go to the next header."""
        while self.read(1 << 16):
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            message = f"the archive ends in the middle of {self._path[:160]!r}"
            raise BundleError("archive.truncated", message, "pack or copy it again")
        return data


def _block(stream: Reader, first: bool) -> bytes:
    block = stream.read(BLOCK)
    if len(block) < BLOCK and first:
        raise _not_an_archive()
    if len(block) < BLOCK:
        raise BundleError("archive.truncated", "the archive ends without an end marker", "pack or copy it again")
    return block


def _check_sum(header: bytes, first: bool) -> None:
    try:
        right = _number(header[148:156]) == sum(header) - sum(header[148:156]) + 8 * ord(" ")
    except BundleError:
        right = False
    if not right:
        raise (
            _not_an_archive()
            if first
            else BundleError("archive.corrupt", "the archive has a damaged header", "pack or copy it again")
        )


def _not_an_archive() -> BundleError:
    return BundleError("archive.not_an_archive", "the file is not a tar archive")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's binary form; its sign and the high bits beyond 64 are of no use here
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0") or b"0"
    if digits.strip(b"01234567"):
        raise BundleError("archive.corrupt", "the archive has a header with a broken number")
    return int(digits, 8)


def _text(field: bytes) -> str:
    try:
        return field.split(b"\0")[0].decode()
    except UnicodeDecodeError:
        raise BundleError("archive.name", f"the name {field[:80]!r} in the archive is not UTF-8") from None


def _extended(stream: Reader, type_flag: bytes, size: int) -> dict[str, str]:
    """What a header before the member's own says: its path, its target, its size."""
    if size > _MAX_EXTENDED:
        raise BundleError("archive.header_too_large", f"the archive has a header of {size} bytes")
    content = Content(stream, size, "a header")
    data = content.read(size)
    content.skip()
    if type_flag in b"LK":
        return {"path" if type_flag == b"L" else "linkpath": _text(data)}
    records = _records(data)
    if any(key.startswith("GNU.sparse") for key in records):
        raise BundleError("archive.member_type", "the archive holds a sparse file", "pack it without --sparse")
    found = {key: value for key, value in records.items() if key in ("path", "linkpath", "size")}
    if type_flag == b"g" and found:
        raise BundleError("archive.member_type", "the archive gives one path or size to all of its members")
    return found


def _records(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        size = int(length) if length.isdigit() and len(length) < 8 else 0
        record = data[len(length) + 1 : size]
        key, equals, value = record.partition(b"=")
        if not space or not equals or size > len(data) or record[-1:] != b"\n":
            raise BundleError("archive.corrupt", "the archive has a broken pax header")
        name = key.decode(errors="replace")
        if name in ("path", "linkpath", "size"):
            if b"\0" in value:
                raise BundleError("archive.name", "the archive has a name with a zero byte")
            records[name] = _text(value[:-1])
        else:
            records[name] = ""
        data = data[size:]
    return records


def _member(header: bytes, type_flag: bytes, size: int, extended: dict[str, str]) -> Member:
    path = extended.get("path")
    if path is None:  # the header's own name is cut short where an extended one is needed
        path = _text(header[:100])
        if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
            path = f"{prefix}/{path}"
    if "size" in extended:
        if not (extended["size"].isascii() and extended["size"].isdigit() and len(extended["size"]) < 20):
            raise BundleError("archive.corrupt", f"{path} has a broken size")
        size = int(extended["size"])
    kind = _KINDS.get(type_flag)
    if kind is None:
        raise BundleError("archive.member_type", f"{path} is of the unknown type {type_flag!r}")
    if kind == "file" and path.endswith("/"):
        kind = "directory"
    if size and kind != "file":
        raise BundleError("archive.corrupt", f"{path} is a {kind} with content")
    target = ""
    if kind in ("link", "hard link"):
        target = extended["linkpath"] if "linkpath" in extended else _text(header[157:257])
    return Member(path, kind, _number(header[100:108]), size, target)


def _check_tail(stream: Reader) -> None:
    """After the first zero block there is only padding, to the end of the stream."""
    tail = 0
    while piece := stream.read(1 << 16):
        tail += len(piece)
        if piece.strip(b"\0") or tail > _MAX_TAIL:
            raise BundleError("archive.trailing_data", "something follows the end of the archive", "pack it again")
