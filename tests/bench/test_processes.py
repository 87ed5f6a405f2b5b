"""What the benchmarks say about processes is what those processes did."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.bench import idle_peers
from tests.bench.agent import AGENT, MENDER, PYTHON, RAUC, Outcome
from tests.bench.processes import Cost, MeasureError, PeakOfDescendants, Watch, established, processor_s
from tests.bench.result import as_json
from tests.support.fleet import wait_for

ECHO = """
import sys
for line in sys.stdin:
    ballast = bytearray(int(line))
    print(flush=True)
    del ballast
"""
MB = 1_000_000


class Echo:
    """A child that wakes once for each line, and holds that many bytes until it has answered; a grandchild, if `above`
    are the words of a command that runs others."""

    def __init__(self, *above: str) -> None:
        pipe, words = subprocess.PIPE, [*above, sys.executable, "-I", "-c", ECHO]
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        self.ask(0)

    def ask(self, held: int) -> None:
        """One line there, one back."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{held}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        """Wait until it is gone."""
        self.process.communicate()


@pytest.fixture
def echo() -> Iterator[Echo]:
    child = Echo()
    yield child
    child.end()


def asleep(pid: int) -> None:
    """Wait until the process waits: on a busy machine the next question may come before that."""
    stat = Path(f"/proc/{pid}/stat")
    wait_for("the process to wait", lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", deadline_s=20)


def test_a_process_that_is_woken_ten_times_a_minute_is_counted_so(echo: Echo) -> None:
    watch = Watch("echo", echo.process.pid)
    for _ in range(10):
        asleep(echo.process.pid)
        echo.ask(0)
    asleep(echo.process.pid)
    watch.sample()
    cost = watch.cost(60)
    assert 10 <= cost.wakeups_per_min <= 14
    assert cost.threads == 1
    assert cost.rss_mb > cost.uss_mb > 1


def test_a_process_that_ends_in_the_window_is_no_figure(echo: Echo) -> None:
    watch = Watch("echo", echo.process.pid)
    echo.end()
    with pytest.raises(MeasureError, match=r"echo .* ended"):
        watch.sample()


def test_the_peak_of_a_child_is_seen_after_it_gave_the_memory_back() -> None:
    parent = Echo("sh", "-c", '"$0" "$@"; :')
    with PeakOfDescendants(parent.process.pid) as children:
        parent.ask(64 * MB)
        parent.ask(0)
        parent.end()
    assert children.peak_mb
    assert 64 < children.peak_mb < 96


def test_the_processor_time_of_a_process_is_what_it_used() -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    words = [sys.executable, "-I", "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        assert 0.28 <= processor_s(child.pid) < 1
        child.communicate("\n")


def test_a_connection_is_found_by_the_port_of_its_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert established(os.getpid(), port) == []
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert established(os.getpid(), port) == [str(os.fstat(connection.fileno()).st_ino)]


@pytest.mark.parametrize("peer", [idle_peers.mender, idle_peers.rauc])
def test_a_peer_that_is_not_installed_says_which_package_has_it(
    peer: Callable[[Path], AbstractContextManager[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(idle_peers.UnavailableError, match="Debian package"), peer(tmp_path / "peer"):
        pass


def test_a_peer_that_cannot_be_had_is_null_in_the_figures_and_explained_in_the_table() -> None:
    costs = {AGENT: Cost(20.0, 10.0, 1, 3.0), PYTHON: Cost(10.0, 3.0, 1, 0.0), RAUC: Cost(16.0, 6.0, 3, 0.0)}
    outcome = Outcome(10, costs, {MENDER: "there is no mender here"}, 60.0, 0.5, 0.1)
    figures = json.loads(as_json("agent", outcome.figures()))["figures"]
    assert figures == {
        "rss_mb": 20.0, "rss_ratio_mender": None, "rss_ratio_rauc": 1.25, "children_peak_rss_mb": 60.0,
        "rss_ratio_bare_python": 2.0, "uss_mb": 10.0, "wakeups_per_min": 3.0, "threads": 1, "start_ratio_python": 5.0,
    }  # fmt: skip
    assert "mender daemon          not here: there is no mender here" in outcome.table()
