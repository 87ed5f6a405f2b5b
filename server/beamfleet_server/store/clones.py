"""Owns noticing that two machines use one identity, and what comes of it.

Each boot of a machine has an id of its own, which the kernel makes, and a device tells it with each session. A machine
goes from one to the next and never back: an id that comes back after another is a second machine with the same disk.
Twice the same session is not a return: the broker may deliver a message again.

A return is an alarm. A device is cut off only when both machines are alive at the same time, `LIVE` returns within
`LIVE_S`; a disk that was put into a spare board, with the old board still on the shelf, is left in peace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select, update

from beamfleet_server.store.database import Database
from beamfleet_server.store.devices import unknown
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.gate import CLONE, REVOKED
from beamfleet_server.store.tables import denials, devices

LIVE, LIVE_S = 3, 600
REMEMBERED = 16
"""Boots of a device that are remembered."""
QUIET_S = 600
"""Of returns that follow each other faster, only the first one is an event."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a birth came to: the device's new `machines` and `returns`, whether that is an event, and whether both
    machines are alive."""

    machines: list[list[Any]]
    returns: list[int]
    told: bool = False
    live: bool = False


def judge(device: Mapping[str, Any], machine: str, session: int, now: int) -> Sight | None:
    """A device was born in this boot; None if nothing is to be remembered of that."""
    machines: Sequence[Sequence[Any]] = device["machines"]
    known = {str(each[0]): int(each[1]) for each in machines}
    if not machine or session <= known.get(machine, -1):
        return None
    others = [list(each) for each in machines if each[0] != machine]
    seen = [*others, [machine, session, now]][-REMEMBERED:]
    returns = list(device["returns"])
    if machine not in known or machines[-1][0] == machine:
        return Sight(seen, returns)
    told = not returns or now - returns[-1] >= QUIET_S
    returns = [*returns, now][-LIVE:]
    return Sight(seen, returns, told, len(returns) == LIVE and returns[-1] - returns[0] <= LIVE_S)


class Clones:
    """Devices whose identity was seen on two machines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def accept(self, device: str, now: int) -> None:
        """Forget it, and end the denial if there was one. Error `device.unknown`."""

        def change(connection: Connection) -> None:
            device_id = connection.scalar(select(devices.c.id).where(devices.c.name == device))
            if device_id is None:
                raise unknown(device)
            forgotten: dict[str, Any] = {"machines": [], "returns": []}
            connection.execute(update(devices).where(devices.c.id == device_id).values(forgotten))
            ours = (denials.c.device_id == device_id, denials.c.cause == CLONE)
            if connection.execute(delete(denials).where(*ours)).rowcount:
                self._database.touch(REVOKED + device)
            append(self._database, connection, [NewEvent(now, "clone", "accepted", "by an operator", device_id)])

        self._database.write(change)
