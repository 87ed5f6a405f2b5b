"""An image is written to a block device: all of it, provably, also after a pull or a kill, and never to a wrong one."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from beamfleet_server.flash import disks, loops, source, writing
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.target import Progress

from tests.support import loop_device
from tests.support.loop_device import Card

pytestmark = [
    pytest.mark.suite(name="flash"),
    pytest.mark.skipif(bool(loop_device.missing()), reason=loop_device.missing()),
]

SIZE = 5 * writing.SEGMENT + writing.CHUNK + 512
SPACE = 6 * writing.SEGMENT


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory where there is one: what is tried here is not how fast this machine's disk is."""
    place = Path("/dev/shm")
    room = place if place.is_dir() and shutil.disk_usage(place).free > 10 * SPACE else tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="beamfleet-", dir=room) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def image(memory: Path) -> Path:
    path = memory / "board.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def state(memory: Path) -> Iterator[Path]:
    yield memory / "state"
    (memory / "state").unlink(missing_ok=True)


@pytest.fixture
def card(memory: Path) -> Iterator[Card]:
    one = Card(memory / "card", SPACE)
    yield one
    one.detach()
    one.backing.unlink()


def silent(_what: str, _done: int, _total: int) -> None:
    return


def write(image: Path, card: Card, state: Path, progress: Progress = silent) -> writing.Written:
    disk = disks.look(card.node)
    assert disks.problems(disk, SIZE) == ()
    with source.opened(image, disk.size, silent) as opened, disks.exclusive(disk) as device:
        memory = writing.Memory(state, opened.identity, disk.identity, opened.size)
        return writing.write(opened, device, str(disk.path), memory, progress)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(SIZE)).hexdigest()


class Event:
    """Does something once, when the work `what` has come to `at` bytes."""

    def __init__(self, what: str, at: int, act: object) -> None:
        self._what, self._at, self._act = what, at, act
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.seen.append((what.partition(" ")[0], done, total))
        if self._act is not None and what.startswith(self._what) and done >= self._at:
            act, self._act = self._act, None
            assert callable(act)
            act()


def test_a_device_begins_with_the_image_and_ends_as_it_was(image: Path, card: Card, state: Path) -> None:
    with card.backing.open("r+b") as file:
        file.seek(SPACE - 512)
        file.write(b"\xaa" * 512)
    told = Event("", 0, None)
    written = write(image, card, state, told)
    assert (written.size, written.resumed_at) == (SIZE, 0)
    assert digest(card.node) == digest(image)
    assert card.backing.read_bytes()[-512:] == b"\xaa" * 512
    assert not state.exists()
    assert told.seen[-1] == ("verify", SIZE, SIZE)
    assert [done for what, done, _ in told.seen if what == "write"] == sorted(
        done for what, done, _ in told.seen if what == "write"
    )


def test_a_pull_in_the_middle_is_said_and_the_next_attempt_goes_on_elsewhere(
    memory: Path, image: Path, card: Card, state: Path
) -> None:
    with pytest.raises(FlashError) as refused:
        write(image, card, state, Event("write", 5 * writing.SEGMENT, card.pull))
    assert refused.value.code == "flash.write_failed"
    assert str(card.node) in refused.value.message
    assert "plugged in" in refused.value.hint
    assert state.stat().st_mode & 0o777 == 0o600
    assert card.backing.read_bytes()[: writing.CHUNK] == bytes(writing.CHUNK), "half a card has no partition table"
    before = card.node
    other = Card(memory / "other", writing.SEGMENT)  # which takes the next node
    card.detach()
    third = Card(memory / "third", writing.SEGMENT)  # which takes the old one
    card.attach()
    try:
        assert card.node != before
        written = write(image, card, state)
    finally:
        other.detach()
        third.detach()
    assert written.resumed_at >= 2 * writing.SEGMENT
    assert digest(card.node) == digest(image)
    assert not state.exists()


def test_another_card_at_the_same_place_is_written_from_the_beginning(image: Path, card: Card, state: Path) -> None:
    with pytest.raises(FlashError):
        write(image, card, state, Event("write", 4 * writing.SEGMENT, card.pull))
    card.detach()
    card.backing.write_bytes(bytes(SPACE))
    card.attach()
    assert write(image, card, state).resumed_at == 0
    assert digest(card.node) == digest(image)


def test_a_changed_image_is_written_from_the_beginning(memory: Path, card: Card, state: Path) -> None:
    image = memory / "changing.img"
    image.write_bytes(os.urandom(SIZE))
    with pytest.raises(FlashError):
        write(image, card, state, Event("write", 4 * writing.SEGMENT, card.pull))
    card.detach()
    card.attach()
    image.write_bytes(os.urandom(SIZE))
    assert write(image, card, state).resumed_at == 0
    assert digest(card.node) == digest(image)


@pytest.mark.parametrize("said", [b"", b"{", b"null", b'{"segments": 5}', b"[" * 100_000])
def test_a_damaged_memory_is_no_memory(said: bytes, image: Path, card: Card, state: Path) -> None:
    state.write_bytes(said)
    assert write(image, card, state).resumed_at == 0


def test_a_device_that_gives_back_something_else_is_found_out(image: Path, card: Card, state: Path) -> None:
    def forge() -> None:
        with card.backing.open("r+b") as file:
            file.seek(3 * writing.SEGMENT + 7)
            file.write(b"forged")

    with pytest.raises(FlashError) as refused:
        write(image, card, state, Event("verify", writing.SEGMENT, forge))
    assert refused.value.code == "flash.verify_failed"
    assert f"bytes {3 * writing.SEGMENT} and {3 * writing.SEGMENT + writing.CHUNK}" in refused.value.message
    assert not state.exists()


WRITER = """
import sys
import tempfile
from pathlib import Path
from tests.flash.test_block import write
class At:
    def __init__(self, node): self.node = node
def progress(what, done, total):
    print(what.split()[0], done, flush=True)
write(Path(sys.argv[1]), At(Path(sys.argv[2])), Path(sys.argv[3]), progress)
"""


@pytest.mark.parametrize("at", [("write", 1), ("write", 3), ("write", 5), ("verify", 2)])
def test_a_killed_flash_goes_on_and_the_bytes_are_right(
    at: tuple[str, int], image: Path, card: Card, state: Path
) -> None:
    what = at[0]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, image, card.node, state], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            doing, done = line.split()
            if doing == what and int(done) >= at[1] * writing.SEGMENT:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    written = write(image, card, state)
    assert digest(card.node) == digest(image)
    if what == "verify":
        assert written.resumed_at == 5 * writing.SEGMENT


# --- which device


@contextmanager
def mounted(node: Path, at: Path) -> Iterator[None]:
    at.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", node], check=True)
    subprocess.run(["mount", node, at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


def codes(node: Path) -> list[str]:
    return [problem.code for problem in disks.problems(disks.look(node), SIZE)]


def test_the_disk_that_this_machine_runs_from_is_refused() -> None:
    number = Path("/").stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not place.exists():
        pytest.skip("the root of this machine is on no block device")
    assert "flash.system_disk" in codes(Path("/dev", place.resolve().name))


def test_a_mounted_device_is_refused_and_the_kernel_would_refuse_it_too(card: Card, tmp_path: Path) -> None:
    with mounted(card.node, tmp_path / "mount"):
        disk = disks.look(card.node)
        (problem,) = disks.problems(disk, SIZE)
        assert problem.code == "flash.device_busy"
        assert str(tmp_path / "mount") in problem.message
        with pytest.raises(FlashError) as refused, disks.exclusive(disk):
            pass
        assert refused.value.code == "flash.device_busy"


def test_a_device_that_is_written_to_cannot_be_mounted_meanwhile(card: Card, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", card.node], check=True)
    with disks.exclusive(disks.look(card.node)):
        done = subprocess.run(["mount", card.node, tmp_path], capture_output=True, check=False)
    assert done.returncode != 0


def test_a_device_that_this_machine_swaps_to_is_refused(card: Card) -> None:
    subprocess.run(["mkswap", card.node], check=True, capture_output=True)
    if subprocess.run(["swapon", card.node], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine cannot swap")
    try:
        assert codes(card.node) == ["flash.system_disk"]
    finally:
        subprocess.run(["swapoff", card.node], check=True)


def test_a_device_that_something_else_is_built_on_is_refused(card: Card) -> None:
    upper = Path(
        subprocess.run(
            ["losetup", "-f", "--show", card.node], check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    try:
        (problem,) = disks.problems(disks.look(card.node), SIZE)
    finally:
        subprocess.run(["losetup", "-d", upper], check=True)
    assert problem.code == "flash.device_busy"
    assert upper.name in problem.message


def test_a_partition_a_write_protected_and_a_small_device_are_refused(card: Card, tmp_path: Path) -> None:
    subprocess.run(
        ["sfdisk", "-q", card.node], input="label: gpt\nsize=8MiB\n", text=True, check=True, capture_output=True
    )
    card.detach()
    card.attach("--read-only", "--partscan")
    assert codes(card.node) == ["flash.read_only"]
    part = Path(f"{card.node}p1")
    if part.exists():
        assert codes(part) == ["flash.block_device", "flash.read_only", "flash.device_small"]
    small = Card(tmp_path / "small", 1 << 20)
    try:
        assert codes(small.node) == ["flash.device_small"]
    finally:
        small.detach()


def test_the_loop_devices_of_a_file_are_found_by_the_file_and_ours_by_name(card: Card) -> None:
    with card.backing.open("r+b") as file:
        with loops.attached(file.fileno(), 0, 1 << 20, writable=True) as node:
            found = {loop.node: loop.ours for loop in loops.loops_of(file.fileno())}
            assert found == {card.node: False, node: True}
        assert [loop.node for loop in loops.loops_of(file.fileno())] == [card.node]
