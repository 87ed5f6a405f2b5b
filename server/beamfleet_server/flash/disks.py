"""Owns what this machine knows of a block device, and the guards: which one must not be written to. Writes nothing.

The guards are a pure rule over `Disk`. They are not the last word: whoever writes opens the device exclusively, which
the kernel refuses for whatever is mounted, swapped to or part of something else.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import Problem

SYS = Path("/sys")
_SECTOR = 512
_SYSTEM_PLACES = frozenset({"/", "/usr", "/var", "/boot", "/boot/efi", "/boot/firmware", "/home", "/etc"})


@dataclass(frozen=True, slots=True)
class Disk:
    """A block device as the kernel and udev know it."""

    path: Path
    name: str
    """The kernel's: sdb, mmcblk0."""
    number: int
    size: int
    model: str = ""
    serial: str = ""
    removable: bool = False
    """Whether it can be pulled out while it runs: a card, a stick."""
    read_only: bool = False
    whole: bool = True
    """Not a partition."""
    mounts: tuple[str, ...] = ()
    """Where it, a part of it or what is built on it is mounted."""
    swaps: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    """What the kernel has built on it: dm-0, md127."""

    @property
    def identity(self) -> str:
        """What tells it from another one: its serial number if it has one, else its name."""
        return f"{self.model}|{self.serial or self.name}|{self.size}"

    def __str__(self) -> str:
        kind = "removable" if self.removable else "fixed"
        named = ", ".join(filter(None, (self.model or "no model", self.serial and f"serial {self.serial}")))
        return f"{self.path} ({show_size(self.size)}, {named}, {kind})"


def show_size(size: int) -> str:
    """As it stands on the package: 32.0 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


def problems(disk: Disk, image_bytes: int) -> tuple[Problem, ...]:
    """Why not one byte may be written to this device. Pure."""
    found = []
    if not disk.whole:
        found.append(
            Problem("flash.block_device", f"{disk.path} is a partition", "give the whole device, such as /dev/sdb")
        )
    if system := sorted(_SYSTEM_PLACES.intersection(disk.mounts)):
        found.append(
            Problem("flash.system_disk", f"this machine runs from {disk.path}: {', '.join(system)}", "give another one")
        )
    elif disk.mounts:
        shown = ", ".join(disk.mounts[:5])
        found.append(
            Problem(
                "flash.device_busy", f"{disk.path} is mounted: {shown}", f"see that it is the right one; umount {shown}"
            )
        )
    if disk.swaps:
        found.append(
            Problem("flash.system_disk", f"this machine swaps to {', '.join(disk.swaps)}", f"swapoff {disk.swaps[0]}")
        )
    if disk.holders:
        shown = ", ".join(disk.holders)
        found.append(
            Problem(
                "flash.device_busy", f"{disk.path} is a part of {shown}", "stop that first: dmsetup, mdadm, vgchange"
            )
        )
    if disk.read_only:
        found.append(Problem("flash.read_only", f"{disk.path} is write-protected", "see the switch on the card's side"))
    if image_bytes > disk.size:
        found.append(
            Problem(
                "flash.device_small",
                f"{disk.path} has {disk.size} bytes, the image {image_bytes}",
                "take a larger one, or make the image smaller",
            )
        )
    return tuple(found)


def look(path: Path) -> Disk:
    """What is known of the block device at `path`; `flash.block_device` when it is none."""
    try:
        known = path.stat()
    except OSError as error:
        raise FlashError(
            "flash.block_device", f"{path} cannot be looked at: {error.strerror}", "lsblk shows what is there"
        ) from None
    if not stat.S_ISBLK(known.st_mode):
        raise FlashError(
            "flash.block_device",
            f"{path} is no block device",
            "an image file is flashed by --image, a directory by --root",
        )
    place = _place(known.st_rdev)
    whole = not (place / "partition").exists()
    disk = place if whole else place.parent
    udev = _udev(known.st_rdev)
    family = list(_family(disk))
    numbers = {_number(each) for each in family}
    nodes = {f"/dev/{each.name}" for each in family}
    return Disk(
        path=path,
        name=place.name,
        number=known.st_rdev,
        size=int(_text(place / "size") or 0) * _SECTOR,
        model=_model(disk) or udev.get("ID_MODEL", ""),
        serial=_serial(disk) or udev.get("ID_SERIAL_SHORT", ""),
        removable=_is_removable(disk),
        read_only=_text(place / "ro") == "1",
        whole=whole,
        mounts=tuple(sorted(_mounts(numbers, nodes))),
        swaps=tuple(sorted(_swaps(numbers))),
        holders=tuple(sorted(each.name for each in family if each != disk and each.parent != disk)),
    )


@contextlib.contextmanager
def exclusive(disk: Disk) -> Iterator[int]:
    """The device for us alone."""
    try:
        device = os.open(disk.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise FlashError(
            "flash.device_busy",
            f"{disk.path} cannot be had for this alone: {error.strerror}",
            "lsblk shows who uses it; a desktop mounts cards by itself: umount it",
        ) from None
    try:
        if os.fstat(device).st_rdev != disk.number:
            raise FlashError(
                "flash.device_changed", f"{disk.path} is another device than it was", "look at the plan again"
            )
        yield device
    finally:
        os.close(device)


def _place(number: int) -> Path:
    return (SYS / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve()


def _family(disk: Path) -> Iterator[Path]:
    """A disk, its partitions, and what the kernel has built on any of them, each once."""
    seen: set[Path] = set()
    todo = [disk]
    while todo:
        each = todo.pop()
        if each in seen:
            continue
        seen.add(each)
        yield each
        todo += [part.parent for part in each.glob("*/partition")]
        todo += [holder.resolve() for holder in each.glob("holders/*")]
        todo += [loop.parent.parent for loop in _loops_over(each.name)]


def _loops_over(name: str) -> Iterator[Path]:
    for backing in (SYS / "block").glob("loop*/loop/backing_file"):
        if _text(backing) == f"/dev/{name}":
            yield backing


def _number(place: Path) -> int:
    major, _, minor = _text(place / "dev").partition(":")
    return os.makedev(int(major or 0), int(minor or 0))


def _mounts(numbers: set[int], nodes: set[str]) -> Iterator[str]:
    """Places of the mounts of these devices. btrfs and overlays have numbers of their own, but name their source."""
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        number, place, source = fields.split()[2], fields.split()[4], rest.split()[1]
        major, _, minor = number.partition(":")
        if os.makedev(int(major), int(minor)) in numbers or source in nodes:
            yield place


def _swaps(numbers: set[int]) -> Iterator[str]:
    """Swap areas on these devices, or in files on them."""
    for line in Path("/proc/swaps").read_text(errors="replace").splitlines()[1:]:
        place = line.split()[0]
        try:
            known = Path(place).stat()
        except OSError:
            continue
        if (known.st_rdev if stat.S_ISBLK(known.st_mode) else known.st_dev) in numbers:
            yield place


def _model(disk: Path) -> str:
    names = [_text(disk / "device" / name) for name in ("vendor", "model")]
    if disk.name.startswith("loop"):
        return "loop device"
    return " ".join(name for name in names if name and not name.startswith("0x")) or _text(disk / "device/name")


def _serial(disk: Path) -> str:
    found = (disk / name for name in ("device/serial", "serial", "loop/backing_file"))
    return next(filter(None, map(_text, found)), "")


def _is_removable(disk: Path) -> bool:
    return _text(disk / "removable") == "1" or disk.name.startswith("mmcblk") or "/usb" in str(disk)


def _udev(number: int) -> dict[str, str]:
    """What udev has found out, where it runs."""
    lines: Sequence[str] = _text(Path(f"/run/udev/data/b{os.major(number)}:{os.minor(number)}")).splitlines()
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("E:") and "=" in line)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
