"""Owns whether the server is well, in one word."""

from collections.abc import Iterable, Sequence

from beamfleet_server.alarms import Alarm
from beamfleet_server.store.expiries import EXPIRED, Expiry


def is_well(up: bool, alarms: Sequence[Alarm], ending: Iterable[Expiry]) -> bool:
    """True while the broker listens, no alarm sounds, and nothing has run out without which devices get no updates."""
    return up and not alarms and not any(row.vital and row.state == EXPIRED for row in ending)
