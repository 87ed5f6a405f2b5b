"""Owns the way of a report: broker -> batch -> check -> database -> PUBACK to the broker -> `down/ack` to the device.

Only what is committed is acknowledged, so the broker keeps the rest and the device repeats it. What is not a message
of ours is counted, logged (`refusals`), dropped and acknowledged: sending it again would not make it better. Who sends
too much is throttled, then cut (`flooding`, `broker.gate`). Who sent it is what the broker's ACL guarantees: a device
can write to its own topics only."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import structlog
from beamfleet_bundles import messages, topics
from beamfleet_bundles.errors import BundleError
from msgspec import to_builtins
from prometheus_client import Histogram

from beamfleet_server.broker.client import BrokerClient, Received
from beamfleet_server.broker.gate import Gate
from beamfleet_server.clock import Clock
from beamfleet_server.controller import Controller
from beamfleet_server.errors import ServerError
from beamfleet_server.flooding import Flooding, Judgement
from beamfleet_server.refusals import Refusals
from beamfleet_server.relay import Relay
from beamfleet_server.store import Store
from beamfleet_server.store.reports import Outcome, Report

ACK_EXPIRY_S = 60
LOGS = "logs"
"""What is passed on to whoever reads it, and not kept."""
HEALTH_WAIT_S = 1.0
"""How long reports of health wait for others: many change the same pages, and no device waits for an answer."""
RETRY_S = 1.0
COMMIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of the histogram of commits."""

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
        relay: Relay,
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
        self._relay = relay
        self._batch = batch
        self._wait_s = wait_s
        self._waiting_since: float | None = None
        self._refusals = Refusals("message refused", logging.WARNING)
        self.refused: Counter[str] = Counter()
        """Messages that were dropped since the start, by code."""
        self.taken: Counter[str] = Counter()
        """Messages that were committed since the start, by kind."""
        self.committed = 0.0
        """When messages were committed last (Unix seconds)."""
        self.commits = Histogram(
            "beamfleet_ingest_commit_seconds", "How long commits of messages take.", buckets=COMMIT_S, registry=None
        )

    @property
    def waiting_s(self) -> float:
        """For how long the messages that were taken last have been waiting to be committed."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            received = await self._client.take(self._batch, self._wait_s, HEALTH_WAIT_S, _is_health)
            self._waiting_since = time.monotonic()
            outcome = await self._commit(self._checked(received))
            self._waiting_since = None
            self._client.acknowledge(received)
            for (device, app), (boot, seq) in outcome.acks.items():
                ack = messages.encode(messages.Ack(v=1, boot=boot, seq=seq))
                self._client.tell(topics.down(device, app, "ack"), ack, ACK_EXPIRY_S)
            for device in outcome.cloned:
                self._gate.deny_clone(device)
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
                if kind == LOGS:
                    self._relay.take(device, to_builtins(decoded))
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
            began = time.monotonic()
            try:
                outcome = await asyncio.to_thread(self._store.reports.apply, reports, self._clock())
            except ServerError as error:
                _log.error("reports cannot be committed", code=error.code, detail=error.message, reports=len(reports))
            else:
                self.commits.observe(time.monotonic() - began)
                self.taken.update(report.kind for report in reports)
                self.committed = time.time()
                return outcome
            await asyncio.sleep(RETRY_S)

    def _refuse(self, device: str, code: str, detail: str) -> None:
        self.refused[code] += 1
        self._refusals.tell(device, code, device=device, detail=detail)


def _is_health(topic: str) -> bool:
    return topic.endswith("/up/health")
