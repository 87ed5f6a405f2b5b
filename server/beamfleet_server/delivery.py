"""Owns bringing every signed assignment to the broker, as the retained `desired` of its device, in the order of
signing.

A retained marker, the epoch, says how far we got: `{"v", "epoch", "publication"}`. It is written after what it speaks
for, so whatever the broker remembers, everything above its marker is published again: after a kill -9 of the server,
of the broker, or of both, and after a broker that forgot everything. A marker of another epoch, or from the future,
counts for nothing."""

import asyncio
import secrets
from collections.abc import Sequence

import msgspec
import structlog
from beamfleet_bundles import topics

from beamfleet_server.broker.client import BrokerClient, Connected
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.store import Store
from beamfleet_server.store.assignments import Told

RETRY_S = 1.0
PACE = 200
"""Assignments that are on their way to the broker at once."""
FIRST_REPEAT_S, LONGEST_REPEAT_S = 15, 3600

_log = structlog.get_logger(__name__)


class Marker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the retained assignments of a broker go."""

    v: int
    epoch: str
    publication: int


class Delivery:
    """Publishes assignments; `wake` when there are new ones."""

    def __init__(self, client: BrokerClient, store: Store, clock: Clock) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._wake = asyncio.Event()
        self._repeats: dict[str, tuple[int, int, int]] = {}

    def wake(self) -> None:
        """There is, or there may be, something to publish."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled: bring each connection's broker up to date and keep it there."""
        epoch = await asyncio.to_thread(self._store.facts.once, "broker.epoch", lambda: secrets.token_hex(8))
        while True:
            connection = await self._client.connected()
            try:
                await self._keep_up(connection, epoch)
            except ServerError as error:
                _log.warning("assignments wait for the broker", code=error.code, detail=error.message)
                await asyncio.sleep(RETRY_S)

    async def repeat(self) -> None:
        """Publish again what devices that are online have not seen, each time after a longer pause."""
        unseen = await asyncio.to_thread(self._store.assignments.unseen)
        now = self._clock()
        due, waiting = [], {}
        for told in unseen:
            device, sequence = told.wanted.device, told.wanted.sequence
            known, at, pause_s = self._repeats.get(device, (0, 0, 0))
            if known != sequence:
                known, at, pause_s = sequence, now + FIRST_REPEAT_S, FIRST_REPEAT_S
            elif at <= now:
                due.append(told)
                pause_s = min(2 * pause_s, LONGEST_REPEAT_S)
                at = now + pause_s
            waiting[device] = (known, at, pause_s)
        self._repeats = waiting
        if due and self._client.up:
            try:
                await self._publish(due)
            except ServerError as error:
                _log.warning("assignments wait for the broker", code=error.code, detail=error.message)

    async def _keep_up(self, connection: Connected, epoch: str) -> None:
        last = await asyncio.to_thread(self._store.assignments.last_publication)
        done = reached(connection.epoch, epoch, last)
        if done < last:
            _log.info("the broker lacks assignments", has=done, of=last)
        while self._client.still(connection):
            self._wake.clear()
            told = await asyncio.to_thread(self._store.assignments.after, done, PACE)
            if not told:
                await self._wait(connection)
                continue
            await self._publish(told)
            done = told[-1].publication
            await self._client.publish(topics.EPOCH, msgspec.json.encode(Marker(1, epoch, done)), retain=True)
            _log.info("assignments published", count=len(told), publication=done)

    async def _wait(self, connection: Connected) -> None:
        woken = asyncio.create_task(self._wake.wait())
        lost = asyncio.create_task(self._client.lost(connection))
        try:
            await asyncio.wait((woken, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            lost.cancel()

    async def _publish(self, told: Sequence[Told]) -> None:
        await asyncio.gather(
            *(
                self._client.publish(
                    topics.down(each.wanted.device, each.wanted.app, "desired"), each.body, retain=True
                )
                for each in told
            )
        )


def reached(retained: bytes | None, epoch: str, last: int) -> int:
    """The publication up to which a broker has everything, by its retained marker; 0 if that cannot be true."""
    try:
        marker = msgspec.json.decode(retained or b"", type=Marker)
    except msgspec.DecodeError:
        return 0
    believable = (marker.v, marker.epoch) == (1, epoch) and 0 <= marker.publication <= last
    return marker.publication if believable else 0
