"""Owns the time that trust counts with: a device's clock, but never before what is known to have passed. Sets no clock.

    floor = max(when this software was built, the newest time that the director signed to this device)
    the time = max(the clock, floor)

Never the network's word (NTP): whoever can lie about time could bring back what has expired. A clock that runs ahead is
not pulled back: it can only refuse, and it is never written down, so all is well as soon as it is set again.

A signed time binds while the root is the one under which it was accepted: a thief with the online keys can sign a year
that has not come, and a new root is how an owner gets rid of him.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from beamfleet_bundles import build_time, durable

BUILD_TIME = build_time.BUILD_TIME
FILE = "clock"
_LATEST = 253_402_300_799  # the last second of the year 9999
_MAX_SIZE = 256


@dataclass(frozen=True, slots=True)
class SignedTime:
    """The newest time (Unix seconds) signed to this device, and the version of the root that it was accepted under."""

    time: int = 0
    root: int = 0

    @classmethod
    def load(cls, directory: Path) -> Self:
        """What was kept in an updater's `directory`; nothing if there is no file or it is damaged."""
        try:
            with (directory / FILE).open("rb") as file:
                document = json.loads(file.read(_MAX_SIZE))
            time, root = document["time"], document["root"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls()
        sound = type(time) is int and type(root) is int and 0 <= time <= _LATEST
        return cls(time, root) if sound else cls()

    def store(self, directory: Path) -> None:
        """Makes this durable in `directory`; writes nothing when it is there already. Error: OSError."""
        durable.replace(directory / FILE, json.dumps({"time": self.time, "root": self.root}).encode(), mode=0o600)

    def under(self, root: int) -> int:
        """The time if version `root` is still the newest one, otherwise 0."""
        return self.time if self.root == root else 0


def reference_time(now: datetime, build_time: int = 0, signed_time: int = 0) -> datetime:
    """The time to hold expiry against: the clock, but not before `build_time` nor what was signed.

    Both in Unix seconds, 0 for none.
    """
    return max(now, datetime.fromtimestamp(max(build_time, signed_time), UTC))


def is_behind(now: datetime, build_time: int, signed: SignedTime) -> bool:
    """Whether the clock shows a time that is known to have passed: it was never set, or has been set back."""
    return now.timestamp() < max(build_time, signed.time)
