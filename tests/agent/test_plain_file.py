"""What another user has put in the place of a file is not read, and holds nobody up."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_agent import plain_file


def test_the_beginning_of_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one two")
    assert plain_file.head(str(tmp_path / "log"), 3) == b"one"
    assert plain_file.head(str(tmp_path / "log"), 99) == b"one two"


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    "put",
    [
        lambda place: place.symlink_to("/etc/hostname"),
        os.mkfifo,
        lambda place: place.mkdir(),
        lambda place: place.symlink_to("/dev/zero"),
        lambda _: None,
    ],
    ids=["link", "fifo", "folder", "link to a device", "nothing"],
)
def test_what_is_no_plain_file_is_none(tmp_path: Path, put: Callable[[Path], object]) -> None:
    place = tmp_path / "log"
    put(place)
    before = descriptors()
    with pytest.raises(OSError, match="log"):
        plain_file.opened(str(place))
    assert plain_file.head(str(place), 99) == b""
    assert descriptors() == before
