"""Owns how the machine is: load, memory, room on the slots' filesystem, temperature, wear of the flash, uptime.

A few small files of /proc and /sys at each look; what a machine does not tell is missing, and nothing is invented.
Part of the resident agent: never changes anything, keeps nothing between two looks.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

HOTTEST, COLDEST = 200_000, -100_000
"""Thousandths of a degree between which a sensor is believed."""
WEAR_STEP = 10
"""eMMC tells the life it has used in tenths: 1 is up to 10 percent, 11 is more than all."""
BOUNDLESS = 2**63
LONGEST_CHAIN = 4
"""Devices upon devices (encryption, volumes) down to the flash itself."""


def look(slots: str, root: str = "") -> dict[str, Any]:
    """The section `host` of a health report, without the network. root: whose /proc and /sys."""
    found = {
        "load": _load(),
        "memory": _memory(root),
        **_room(slots),
        "temperature": _temperature(root),
        "wear": _wear(slots, root),
        "uptime_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
    }
    return {name: value for name, value in found.items() if value is not None}


def _load() -> list[int] | None:
    try:
        return [round(value * 100) for value in os.getloadavg()]
    except OSError:
        return None


def _memory(root: str) -> list[int] | None:
    """[available, total] bytes."""
    kib = dict[str, int]()
    for line in _read(f"{root}/proc/meminfo").splitlines()[:8]:
        name, _, value = line.partition(":")
        if name in ("MemAvailable", "MemTotal") and (words := value.split()) and words[0].isdecimal():
            kib[name] = int(words[0])
    if len(kib) < 2:
        return None
    return [kib["MemAvailable"] << 10, kib["MemTotal"] << 10]


def _room(slots: str) -> dict[str, list[int]]:
    """[free, total] bytes and inodes; btrfs counts no inodes, and who has no bound says something huge."""
    try:
        room = os.statvfs(slots)
    except OSError:
        return {}
    inodes = [room.f_favail, room.f_files] if room.f_files else None
    disk = [room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize]
    return {name: pair for name, pair in (("disk", disk), ("inodes", inodes)) if pair and max(pair) < BOUNDLESS}


def _temperature(root: str) -> int | None:
    """Of the hottest zone; of the hottest sensor where the kernel has no zones."""
    for place in (f"{root}/sys/class/thermal", f"{root}/sys/class/hwmon"):
        sensors = [f"{place}/{each}/{name}" for each in _names(place) for name in _names(f"{place}/{each}")]
        told = [_read(sensor).strip() for sensor in sensors if _is_sensor(os.path.basename(sensor))]
        values = [int(text) for text in told if text.removeprefix("-").isdecimal() and len(text) < 10]
        if believed := [value for value in values if COLDEST < value < HOTTEST]:
            return max(believed)
    return None


def _is_sensor(name: str) -> bool:
    return name == "temp" or (name.startswith("temp") and name.endswith("_input"))


def _wear(slots: str, root: str) -> int | None:
    """Percent of the life of the flash below the slots that are used: as eMMC says, or of the spare blocks of UBI."""
    for device in _devices(slots, root):
        for words in (_read(f"{device}/device/life_time").split(), _read(f"{device}/../device/life_time").split()):
            tenths = [int(word, 16) for word in words if word.startswith("0x") and len(word) == 4]
            if max(tenths, default=0):
                return min(max(tenths) * WEAR_STEP, 200)
        bad, spare = (_read(f"{device}/{name}").strip() for name in ("bad_peb_count", "reserved_for_bad"))
        if bad.isdecimal() and spare.isdecimal() and int(bad) + int(spare):
            return int(bad) * 100 // (int(bad) + int(spare))
    return None


def _devices(slots: str, root: str) -> Iterator[str]:
    """The device of the slots' filesystem in /sys, and those below it."""
    try:
        number = os.stat(slots).st_dev
    except OSError:
        return
    waiting = [f"{root}/sys/dev/block/{os.major(number)}:{os.minor(number)}"]
    source = _source(slots, f"{os.major(number)}:{os.minor(number)}", root)
    name = os.path.basename(source)
    if name.startswith("ubi"):
        waiting = [f"{root}/sys/class/ubi/{name.partition(':')[0].partition('_')[0]}"]
    elif not os.path.exists(waiting[0]) and name:
        waiting = [f"{root}/sys/class/block/{name}"]
    for _ in range(LONGEST_CHAIN):
        below = list[str]()
        for device in waiting:
            yield os.path.realpath(device)
            below += [f"{device}/slaves/{lower}" for lower in _names(f"{device}/slaves")]
        waiting = below


def _source(path: str, number: str, root: str) -> str:
    """What is mounted under `path`, as /proc/self/mountinfo names it."""
    real, point, source = os.path.realpath(path) + "/", "", ""
    for line in _read(f"{root}/proc/self/mountinfo", 262_144).splitlines():
        left, _, right = line.partition(" - ")
        words, kind = left.split(), right.split()
        if len(words) < 5 or len(kind) < 2 or not (words[2] == number or kind[0] == "btrfs"):
            continue
        if real.startswith(words[4].rstrip("/") + "/") and len(words[4]) >= len(point):
            point, source = words[4], kind[1]
    return source


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(path: str, most: int = 16_384) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(most)
    except OSError:
        return ""
