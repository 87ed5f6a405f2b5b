"""Owns catching up with devices that have seen more than the server has: it was restored from a backup.

    a device reports newer metadata -> snapshot and timestamp are signed above that (publishing)
                                    -> of the other roles, a few devices that have it are asked to look for updates;
                                       they find the server behind, and offer what they have

Nobody has to be asked twice for that: a device that looks for updates by itself offers, too.
"""

import asyncio
import secrets

import structlog
from beamfleet_bundles import messages, topics

from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.publishing import Publisher
from beamfleet_server.store import Store
from beamfleet_server.store.enrolment import MAIN

LOOK_S = 60.0
PAUSE_S = 1.0
"""Between two looks, however often devices report."""
ASKED_AT_ONCE = 3
"""Devices, for each role: one that answers is enough."""
ASKED_AGAIN_S = 3600
REMEMBERED = 10_000
COMMAND_EXPIRY_S = 60

_log = structlog.get_logger(__name__)


class Recovery:
    """Use: `run` as a task, and `wake` when a device has reported more than the server holds."""

    def __init__(self, store: Store, publisher: Publisher, client: BrokerClient, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._client = client
        self._clock = clock
        self._wake = asyncio.Event()
        self._asked: dict[str, int] = {}

    def wake(self) -> None:
        """A device is ahead."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except ServerError as error:
                _log.error("what devices have seen cannot be looked at", code=error.code, detail=error.message)
            await asyncio.sleep(PAUSE_S)
            try:
                await asyncio.wait_for(self._wake.wait(), LOOK_S)
            except TimeoutError:
                continue

    async def _look(self) -> None:
        behind = await asyncio.to_thread(self._publisher.catch_up)
        if not behind or not self._client.up:
            return
        for device in await asyncio.to_thread(self._store.seen.ahead, behind, ASKED_AT_ONCE):
            self._ask(device, behind)

    def _ask(self, device: str, behind: list[str]) -> None:
        now = self._clock()
        if 0 <= now - self._asked.get(device, 0) < ASKED_AGAIN_S or len(self._asked) >= REMEMBERED:
            self._asked = {name: at for name, at in self._asked.items() if 0 <= now - at < ASKED_AGAIN_S}
            return
        self._asked[device] = now
        _log.warning("a device has newer metadata than this server, and is asked for it", device=device, roles=behind)
        wish = messages.Command(v=1, id=secrets.token_hex(8), name="refresh")
        self._client.tell(topics.down(device, MAIN, "command"), messages.encode(wish), COMMAND_EXPIRY_S)
