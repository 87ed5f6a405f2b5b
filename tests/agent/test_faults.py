"""A disk that is full, read-only or out of inodes, want of memory, a clock that jumps: nothing dies, nothing is lost,
and what was begun goes on when the condition has gone.

The device's state lies on a tiny tmpfs of its own; what runs there is what ships.
"""

import base64
import errno
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import agent as module
from beamfleet_agent.journal import Journal
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.slots import Slots, present

from tests.agent.device import Worker, lay_down, words
from tests.agent.resident import Device
from tests.repo.tree import DISTRIBUTIONS

Spin = Callable[[str, Callable[[], object]], None]
needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["mount"], capture_output=True, check=False).returncode != 0,
    reason="mounting a small disk needs root",
)


class Disk:
    """A tmpfs that can be made full, read-only, or out of inodes, and well again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=600", "none", place], check=True)

    def breaks(self, how: str) -> None:
        (self.place / "ballast").mkdir()
        match how:
            case "full":
                with (self.place / "ballast/file").open("wb", buffering=0) as file:
                    until_there_is_no_space(lambda: file.write(bytes(1 << 20)))
                    until_there_is_no_space(lambda: file.write(bytes(4096)))
            case "out of inodes":
                names = (self.place / "ballast" / str(number) for number in itertools.count())
                until_there_is_no_space(lambda: next(names).touch())
            case "read-only":
                subprocess.run(["mount", "-o", "remount,ro", self.place], check=True)

    def heals(self) -> None:
        subprocess.run(["mount", "-o", "remount,rw", self.place], check=True)
        shutil.rmtree(self.place / "ballast")

    def goes(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)


def until_there_is_no_space(act: Callable[[], object]) -> None:
    def fits() -> bool:
        try:
            act()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        return True

    while fits():
        pass


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "device/var/lib/beamfleet")
    yield made
    made.goes()


@pytest.fixture
def paths(tmp_path: Path, bundles: tuple[list[Path], bytes]) -> Paths:
    root_json = base64.b64encode(bundles[1]).decode()
    return lay_down(tmp_path / "device", words("gw-1", root_json_base64=root_json))


@pytest.fixture
def device(loop: Loop, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(module, "JOURNAL_AGAIN_S", 0.1)
    monkeypatch.setattr(module, "REQUEST_AGAIN_S", 0.1)
    made = Device(loop, paths, tmp_path / "log")
    yield made
    made.agent.stop()


WAYS = pytest.mark.parametrize("how", ["full", "read-only", "out of inodes"])


@needs_mounts
class TestTheDisk:
    @WAYS
    def test_the_agent_waits_for_its_journal_and_then_goes_on(
        self, disk: Disk, device: Device, bundles: tuple[list[Path], bytes], spin: Spin, how: str
    ) -> None:
        before = Journal(device.paths.journal).read()
        disk.breaks(how)
        device.agent.install(str(bundles[0][0]))
        spin("three attempts", lambda: len(device.logged("journal not written")) >= 3)
        assert device.logged("journal not written")[0]["code"] == "agent.journal"
        assert device.agent.status()["update"]["phase"] == "idle", "nothing is done that is not written down"
        assert (Journal(device.paths.journal).read(), present(device.paths.slots)) == (before, frozenset())
        disk.heals()
        spin("the request to swap", device.requests)
        (slot,) = present(device.paths.slots)
        assert device.requests() == [f"swap {slot} 1"]
        remembered = Journal(device.paths.journal).read()
        assert remembered is not None
        assert remembered[0].update.phase == "swapping"

    @WAYS
    def test_the_worker_says_why_and_leaves_the_running_release_alone(
        self, disk: Disk, paths: Paths, bundles: tuple[list[Path], bytes], how: str
    ) -> None:
        root = Path(paths.root)
        runs = Worker(root, "stage", path=str(bundles[0][0])).lines()[-1]["result"]["manifest"][:32]
        Path(paths.boot, "state").write_text(f"format=1\nslot={runs}\nphase=committed\nattempt=1\n")
        disk.breaks(how)
        error = Worker(root, "stage", path=str(bundles[0][1])).lines()[-1]["error"]
        assert error["code"] == ("worker.io" if how == "read-only" else "slot.no_space"), error
        assert error["hint"]
        assert present(paths.slots) == {runs}
        Slots(paths.slots, paths.staging).verify(runs)
        disk.heals()
        assert "result" in Worker(root, "stage", path=str(bundles[0][1])).lines()[-1]
        assert len(present(paths.slots)) == 2
        assert os.listdir(paths.staging) == []  # noqa: PTH208

    def test_a_request_that_cannot_be_filed_is_filed_when_it_can(
        self, device: Device, bundles: tuple[list[Path], bytes], spin: Spin
    ) -> None:
        requests = Disk(Path(device.paths.requests))
        try:
            requests.breaks("out of inodes")
            device.agent.install(str(bundles[0][0]))
            spin("two attempts", lambda: len(device.logged("request not filed")) >= 2)
            assert device.logged("request not filed")[0]["code"] == "boot.request"
            assert device.agent.status()["update"]["phase"] == "swapping"
            requests.heals()
            spin("the request", device.requests)
        finally:
            requests.goes()

    def test_a_journal_that_the_power_cut_emptied_is_rebuilt_from_what_is_there(
        self, paths: Paths, bundles: tuple[list[Path], bytes], loop: Loop, tmp_path: Path, spin: Spin
    ) -> None:
        root = Path(paths.root)
        runs = Worker(root, "stage", path=str(bundles[0][0])).lines()[-1]["result"]["manifest"][:32]
        Path(paths.boot, "state").write_text(f"format=1\nslot={runs}\nphase=committed\nattempt=1\nstarts=1\n")
        Path(paths.journal).write_bytes(b"")
        device = Device(loop, paths, tmp_path / "log")
        spin("the release's name", lambda: device.agent.status()["version"] == "1.0.0")
        remembered = Journal(paths.journal).read()
        assert remembered is not None
        assert [release.slot for release in remembered[0].releases] == [runs]
        device.agent.stop()


@pytest.mark.parametrize("megabytes", [16, 48, 96, 160])
def test_a_worker_without_memory_harms_nobody(
    paths: Paths, bundles: tuple[list[Path], bytes], megabytes: int, loop: Loop, spin: Spin
) -> None:
    """It may say `worker.memory` or end without a word; both mean later, never a slot that is not whole."""
    from beamfleet_agent.child import Child

    narrow = Path(paths.root, "python")
    narrow.write_text(f'#!/bin/sh\nexec prlimit --as={megabytes << 20} {sys.executable} "$@"\n')
    narrow.chmod(0o755)
    said: dict[str, Any] = {}
    ends: list[int] = []
    job = {"job": "stage", "root": paths.root, "path": str(bundles[0][0]), "floors": {}}
    was, sys.executable = sys.executable, str(narrow)
    try:
        child = Child(loop, job, said.update, ends.append)
    finally:
        sys.executable = was
    child.tell({"proceed": True})
    spin("its end", lambda: ends)
    if "error" in said:
        assert (said["error"]["code"], said["error"]["patience"] > 0) == ("worker.memory", True), said
    for slot in present(paths.slots):
        Slots(paths.slots, paths.staging).verify(slot)
    assert "result" in Worker(Path(paths.root), "stage", path=str(bundles[0][0])).lines()[-1]
    assert len(present(paths.slots)) == 1


class TestTheClock:
    def test_only_what_is_told_to_people_and_signatures_look_at_it(self) -> None:
        """Whatever waits, waits by the monotonic clock."""
        looking = {
            str(path.relative_to(DISTRIBUTIONS["beamfleet-agent"]))
            for path in DISTRIBUTIONS["beamfleet-agent"].rglob("*.py")
            if any(word in path.read_text() for word in ("time.time(", "time.localtime(", "datetime.now(", "utcnow("))
        }
        bounded = {"uplink.py"}  # the age of a file decides when to ask again, between two bounds
        told = {"agent.py", "diagnosis.py", "log.py", "reports.py", "vitals.py"}
        suspicious = {"tls.py"}  # whether it shows what cannot be
        assert {path for path in looking if not path.startswith("worker/")} == told | bounded | suspicious

    def test_an_update_gets_on_while_it_jumps(
        self, device: Device, bundles: tuple[list[Path], bytes], spin: Spin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jumps = itertools.cycle([0.0, 4e9, 1.0, 1.7e9])
        monkeypatch.setattr(time, "time", lambda: next(jumps))
        device.agent.install(str(bundles[0][0]))
        spin("the request to swap", device.requests)
        assert device.agent.status()["update"]["phase"] == "swapping"
