"""Starting, hearing, ending and reaping a worker, whatever the worker does."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import child as module
from beamfleet_agent.child import Child
from beamfleet_agent.loop import Loop

Spin = Callable[[str, Callable[[], object]], None]


class Heard:
    """What a child told its agent."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.ends: list[int] = []


@pytest.fixture
def start(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Child, Heard]]:
    """Starts a worker that is this piece of sh."""

    def begin(script: str) -> tuple[Child, Heard]:
        program = tmp_path / "worker"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        heard = Heard()
        return Child(loop, {"job": "some"}, heard.lines.append, heard.ends.append), heard

    return begin


Start = Callable[[str], tuple[Child, Heard]]


def test_the_job_goes_in_and_the_lines_come_out(start: Start, spin: Spin) -> None:
    child, heard = start('read job; echo "{\\"heard\\": $job}"; read more; echo "$more"')
    spin("its echo", lambda: heard.lines)
    assert heard.lines == [{"heard": {"job": "some"}}]
    child.tell({"proceed": True})
    spin("its end", lambda: heard.ends)
    assert (heard.lines[1], heard.ends) == ({"proceed": True}, [0])


def test_an_exit_code_and_a_signal_are_told_apart(start: Start, spin: Spin) -> None:
    _, heard = start("exit 3")
    spin("its end", lambda: heard.ends)
    assert heard.ends == [3]
    child, heard = start("kill -KILL $$")
    spin("its end", lambda: heard.ends)
    assert heard.ends == [-signal.SIGKILL]
    child.tell({"too": "late"})


def test_garbage_and_endless_lines_are_dropped(start: Start, spin: Spin) -> None:
    _, heard = start("head -c 600000 /dev/zero | tr '\\0' x; echo; echo 7; echo nonsense; echo '{\"good\": 1}'")
    spin("its end", lambda: heard.ends)
    assert heard.lines == [{"good": 1}]


def test_a_killed_worker_says_nothing_more_and_leaves_no_zombie(start: Start, spin: Spin) -> None:
    child, heard = start("echo '{}'; exec sleep 1000")
    spin("its line", lambda: heard.lines)
    child.kill()
    assert heard.ends == []
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_a_worker_that_falls_silent_is_ended(start: Start, spin: Spin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.1)
    _, heard = start("exec sleep 1000")
    spin("its end", lambda: heard.ends)
    assert heard.ends == [-signal.SIGKILL]


def test_the_worker_does_not_inherit_what_its_agent_holds_open(start: Start, spin: Spin, tmp_path: Path) -> None:
    """An inherited lock would outlive the agent."""
    with (tmp_path / "agent.lock").open("w"):
        _, heard = start("ls -l /proc/$$/fd | grep -c agent.lock >&2 && echo '{\"inherited\": 1}'; echo '{}'")
        spin("its end", lambda: heard.ends)
    assert heard.lines == [{}]


def test_a_worker_that_cannot_be_started_leaves_no_descriptor_behind(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        Child(loop, {}, Heard().lines.append, Heard().ends.append)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
