"""What a release writes is capped in bytes: its log, however much it prints, and the dump of its crash."""

from pathlib import Path

import pytest

from tests.heart.conftest import Make
from tests.support.fleet import wait_for
from tests.support.launcher_device import OLD

pytestmark = pytest.mark.suite(name="heart")

CAP = 64 << 10
BLOCK = 64 << 10
"""How much comes to the log at once."""
LAST_WORDS = 100
"""A dump that was cut says so."""
PRINTED = 8 << 20
PRINT = 'spawn(fun P() -> io:put_chars(user, lists:duplicate(4000, $x) ++ "\\n"), P() end).'
DUMPED = 'L = lists:seq(1, 4000000), erlang:halt("so much of it: " ++ integer_to_list(length(L))).'


def written(pid: int) -> int:
    """Bytes that a process has written to files and pipes."""
    return int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0])


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_the_log_of_a_release_that_prints_without_end_is_capped(make: Make, kind: str) -> None:
    device = make(kind, settings={"log_max_bytes": CAP})
    before = device.serve()
    vm, largest = device.vm(), 0
    device.order(PRINT)

    def enough() -> bool:
        nonlocal largest
        logs = [path for path in device.run.iterdir() if path.name.startswith("vm.log")]
        sizes = []
        for path in logs:
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # renamed just now
                continue
        largest = max(largest, sum(sizes))
        return written(vm) > PRINTED

    wait_for(f"{PRINTED} bytes to be printed", enough, deadline_s=90, every_s=0.02)
    assert 0 < largest <= 2 * (CAP + BLOCK)
    assert device.http(), "it runs on"
    assert (device.vm(), device.boot.state().starts) == (vm, before)
    device.absence(lambda: device.order("halt(1)."))
    device.alone()
    wait_for("one pump for one log", lambda: device.names().count("dd") == 1, deadline_s=10)


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_the_dump_of_a_huge_crash_is_capped_and_its_slogan_told(make: Make, kind: str) -> None:
    device = make(kind, settings={"log_max_bytes": CAP})
    before = device.serve()
    device.order(DUMPED)
    state = device.runs(OLD, after=before)
    assert state.cause == "crash"
    assert "so much of it: 4000000" in state.detail
    dumps = list((device.app / "dump").iterdir())
    assert [path.name for path in dumps] == ["erl_crash.dump"]
    assert 1000 < dumps[0].stat().st_size <= 4 * CAP + LAST_WORDS
    device.answers(0)
    device.alone()
