"""The machine, as /proc and /sys tell it: here, and on boards that are laid out in a directory."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import host
from beamfleet_bundles import messages
from msgspec import convert

MEMINFO = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     400 kB\n"


def board(root: Path, **files: str) -> str:
    """A tree with these files; `__` in a name stands for `/`."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


def device_of(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def disk(root: Path, *, life_time: str, below: str = "") -> str:
    """An eMMC with a partition, and what lies upon it, as sysfs has it. The filesystem of `root` is upon that."""
    part = root / "sys/devices/mmc0/block/mmcblk0/mmcblk0p2"
    part.mkdir(parents=True)
    whole = part.parent / "device"
    whole.mkdir()
    (whole / "life_time").write_text(life_time)
    upper = part
    if below:
        upper = root / "sys/devices/virtual/block/dm-0"
        (upper / "slaves").mkdir(parents=True)
        (upper / "slaves/mmcblk0p2").symlink_to(part)
    numbers = root / "sys/dev/block"
    numbers.mkdir(parents=True)
    (numbers / device_of(root)).symlink_to(upper)
    return str(root)


def test_this_machine_is_read() -> None:
    section = host.look("/")
    known = convert(section, messages.Host)
    assert isinstance(known.memory, tuple)
    assert isinstance(known.disk, tuple)
    assert 0 < known.memory[0] <= known.memory[1]
    assert 0 < known.disk[0] <= known.disk[1]
    assert isinstance(known.uptime_s, int)
    assert abs(known.uptime_s - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60


def test_what_a_machine_does_not_tell_is_missing(tmp_path: Path) -> None:
    assert set(host.look(str(tmp_path / "nowhere"), str(tmp_path))) == {"load", "uptime_s"}


def test_a_filesystem_that_has_no_bound_tells_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    here = list(os.statvfs("/"))
    here[5] = here[7] = 2**64 - 1  # f_files, f_favail
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(here))
    section = host.look("/")
    assert "disk" in section
    assert "inodes" not in section


def test_memory_is_what_is_available_of_all(tmp_path: Path) -> None:
    assert host.look("/", board(tmp_path, proc__meminfo=MEMINFO))["memory"] == [400 << 10, 1000 << 10]
    assert "memory" not in host.look("/", board(tmp_path, proc__meminfo="MemTotal: 1000 kB\nMemAvailable: x kB\n"))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"thermal__thermal_zone0__temp": "41000\n", "thermal__thermal_zone1__temp": "48312\n"}, 48_312),
        ({"thermal__thermal_zone0__temp": "-12000\n"}, -12_000),
        ({"thermal__thermal_zone0__temp": "-274000\n", "hwmon__hwmon0__temp1_input": "39000\n"}, 39_000),
        ({"hwmon__hwmon0__temp1_input": "39000\n", "hwmon__hwmon0__temp1_crit": "99000\n"}, 39_000),
        ({"thermal__thermal_zone0__temp": "2147483647\n"}, None),
        ({"thermal__thermal_zone0__temp": "warm\n"}, None),
        ({"thermal__cooling_device0__cur_state": "1\n"}, None),
        ({}, None),
    ],
)
def test_the_temperature_is_that_of_the_hottest_sensor_that_is_to_be_believed(
    tmp_path: Path, files: dict[str, str], told: int | None
) -> None:
    root = board(tmp_path, **{f"sys__class__{name}": content for name, content in files.items()})
    assert host.look("/", root).get("temperature") == told


@pytest.mark.parametrize("below", ["", "encrypted"])
@pytest.mark.parametrize(
    ("life_time", "told"),
    [("0x01 0x01\n", 10), ("0x02 0x05\n", 50), ("0x0b 0x01\n", 110), ("0x00 0x00\n", None), ("worn out\n", None)],
)
def test_an_emmc_tells_its_wear_also_below_a_volume(
    tmp_path: Path, life_time: str, told: int | None, below: str
) -> None:
    assert host.look(str(tmp_path), disk(tmp_path, life_time=life_time, below=below)).get("wear") == told


@pytest.mark.parametrize(
    ("bad", "spare", "told"), [("5", "15", 25), ("0", "20", 0), ("20", "0", 100), ("0", "0", None)]
)
def test_of_raw_flash_the_spare_blocks_are_told(tmp_path: Path, bad: str, spare: str, told: int | None) -> None:
    mounts = f"21 1 {device_of(tmp_path)} / / rw - ubifs ubi0:rootfs rw\n"
    ubi: dict[str, Any] = {"bad_peb_count": f"{bad}\n", "reserved_for_bad": f"{spare}\n"}
    files = {f"sys__class__ubi__ubi0__{name}": content for name, content in ubi.items()}
    root = board(tmp_path, proc__self__mountinfo=mounts, **files)
    assert host.look(str(tmp_path), root).get("wear") == told


def test_a_look_is_cheap() -> None:
    began = time.process_time()
    for _ in range(50):
        host.look("/")
    assert (time.process_time() - began) / 50 < 0.005
