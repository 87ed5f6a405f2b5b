"""Owns that one flash at a time works on a directory: its lock, which a child that was left over holds as well."""

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from beamfleet_server.flash.errors import FlashError

PATIENCE_S = 120


class Hold:
    """The directory, held until it is let go, or until the last child with its `descriptors` has ended."""

    def __init__(self, directory: Path, name: str, patience_s: float = PATIENCE_S) -> None:
        """Error: `flash.running` when somebody else holds it for longer than that."""
        self.descriptors: Sequence[int] = (os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),)
        end = time.monotonic() + patience_s
        while not self._taken():
            if time.monotonic() > end:
                self.let_go()
                hint = "wait until it has ended, or end it"
                raise FlashError("flash.running", f"something else is flashing {name}", hint)
            time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()

    def _taken(self) -> bool:
        try:
            fcntl.flock(self.descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
