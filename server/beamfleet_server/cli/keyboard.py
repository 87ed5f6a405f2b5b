"""Owns single keys of whoever sits at the terminal, without Enter and without their echo. Ctrl-C stays what it is."""

import os
import select
import termios
import time
import tty
from typing import Any, Self, TextIO


class Keyboard:
    """The keys of `stream`, within a `with`; then the terminal is as it was. Where it is no terminal, none is hit."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno() if stream.isatty() else None
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        if self._descriptor is not None:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)

    def wait(self, seconds: float) -> str:
        """The next key, or empty after so many seconds."""
        if self._descriptor is None or not select.select([self._descriptor], [], [], seconds)[0]:
            if self._descriptor is None:
                time.sleep(seconds)
            return ""
        hit = os.read(self._descriptor, 1)
        if not hit:  # the terminal is gone, and would be ready for ever
            self._descriptor = None
        return hit.decode("ascii", "replace")
