"""`beamfleet flash --image` and `--device`: a disk image becomes a device, and nothing of the work is left behind."""

import contextlib
import hashlib
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_server.flash import loops, mounting
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import TargetFacts
from beamfleet_server.flash.image import ImageTarget

from tests.flash.conftest import run
from tests.flash.test_root import booted
from tests.support import device_disk, examples, loop_device, rootfs
from tests.support.fleet import Fleet, free_port, key_values, wait_for
from tests.support.loop_device import Card
from tests.support.refusal import refusal

pytestmark = [
    pytest.mark.suite(name="flash"),
    pytest.mark.skipif(bool(loop_device.missing()), reason=loop_device.missing()),
]
MIB = 1 << 20
ROOT_AT = (1 + device_disk.BOOT_MIB) * MIB
APP = "/var/lib/beamfleet/apps/main"


@pytest.fixture(scope="module")
def board(room: Path) -> Path:
    """The image of a board that knows nothing of beamfleet: a table, a small partition, Debian 12 in the second."""
    return device_disk.partitioned(rootfs.unpack(room / "board"), room / "board.img", mib=384)


@pytest.fixture
def image(board: Path, room: Path) -> Iterator[Path]:
    """A copy of it."""
    copied = device_disk.copy(board, room / "card.img")
    yield copied
    until_free(copied)
    copied.unlink()


def words(image: Path, device: str, packages: Path, *more: str) -> list[str]:
    return ["flash", "--image", str(image), "--id", device, "--packages", str(packages), "--yes", *more]


def left_of(image: Path) -> list[str]:
    """Loop devices over an image, and places where they are mounted for all to see."""
    with image.open("rb") as file:
        nodes = [str(loop.node) for loop in loops.loops_of(file.fileno())]
    mounts = Path("/proc/self/mountinfo").read_text()
    return nodes + [line for line in mounts.splitlines() if any(f" {node} " in line for node in nodes)]


def until_free(image: Path) -> None:
    """The kernel lets go of it a moment after the last process, and after whoever looks at new block devices."""
    wait_for(f"{image.name} to be free", lambda: not left_of(image), deadline_s=30)


def looked_at(image: Path, partition: int | None = None) -> TargetFacts:
    with ImageTarget(image, partition) as target:
        return target.facts()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def opened(image: Path, at: Path, *options: str) -> Iterator[Path]:
    """The root inside an image, as one mounts it by hand, but where no machine of another test takes it with it."""
    at.mkdir(exist_ok=True)
    with mounting.own_namespace():
        where = f"offset={ROOT_AT},sizelimit={384 * MIB}"
        run("mount", "-o", ",".join(("loop", where, *options)), image, at)
        try:
            yield at
        finally:
            run("umount", at)
    until_free(image)


def problem(fleet: Fleet, *command: str) -> dict[str, str]:
    """What a refused command says."""
    done = fleet.cli(*command, "-o", "json", ok=(1, 2))
    said: dict[str, str] = json.loads(done.stdout)
    return said


# --- a device in an image


def test_a_flashed_image_boots_enrols_gets_a_release_and_commits_it(
    fleet: Fleet, packages: Path, image: Path, tmp_path: Path
) -> None:
    more = ("--env", f"SENSOR_GATEWAY_PORT={free_port()}", "--trial-s", "2")
    done = json.loads(fleet.cli(*words(image, "image-1", packages, *more), "-o", "json").stdout)
    assert (done["device"], done["target"]) == ("image-1", f"{image}:2")
    until_free(image)
    assert _findings(image) == ""
    with opened(image, tmp_path / "root") as root:
        machine = booted(root, tmp_path / "room", "image-1")
        try:
            fleet.wait_online("image-1", deadline_s=90)
            fleet.cli("push", str(examples.tarball("sensor_gateway", "1.0.0")), "--device", "image-1", timeout_s=280)
            assert key_values(machine.path(f"{APP}/boot/state"))["phase"] == "committed"
        finally:
            machine.close()


def test_a_card_is_written_from_a_packed_image_and_is_a_device(
    fleet: Fleet, packages: Path, board: Path, room: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "board.img.zst"
    run("zstd", "-q", "-1", board, "-o", packed)
    card = Card(room / "card", board.stat().st_size + MIB)
    try:
        command = ("flash", "--device", str(card.node), "--image", str(packed), "--packages", str(packages))
        plan = fleet.cli(*command, "--id", "card-1", "--dry-run").stderr
        assert f"over everything on {card.node}" in plan
        assert "loop device" in plan
        assert not any(card.backing.read_bytes()[: 2 * MIB]), "a dry run has written"
        fleet.cli(*command, "--id", "card-1", "--yes")
        card.detach()
        with opened(card.backing, tmp_path / "root", "ro") as root:
            assert 'device = "card-1"' in (root / "etc/beamfleet/agent.toml").read_text()
            assert (root / "usr/lib/beamfleet").is_dir()
        card.attach()
        again = json.loads(
            fleet.cli("flash", "--device", str(card.node), "--id", "card-1", "--packages", str(packages), "--yes",
                      "-o", "json").stdout
        )  # fmt: skip
        assert again["device"] == "card-1"
        other = problem(
            fleet, "flash", "--device", str(card.node), "--id", "card-2", "--yes", "--packages", str(packages)
        )
        assert other["code"] == "flash.other_device"
    finally:
        card.detach()
        card.backing.unlink()


# --- killed


def test_a_flash_that_is_killed_anywhere_leaves_nothing_and_ends_well_when_repeated(
    fleet: Fleet, packages: Path, board: Path, image: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    fleet.cli(*words(image, "killed-1", packages))
    took_s = time.monotonic() - began
    for _ in range(3):
        delay_s = took_s * random.uniform(0.2, 1)  # noqa: S311 - a point in time, and the message says which
        device_disk.copy(board, image)
        process = fleet.begin(*words(image, "killed-1", packages, "--replace"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
        process.kill()
        said = process.communicate(timeout=120)
        assert process.returncode in {0, -signal.SIGKILL}, f"killed after {delay_s} s: {said}"
        fleet.cli(*words(image, "killed-1", packages, "--replace"))
        _is_whole(image, "killed-1", tmp_path, f"killed after {delay_s} s")


def _is_whole(image: Path, device: str, tmp_path: Path, when: str) -> None:
    until_free(image)
    assert _findings(image) == "", when
    with opened(image, tmp_path / "root", "ro") as root:
        assert f'device = "{device}"' in (root / "etc/beamfleet/agent.toml").read_text(), when
        status = (root / "var/lib/dpkg/status").read_text()
        assert "Package: beamfleet-agent\nStatus: install ok installed\n" in status, when


HOLDER = """
import os, subprocess, sys
from pathlib import Path
from beamfleet_server.flash.facts import TargetFacts
from beamfleet_server.flash.image import ImageTarget
target = ImageTarget(Path(sys.argv[1]))
target.__enter__()
target.prepare(lambda *_: None)
child = subprocess.Popen(["sleep", "60"], cwd="/run/beamfleet/flash", stdout=subprocess.DEVNULL)
print("open", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_flash_has_left_running_is_ended_by_the_next(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert refusal(looked_at, image) == "flash.image_busy"
        process.send_signal(signal.SIGKILL)
    assert left_of(image) != [], "the child went with it, and there is nothing to clear"
    monkeypatch.setattr(loops, "PATIENCE_S", 0.2)
    with ImageTarget(image) as target:
        assert target.facts().is_root
    until_free(image)


def test_a_journal_that_was_not_replayed_is_replayed_before_anything_is_written(
    fleet: Fleet, packages: Path, image: Path, room: Path, tmp_path: Path
) -> None:
    torn = room / "torn.img"
    with opened(image, tmp_path / "root") as root:
        (root / "srv/late").write_text("in the journal only")
        descriptor = os.open(root / "srv", os.O_RDONLY)
        os.fsync(descriptor)
        device_disk.copy(image, torn)  # as a power cut leaves it
        os.close(descriptor)
    before = digest(torn)
    plan = fleet.cli(*words(torn, "torn-1", packages), "--dry-run").stderr
    assert "replay the journal" in plan
    assert digest(torn) == before, "looking has changed the image"
    fleet.cli(*words(torn, "torn-1", packages))
    assert _findings(torn) == ""
    with opened(torn, tmp_path / "root", "ro") as root:
        assert (root / "srv/late").exists()
    torn.unlink()


# --- refused, and not a byte is changed


def test_an_unfit_image_is_refused_with_the_remedy_and_stays_as_it_is(
    fleet: Fleet, packages: Path, board: Path, room: Path, tmp_path: Path
) -> None:
    plain = room / "ext2.img"
    root = room / "board"
    with plain.open("wb") as file:
        file.truncate(384 * MIB)
    run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", root, plain)
    full = device_disk.copy(plain, room / "full.img")
    run("tune2fs", "-O", "has_journal", full)
    with mounting.own_namespace():
        run("mount", "-o", "loop", full, tmp_path)
        run("fallocate", "-l", str(shutil.disk_usage(tmp_path).free - MIB), tmp_path / "filler")
        run("umount", tmp_path)
    until_free(full)
    read_only = room / "squash.img"
    read_only.write_bytes(b"hsqs" + bytes(MIB))
    packed = room / "packed.img"
    packed.write_bytes(lzma.compress(b"x" * MIB, preset=0))
    nothing = room / "nothing.img"
    nothing.write_bytes(bytes(MIB))
    text = room / "text.txt"
    text.write_text("hi\n")
    empty = room / "empty.img"
    with empty.open("wb") as file:
        file.truncate(64 * MIB)
    run("mkfs.ext4", "-q", "-F", empty)
    expected = {
        plain: "flash.filesystem", full: "flash.space", read_only: "flash.partition", packed: "flash.compressed",
        nothing: "flash.image", text: "flash.image", empty: "flash.no_root",
    }  # fmt: skip
    for path, code in expected.items():
        before = digest(path)
        said = problem(fleet, *words(path, "unfit-1", packages))
        assert (path.name, said["code"]) == (path.name, code), said
        assert said["hint"]
        assert digest(path) == before, path.name
        until_free(path)
        path.unlink()


def test_an_image_that_somebody_else_has_attached_is_refused(image: Path) -> None:
    node = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        with pytest.raises(FlashError, match=node) as refused:
            looked_at(image)
    finally:
        run("losetup", "-d", node)
    assert refused.value.code == "flash.image_busy"
    assert refused.value.hint.endswith(node)


def test_tables_of_every_kind_lead_to_the_root(board: Path, room: Path) -> None:
    root = room / "board"
    dos = device_disk.partitioned(root, room / "dos.img", table="dos", mib=384)
    bare = room / "bare.img"
    with bare.open("wb") as file:
        file.truncate(384 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", root, bare)
    for path, name in ((board, f"{board}:2"), (dos, f"{dos}:2"), (bare, str(bare))):
        with ImageTarget(path) as target:
            assert target.name == name
            assert target.facts().os.startswith("Debian GNU/Linux 12")
    with ImageTarget(dos, 2) as target:
        assert target.facts().is_root
    assert refusal(looked_at, dos, 1) == "flash.partition"
    assert refusal(looked_at, dos, 7) == "flash.partition"
    dos.unlink()
    bare.unlink()


def test_an_image_with_two_systems_wants_one_named(board: Path, room: Path) -> None:
    path = room / "two.img"
    with path.open("wb") as file:
        file.truncate(40 * MIB)
    table = "label: gpt\nstart=1MiB, size=16MiB, type=L\nstart=18MiB, size=16MiB, type=L\n"
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, check=True, capture_output=True)
    tiny = room / "tiny"
    for name in ("etc", "usr"):
        (tiny / name).mkdir(parents=True)
    for start in (1, 18):
        run("mkfs.ext4", "-q", "-F", "-E", f"offset={start * MIB}", "-d", tiny, path, "16M")
    with pytest.raises(FlashError, match="several partitions with a Linux system: 1, 2"):
        looked_at(path)
    with ImageTarget(path, 2) as target:
        assert target.name == f"{path}:2"
    until_free(path)
    path.unlink()


def test_garbage_in_a_table_or_a_file_system_is_refused_and_nothing_hangs(board: Path, room: Path) -> None:
    chance = random.Random(11)  # noqa: S311 - the same garbage each time
    path = room / "garbage.img"
    for place in (0x1BE, 512, 1024, ROOT_AT + 1024):
        device_disk.copy(board, path)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(chance.randbytes(600))
        code = refusal(looked_at, path)
        assert code in {"flash.image", "flash.partition", "flash.partition_table", "flash.mount", ""}, code
    path.unlink()


def _findings(image: Path) -> str:
    """What fsck has to say about the root inside."""
    done = subprocess.run(
        ["fsck.ext4", "-f", "-n", f"{image}?offset={ROOT_AT}"], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
