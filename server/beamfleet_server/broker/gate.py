"""Owns who is kept out of the broker: the revocation list that mosquitto reads, and the end of live sessions.

A new list alone refuses new connections and lets the live one stay; ending the session alone lets it come back. So:
write the list, tell mosquitto to read it, end the session, and once more a moment later for whoever was quicker than
mosquitto's reading. The list is valid for 400 days: an expired one would lock everybody out. It begins in the past and
never before the one that it replaces, because OpenSSL takes the newer of two.
"""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog
from beamfleet_bundles import durable

from beamfleet_server.audit import OK
from beamfleet_server.authorities import Authorities
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.broker.process import BrokerProcess
from beamfleet_server.broker.takeover import Takeover
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.store import Store
from beamfleet_server.store.acts import Act
from beamfleet_server.store.gate import CLONE, FOR_EVER, RATE

AGAIN_S = (0.0, 1.0, 3.0)
"""When a session is ended, counted from the new list."""
FRESH_S = 30 * 86_400
"""The list is written anew at least this often."""
LOOK_S = 3600.0

_log = structlog.get_logger(__name__)


class Gate:
    """Use: `write` before the broker starts; then `run` as a task, and `shut` or `deny`."""

    def __init__(
        self, store: Store, authorities: Authorities, revoked: Path, takeover: Takeover, clock: Clock, *, deny_s: int
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._revoked = revoked
        self._takeover = takeover
        self._clock = clock
        self._deny_s = deny_s
        self._began = 0
        self._broker: BrokerProcess | None = None
        self._client: BrokerClient | None = None
        self._changed = asyncio.Event()
        self._denying: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def stand(self, broker: BrokerProcess, client: BrokerClient) -> None:
        """The broker to tell, and the connection that says that it listens."""
        self._broker, self._client = broker, client

    def write(self) -> None:
        """Write the revocation list."""
        now = self._clock()
        self._began = max(now - 3600, self._began + 1)
        lists = self._authorities.revocation_lists(self._store.gate.serials(now), self._began)
        durable.replace(self._revoked, lists)

    async def refresh(self) -> None:
        """Write the list and have it read."""
        await asyncio.to_thread(self.write)
        if self._broker is not None and self._client is not None and self._client.up:
            self._broker.reload()

    async def shut(self, device: str) -> None:
        """The certificates of a device were revoked, or it is denied: refuse it from now on and end its session."""
        await self.refresh()
        for before, after in zip((0.0, *AGAIN_S), AGAIN_S, strict=False):
            await asyncio.sleep(after - before)
            if not await asyncio.to_thread(self._takeover.end, device):
                _log.warning("a session could not be ended; the broker does not answer", device=device)

    def shut_soon(self, device: str) -> None:
        """`shut`, without waiting for it."""
        self._begin(self.shut(device))

    def deny(self, device: str, reason: str) -> None:
        """Keep a device out for a while, without waiting for it; more of the same does nothing."""
        self._deny_soon(device, reason, RATE, self._clock() + self._deny_s)

    def deny_clone(self, device: str) -> None:
        """Keep a device out until somebody decides which of its machines is the right one."""
        self._deny_soon(device, "two machines use its identity at the same time", CLONE, FOR_EVER)

    async def run(self) -> None:
        """Until cancelled: end denials, and keep the list fresh."""
        written = self._clock()
        while True:
            now = self._clock()
            try:
                lifted = await asyncio.to_thread(self._store.gate.lift, now)
                if lifted or now - written >= FRESH_S:
                    await self.refresh()
                    written = now
                next_end = await asyncio.to_thread(self._store.gate.next_end)
            except ServerError as error:
                _log.error("denials cannot be looked at", code=error.code, detail=error.message)
                next_end = now + 5
            self._changed.clear()
            wait_s = LOOK_S if next_end is None else min(LOOK_S, max(0.2, next_end - now))
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s)
            except TimeoutError:
                continue

    def _deny_soon(self, device: str, reason: str, cause: str, until: int) -> None:
        if device not in self._denying:
            self._denying.add(device)
            self._begin(self._deny(device, reason, cause, until))

    async def _deny(self, device: str, reason: str, cause: str, until: int) -> None:
        now = self._clock()
        try:
            if await asyncio.to_thread(self._store.gate.deny, device, until, reason, now, cause):
                _log.warning("device denied", device=device, detail=reason)
                act = Act("server", "", "devices.deny", device, reason)
                await asyncio.to_thread(self._store.audit.append, act, OK)
                self._changed.set()
                await self.shut(device)
        except ServerError as error:
            _log.error("a device cannot be denied", device=device, code=error.code, detail=error.message)
        finally:
            self._denying.discard(device)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
