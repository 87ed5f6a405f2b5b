"""Owns one worker process: starts it, reads its lines, ends it, reaps it. Knows nothing of what it works on.

The job goes in as one JSON line on standard input, which stays open: a later line is an answer to the worker, the end
of file tells it that the agent has gone. Its lines come back by `on_line`; when it has ended, `on_end` says how, once.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from beamfleet_agent.loop import READ, Loop

MAX_LINE = 1 << 18
SILENCE_S = 600.0


class Child:
    """A running worker. `on_line(dict)` for each line, then `on_end(exit code, negative for a signal)`."""

    def __init__(
        self, loop: Loop, job: dict[str, Any], on_line: Callable[[dict[str, Any]], None], on_end: Callable[[int], None]
    ) -> None:
        self._loop, self._on_line, self._on_end = loop, on_line, on_end
        self._buffer = b""
        theirs_in, self._stdin = os.pipe2(os.O_CLOEXEC)
        self._stdout, theirs_out = os.pipe2(os.O_CLOEXEC)
        arguments = [sys.executable, "-I", "-m", "beamfleet_agent.worker", str(os.getpid())]
        actions = [(os.POSIX_SPAWN_DUP2, theirs_in, 0), (os.POSIX_SPAWN_DUP2, theirs_out, 1)]
        try:
            self.pid = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=actions, setsigdef=_RESET)
        except OSError:
            os.close(self._stdin)
            os.close(self._stdout)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(self._stdout, False)
        self._timer = f"child {self.pid} is silent"
        self._heard()
        loop.watch(self._stdout, READ, self._on_output)
        self.tell(job)

    def tell(self, line: dict[str, Any]) -> None:
        """Send one line to the worker; one that has ended is reaped, not told."""
        try:
            os.write(self._stdin, json.dumps(line).encode() + b"\n")
        except OSError:
            pass

    def kill(self) -> None:
        """End it now. Nothing it says is heard any more; it is reaped before this returns."""
        self._on_line, self._on_end = _nothing, _nothing
        os.kill(self.pid, signal.SIGKILL)
        self._finish()

    def _on_output(self, _events: int) -> None:
        try:
            data = os.read(self._stdout, 65536)
        except BlockingIOError:
            return
        if not data:
            self._finish()
            return
        self._heard()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE:
            self._buffer = b""
        for line in lines:
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict):
                self._on_line(document)

    def _heard(self) -> None:
        self._loop.after(self._timer, SILENCE_S, self._silent)

    def _silent(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _finish(self) -> None:
        self._loop.cancel(self._timer)
        self._loop.unwatch(self._stdout)
        os.close(self._stdout)
        os.close(self._stdin)
        _, status = os.waitpid(self.pid, 0)  # it closed its output: it is gone or about to be
        self._on_end(os.waitstatus_to_exitcode(status))


_RESET = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO, signal.SIGPIPE)


def _nothing(_heard: object) -> None:
    """After `kill` nobody listens."""
