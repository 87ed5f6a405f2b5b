"""Owns where the readings come from, and how long each is kept: what takes long to count is not counted at each scrape.

Never raises for a database that is away: what else there is to say is needed most then."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from prometheus_client import ProcessCollector

from beamfleet_server import __version__
from beamfleet_server.alarms import Alarms
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.expiries import Expiries
from beamfleet_server.feed import Feed
from beamfleet_server.ingest import Ingest
from beamfleet_server.metrics.families import Readings
from beamfleet_server.store import Store
from beamfleet_server.store.expiries import Expiry

FRESH_S, SLOW_S = 5.0, 60.0
T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Kept(Generic[T]):
    """The newest value of `read`, read again when it is older than `age_s`; of one thread at a time."""

    def __init__(self, read: Callable[[], T], age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._age_s, self._clock = read, age_s, clock
        self._value: tuple[float, T] | None = None

    def __call__(self) -> T:
        """The value."""
        now = self._clock()
        if self._value is None or now - self._value[0] >= self._age_s:
            self._value = (now, self._read())
        return self._value[1]


class Instruments:
    """Reads everything; called by one thread at a time."""

    def __init__(
        self,
        store: Store,
        client: BrokerClient,
        ingest: Ingest,
        feed: Feed,
        alarms: Alarms,
        expiries: Expiries,
        clock: Clock,
        *,
        per_device: bool,
    ) -> None:
        self._store, self._client, self._ingest, self._feed = store, client, ingest, feed
        self._alarms, self._clock, self._per_device = alarms, clock, per_device
        self._started = time.time()
        self._process = ProcessCollector(registry=None)
        self._slow = Kept(lambda: (store.figures.slow(clock()), tuple(expiries.all())), SLOW_S)

    def read(self) -> Readings:
        """Everything, now."""
        figures, slow, devices = None, None, None
        ending: tuple[Expiry, ...] = ()
        try:
            now = self._clock()
            figures = self._store.figures.at(now)
            devices = self._store.figures.devices(now) if self._per_device else None
            slow, ending = self._slow()
        except ServerError as error:
            _log.warning("metrics lack what is in the database", code=error.code, detail=error.message)
        return Readings(
            version=__version__,
            started=self._started,
            broker_up=self._client.up,
            waiting=self._client.waiting,
            taken=dict(self._ingest.taken),
            commits=tuple(self._ingest.commits.collect()),
            process=tuple(self._process.collect()),
            refused=dict(self._ingest.refused),
            last_commit=self._ingest.committed,
            events=dict(self._feed.counted),
            alarms=tuple(self._alarms.sounding),
            figures=figures,
            slow=slow,
            expiries=ending,
            devices=devices,
        )
