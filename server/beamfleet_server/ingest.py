"""Owns the way of a report: broker -> batch -> check -> database -> PUBACK to the broker -> `down/ack` to the device.

Only what is committed is acknowledged, so the broker keeps the rest and the device repeats it. What is not a message
of ours is counted, logged once per device and code, dropped and acknowledged: sending it again would not make it
better. Who sends too much is throttled, then cut (`flooding`, `broker.gate`). Who sent it is what the broker's ACL
guarantees: a device can write to its own topics only."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import structlog
from beamfleet_bundles import messages, topics
from beamfleet_bundles.errors import BundleError
from msgspec import to_builtins

from beamfleet_server.broker.client import BrokerClient, Received
from beamfleet_server.broker.gate import Gate
from beamfleet_server.clock import Clock
from beamfleet_server.controller import Controller
from beamfleet_server.errors import ServerError
from beamfleet_server.flooding import Flooding, Judgement
from beamfleet_server.store import Store
from beamfleet_server.store.reports import Outcome, Report

ACK_EXPIRY_S = 60
RETRY_S = 1.0
REMEMBERED = 10_000
"""How many (device, code) pairs are remembered as logged."""

_log = structlog.get_logger(__name__)


class Ingest:
    """Takes what devices send, batch by batch."""

    def __init__(
        self,
        client: BrokerClient,
        store: Store,
        controller: Controller,
        clock: Clock,
        flooding: Flooding,
        gate: Gate,
        *,
        batch: int,
        wait_s: float,
    ) -> None:
        self._client = client
        self._store = store
        self._controller = controller
        self._clock = clock
        self._flooding = flooding
        self._gate = gate
        self._batch = batch
        self._wait_s = wait_s
        self._logged: set[tuple[str, str]] = set()
        self.refused: Counter[str] = Counter()
        """Messages that were dropped since the start, by code."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            received = await self._client.take(self._batch, self._wait_s)
            outcome = await self._commit(self._checked(received))
            self._client.acknowledge(received)
            for (device, app), (boot, seq) in outcome.acks.items():
                ack = messages.encode(messages.Ack(v=1, boot=boot, seq=seq))
                self._client.tell(topics.down(device, app, "ack"), ack, ACK_EXPIRY_S)
            for device in outcome.unknown:
                self._refuse(device, "device.unknown", "")
            self._controller.reported(outcome.changed)

    def _checked(self, received: Iterable[Received]) -> list[Report]:
        reports = []
        for message in received:
            device = message.topic[:80]
            try:
                device, app, _, kind = topics.parse(message.topic)
                if not self._passes(device):
                    continue
                decoded = messages.decode(kind, message.payload)
            except BundleError as error:
                self._refuse(device, error.code, error.message)
            else:
                reports.append(Report(device, app, kind, to_builtins(decoded)))
        return reports

    def _passes(self, device: str) -> bool:
        """Throttle who sends too much, and cut who goes on."""
        match self._flooding.judge(device, time.monotonic()):
            case Judgement.PASS:
                return True
            case Judgement.DROP:
                self._refuse(device, "message.rate", "too many messages")
            case Judgement.CUT:
                self._refuse(device, "message.rate", "too many messages, for too long")
                self._flooding.forget(device)
                self._gate.deny(device, "too many messages, for too long")
        return False

    async def _commit(self, reports: Sequence[Report]) -> Outcome:
        """Commit, for as long as it takes: the broker holds what comes meanwhile."""
        while True:
            try:
                return await asyncio.to_thread(self._store.reports.apply, reports, self._clock())
            except ServerError as error:
                _log.error("reports cannot be committed", code=error.code, reason=error.message, reports=len(reports))
            await asyncio.sleep(RETRY_S)

    def _refuse(self, device: str, code: str, reason: str) -> None:
        self.refused[code] += 1
        if (device, code) not in self._logged and len(self._logged) < REMEMBERED:
            self._logged.add((device, code))
            _log.warning("message refused", device=device, code=code, reason=reason)
