"""A virtual machine as its console shows it: what the guest prints are events, what is typed there are commands.

The console is the standard input and output of one process that is started in its own session. `cut` is the power cut:
SIGKILL to that session's group, so that nothing of the machine lives on. Only what was started here is ever ended.

The guest runs `tests/support/guest_init`: it says READY, then runs each line that it reads and prints `<NUMBER STATUS>`
after it. Everything that the device itself prints begins with `device: ` and is left out of answers.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

DEVICE = "device: "
NOISE = re.compile(r"\[ *\d+\.\d+\] ")
"""How a line of the kernel begins."""


class GuestError(Exception):
    """The guest did not do what it had to in time; the text says what, and ends with what its console showed."""


class Console:
    """The process `command`, whose standard input and output are the console of a guest."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._text, self._commands = "", 0
        self.position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.cut()

    @property
    def text(self) -> str:
        """Everything that the console has shown so far."""
        self._take(0)
        return self._text

    def ready(self, deadline_s: float) -> None:
        """Until the guest takes commands. They are numbered anew from there, as after each reset of the machine."""
        self.expect(r"^READY$", deadline_s)
        self._commands = 0

    def expect(self, pattern: str, deadline_s: float = 30, *, since: int | None = None) -> re.Match[str]:
        """The next place where the console shows this; lines end with a plain newline. What is before it is passed.

        With `since`, an earlier `position`: the first place after that.
        """
        end, wanted = time.monotonic() + deadline_s, re.compile(pattern, re.MULTILINE)
        start = self.position if since is None else since
        while (found := wanted.search(self._text, start)) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise GuestError(f"waited {deadline_s:.0f} s for {pattern}\n{self._tail()}")
            if not self._take(min(left, 1)):
                raise GuestError(f"the machine ended before {pattern}\n{self._tail()}")
        self.position = max(self.position, found.end())
        return found

    def watch(self, duration_s: float) -> str:
        """What the console shows in so many seconds."""
        before, end = len(self._text), time.monotonic() + duration_s
        while (left := end - time.monotonic()) > 0 and self._take(left):
            pass
        return self._text[before:]

    def run(self, command: str, deadline_s: float = 30, *, ok: Sequence[int] = (0,)) -> str:
        """What this line of sh prints in the guest; GuestError unless it ends with one of `ok`."""
        self.type(command)
        before = self.position
        found = self.expect(rf"^<{self._commands} (\d+)>$", deadline_s)
        if before and self._text[before - 1] != "\n":  # what was expected last was in the middle of a line
            before = self._text.index("\n", before)
        lines = self._text[before : found.start()].splitlines()
        answer = "\n".join(line for line in lines if not line.startswith(DEVICE) and not NOISE.match(line)).strip()
        if int(found[1]) not in ok:
            raise GuestError(f"{command}: {found[1]}\n{self._tail()}")
        return answer

    def type(self, command: str) -> None:
        """Have the guest run a line and do not wait for it."""
        assert "\n" not in command
        self._commands += 1
        try:
            self._input.write(f"{command}\n".encode())
            self._input.flush()
        except OSError as error:
            raise GuestError(f"nobody takes {command!r}: {error}\n{self._tail()}") from None

    def ended(self, deadline_s: float) -> int:
        """The exit code of the machine, as soon as it has ended by itself."""
        end = time.monotonic() + deadline_s
        while self._take(0.2):
            if time.monotonic() > end:
                raise GuestError(f"the machine still runs after {deadline_s:.0f} s\n{self._tail()}")
        return self._process.wait(10)

    def cut(self) -> None:
        """The power fails: everything of this machine is gone at once. Safe to repeat."""
        with contextlib.suppress(ProcessLookupError):  # the group outlives its leader while it has members
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()

    def _take(self, timeout_s: float) -> bool:
        """Read what is there, waiting so long at most; False at the end of the machine."""
        if self._output.closed or not self._selector.select(timeout_s):
            return not self._output.closed
        data = self._output.read()
        if data == b"":
            return False
        self._text += (data or b"").decode("utf-8", "replace").replace("\r", "")
        return True

    def _tail(self) -> str:
        return "\n".join(self._text.splitlines()[-60:])
