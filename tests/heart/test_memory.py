"""A release that wants more memory than there is: killed by the kernel, or ended by the BEAM's allocator.

The state says `oom`, and in a trial the launcher goes back.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.heart.conftest import Make, Told
from tests.heart.device import TRIAL_S
from tests.support.fleet import wait_for
from tests.support.launcher_device import NEW, OLD, boot_clock_ms

pytestmark = [pytest.mark.suite(name="heart"), pytest.mark.timeout(600)]

MEMORY = Path("/sys/fs/cgroup/memory")
LIMIT = 200 << 20
BACK_S = 15
HOG = "F = fun G(A) -> G([binary:copy(<<1>>, 8388608) | A]) end, spawn(fun() -> timer:sleep(1000), F([]) end)."
GREEDY = "spawn(fun() -> timer:sleep(1000), binary:copy(<<0>>, 1 bsl 45) end)."


@pytest.fixture
def cramped(room: Path) -> Iterator[tuple[str, ...]]:
    """How to start a program that, with its children, has `LIMIT` bytes of memory."""
    group = MEMORY / room.name
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no memory limit can be set here: {error}")
    yield ("sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh")
    with contextlib.suppress(FileNotFoundError):
        wait_for("the group to be empty", lambda: not (group / "cgroup.procs").read_text(), deadline_s=20)
        group.rmdir()


@pytest.mark.usefixtures("oom_expected")
@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_what_the_kernel_kills_for_memory_is_called_so(
    cramped: tuple[str, ...], make: Make, told: Told, kind: str
) -> None:
    device = make(kind, command=cramped)
    before = device.serve()
    absence = device.absence(lambda: device.order(HOG))
    state = device.boot.state()
    assert (state.starts, state.cause, state.phase) == (before + 1, "oom", "committed")
    assert state.detail.startswith("status 137")
    told(absence)
    device.give(NEW, "1.1.0", arguments=("-eval", HOG))
    asked_ms = boot_clock_ms()
    device.boot.request(f"swap {NEW} 1")
    device.until("the revert", lambda s: s.phase == "reverted", TRIAL_S + 40)
    device.runs(OLD, after=before + 2)
    away_ms = device.back_ms(asked_ms)
    assert device.boot.state().failed == f"{NEW}:1:oom"
    assert away_ms <= (TRIAL_S + BACK_S) * 1000
    device.alone()
    told(f"old release back after {away_ms} ms")


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_an_allocator_that_gives_up_is_called_so_with_its_words(make: Make, told: Told, kind: str) -> None:
    device = make(kind)
    before = device.serve()
    absence = device.absence(lambda: device.order(GREEDY))
    state = device.boot.state()
    assert (state.starts, state.cause, state.phase) == (before + 1, "oom", "committed")
    assert "binary_alloc: Cannot allocate" in state.detail
    device.alone()
    told(absence)


def test_the_kernel_counts_what_it_kills() -> None:
    """The launcher reads this line."""
    counts = subprocess.run(["grep", "-c", "^oom_kill ", "/proc/vmstat"], capture_output=True, text=True)
    assert counts.stdout.strip() == "1"
