"""Owns what a disk's bytes say of its partitions and file systems, as pure rules; opens nothing, mounts nothing.

The table is what `sfdisk --json` prints, and it comes from an image that somebody else made: whatever does not fit into
the disk, or lies over something else, is refused whole.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beamfleet_server.flash.errors import FlashError

HEAD_BYTES = 128 << 10
"""What `filesystem_of` wants to see of a partition."""
MOUNTABLE = frozenset({"ext4", "xfs", "btrfs", "f2fs"})
"""File systems that a root can be written on, as they are mounted; ext4 stands for ext2 and ext3 too."""
_MOST = 256
_SECTORS = frozenset({512, 1024, 2048, 4096})
_EXTENDED = frozenset({"5", "f", "85"})
_MAGIC = (
    (1080, b"\x53\xef", "ext4"),
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (536, b"LVM2 001", "LVM"),
    (4086, b"SWAPSPACE2", "swap"),
    (82, b"FAT32", "vfat"),
    (54, b"FAT", "vfat"),
)
_EXT_STATE, _EXT_COMPATIBLE, _EXT_INCOMPATIBLE, _ERRORS, _JOURNAL, _RECOVER = 1082, 1116, 1120, 2, 4, 4
_AGAIN = "see `sfdisk --list` of it; make the image anew if its maker wrote this"


@dataclass(frozen=True, slots=True)
class Partition:
    """Where a file system can be, in bytes from the disk's beginning. Number 0: the whole disk, which has no table."""

    number: int
    start: int
    size: int

    def __str__(self) -> str:
        return f"partition {self.number}" if self.number else "the whole of it"


def read_table(text: str, disk_bytes: int) -> tuple[Partition, ...]:
    """The partitions that can hold something, by number. `flash.partition_table` for what cannot be true."""
    try:
        table = json.loads(text)["partitiontable"]
        label, sector, device = table["label"], table.get("sectorsize", 512), table["device"]
        entries = table.get("partitions", [])
        if label not in {"dos", "gpt"} or table["unit"] != "sectors":
            raise _wrong(f"it is of a kind that we do not read: {label}")
        if sector not in _SECTORS or not isinstance(device, str) or not isinstance(entries, list):
            raise _wrong("it has no sectors or devices that could be")
        if len(entries) > _MOST:
            raise _wrong(f"it has {len(entries)} partitions")
        found = [(_partition(entry, device, sector), str(entry.get("type", "")).lower()) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _wrong("sfdisk says of it what we do not understand") from None
    containers = [part for part, kind in found if label == "dos" and kind in _EXTENDED]
    parts = sorted((part for part, _ in found if part not in containers), key=lambda part: part.start)
    for part in (*parts, *containers):
        if part.start + part.size > disk_bytes:
            raise _wrong(f"{part} ends at byte {part.start + part.size} of {disk_bytes}")
    for one, other in itertools.pairwise(parts):
        if one.start + one.size > other.start:
            raise _wrong(f"{one} and {other} lie over each other")
    numbers = [part.number for part, _ in found]
    if len(set(numbers)) != len(numbers):
        raise _wrong("it has two partitions of one number")
    return tuple(sorted(parts, key=lambda part: part.number))


def choose(roots: Sequence[Partition], wanted: int | None, all_of_it: Mapping[Partition, str], name: str) -> Partition:
    """The partition to flash: the wanted one, else the only one of `roots`, those that hold a Linux system. `all_of_it`
    has the file system of every partition, for the refusal `flash.partition`."""
    listed = ", ".join(f"{part.number} ({kind or 'unknown'})" for part, kind in all_of_it.items())
    if wanted is not None:
        for part in all_of_it:
            if part.number == wanted:
                return part
        raise FlashError(
            "flash.partition",
            f"{name} has no partition {wanted}; it has {listed or 'none'}",
            "without a number the only partition with a Linux system is taken",
        )
    if len(roots) == 1:
        return roots[0]
    if roots:
        numbers = ", ".join(str(part.number) for part in roots)
        raise FlashError(
            "flash.partition",
            f"{name} has several partitions with a Linux system: {numbers}",
            f"name one: {name}:{roots[0].number}",
        )
    raise FlashError(
        "flash.partition",
        f"no partition of {name} has /etc and /usr on a file system that can be written; it has {listed or 'none'}",
        "is this the image of a whole system, unpacked? A read-only root (squashfs) gets the agent in its build",
    )


def filesystem_of(head: bytes) -> str:
    """The kind of file system, or of what else is there, by its first `HEAD_BYTES`; "" when it is none that we know."""
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return ""


def has_journal(head: bytes) -> bool:
    """Whether an ext4 has one; ext2 has none."""
    return filesystem_of(head) == "ext4" and bool(_word(head, _EXT_COMPATIBLE) & _JOURNAL)


def needs_recovery(head: bytes) -> bool:
    """Whether an ext4 was not unmounted, so that its journal has to be replayed."""
    return filesystem_of(head) == "ext4" and bool(_word(head, _EXT_INCOMPATIBLE) & _RECOVER)


def is_damaged(head: bytes) -> bool:
    """Whether an ext4 knows of errors in itself."""
    return filesystem_of(head) == "ext4" and bool(_word(head, _EXT_STATE) & _ERRORS)


def _word(head: bytes, offset: int) -> int:
    return int.from_bytes(head[offset : offset + 2], "little")


def _partition(entry: Mapping[str, Any], device: str, sector: int) -> Partition:
    node, start, size = entry["node"], entry["start"], entry["size"]
    tail = node.removeprefix(device)
    digits = tail.removeprefix("p")
    if tail == node or not digits.isdecimal() or not digits.isascii() or not 1 <= int(digits) <= _MOST:
        raise _wrong("a partition has no number")
    if type(start) is not int or type(size) is not int or start < 1 or size < 1:
        raise _wrong(f"partition {digits} begins or ends nowhere")
    return Partition(int(digits), start * sector, size * sector)


def _wrong(why: str) -> FlashError:
    return FlashError("flash.partition_table", f"the partition table cannot be used: {why}", _AGAIN)
