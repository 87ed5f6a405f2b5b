"""Disks that are too small, for the tests that need one."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SmallDisk = Callable[[Path], Path]


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """Mounts a filesystem of 8 MiB on a new directory; skips with the reason where nothing can be mounted."""
    mounted: list[Path] = []

    def mount(place: Path) -> Path:
        place.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "beamfleet-test", str(place)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
