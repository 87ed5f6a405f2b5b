"""Owns the life of the server: startup, main loop, shutdown. One process, one data directory. The map of this side:

    cli/ ── HTTPS ──► api/operators ─┐                            devices ── HTTPS ──► api/devices, api/enrolment
                                     ▼                                                      │
       publishing ◄── bundles     store  ◄── one writer thread ──────────────────────────────┘
                                     ▲  ▲
                     fleet (rules) ──┘  └── ingest ◄── broker.client ◄── MQTT ── devices
                           ▲                   │                            ▲
                     controller ◄── committed ─┤        delivery ── `desired`, retained
                       relay (logs, read now) ◄┘        evidence: sealed files that devices hand in
                                                       broker.gate: who is kept out
                                                       broker.process: mosquitto, our child

    settings, data, keys, tls, listeners            what it stands on
    ca, authorities, server_identity                who is who, in TLS
    an update: publishing takes a bundle -> advancing starts a rollout and signs assignments -> delivery publishes
    them -> devices report -> ingest commits and acknowledges -> controller asks the rules again -> ... -> completed
    or halted

It may be killed at any time: a start empties the quarantine, ends an orphaned mosquitto, and publishes again what the
broker has not got."""

import asyncio
import contextlib
import os
import pwd
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from beamfleet_bundles import durable
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server import logs
from beamfleet_server.api.applications import Answering, applications
from beamfleet_server.api.authentication import new_token, token_hash
from beamfleet_server.api.operators.webhooks import Hooks
from beamfleet_server.api.schemas import Address
from beamfleet_server.authorities import Authorities
from beamfleet_server.bell import Bell
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.broker.configuration import BrokerFiles
from beamfleet_server.broker.gate import Gate
from beamfleet_server.broker.process import BrokerProcess, find_program
from beamfleet_server.broker.takeover import Takeover
from beamfleet_server.clock import wall_clock
from beamfleet_server.condition import is_well
from beamfleet_server.controller import Controller
from beamfleet_server.data import DataDirectory
from beamfleet_server.delivery import Delivery
from beamfleet_server.errors import ServerError
from beamfleet_server.evidence import EvidenceFiles
from beamfleet_server.expiries import Expiries
from beamfleet_server.feed import Feed
from beamfleet_server.flooding import Flooding
from beamfleet_server.heartbeat import Heartbeat
from beamfleet_server.ingest import Ingest
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.listeners import Listener, bind
from beamfleet_server.listening import Listening
from beamfleet_server.metrics.application import application
from beamfleet_server.metrics.readings import Instruments
from beamfleet_server.notification import tell
from beamfleet_server.publishing import Publisher
from beamfleet_server.recovery import Recovery
from beamfleet_server.relay import Relay
from beamfleet_server.server_identity import ServerIdentity
from beamfleet_server.settings import Configuration, load, read_secret
from beamfleet_server.store import Store
from beamfleet_server.store.assignments import TOUCHED as ASSIGNMENTS
from beamfleet_server.store.authorities import TOUCHED as AUTHORITIES
from beamfleet_server.store.course import TOUCHED as BATCHES
from beamfleet_server.store.enrolment import TOUCHED as DEVICES
from beamfleet_server.store.events import TOUCHED as EVENTS
from beamfleet_server.store.gate import REVOKED
from beamfleet_server.store.seen import TOUCHED as SEEN
from beamfleet_server.store.webhooks import TOUCHED as WEBHOOKS
from beamfleet_server.tracing.following import Tracing
from beamfleet_server.vigil import Vigil
from beamfleet_server.webhooks.addresses import Addresses
from beamfleet_server.webhooks.dispatch import Dispatch, Patience
from beamfleet_server.webhooks.sending import Sender, client_context
from beamfleet_server.webhooks.signing import Secrets

if TYPE_CHECKING:
    from beamfleet_server.tracing.exporting import Exporter

ADMIN = "admin"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared, not bound)
"""Addresses that mean all of this machine's, and where the server itself finds what listens there."""
HTTPS = ("operators", "devices", "enrolment")
METRICS = "metrics"
UNDATED = "devices"
"""They believe signed times only, and a metered line pays for each header."""
READY_S = 30.0
THREADS = 32
"""For what blocks: uploads being verified must not keep reports from being committed."""
PORT_TRIES = 5
"""How often another free port is taken for MQTT when somebody was quicker."""

_log = structlog.get_logger(__name__)


def serve(configuration: Configuration) -> int:
    """Run the server until SIGTERM or SIGINT. Returns 0 then, and 1 if a part failed; raises what keeps it from
    starting."""
    settings = configuration.settings
    logs.configure(settings.log_format, settings.log_level)
    return asyncio.run(Process(configuration).run())


def main(argv: Sequence[str]) -> int:
    """`python -m beamfleet_server.serve KEY=VALUE ...`: the server with these settings, without the command line."""
    try:
        return serve(load(dict(word.split("=", 1) for word in argv)))
    except BeamfleetError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1


class Process:
    """The server of one configuration. `run` is its whole life: startup, main loop, shutdown."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._settings = configuration.settings
        self._data = DataDirectory(configuration.settings.data)
        self._stopping = asyncio.Event()
        self._failed = False
        self._shutdown = contextlib.AsyncExitStack()
        """What undoes each step of the startup, the last step first."""

    async def run(self) -> int:
        """The exit code of `serve`."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "work"))
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stopping.set)
        async with self._shutdown:
            await self._startup()
            await self._stopping.wait()
            _log.info("stopping")
            tell("STOPPING=1")
        _log.info("stopped")
        return 1 if self._failed else 0

    async def _startup(self) -> None:
        program = find_program(self._settings.mosquitto)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one for each connection, and mosquitto inherits it
        self._data.open()
        self._shutdown.callback(self._data.close)
        keys = OnlineKeys.open(self._data.keys, wall_clock, traced=bool(self._settings.otel_endpoint))
        store = Store(self._settings.database or self._data.database, keys.sign_assignment)
        store.sessions.idle_s, store.sessions.life_s = self._settings.session_idle_s, self._settings.session_life_s
        store.reports.thresholds, store.silence.patience_s = self._settings.health, self._settings.offline_after_s
        store.open()
        self._shutdown.callback(store.close)
        lives = (self._settings.device_life_s, self._settings.server_certificate_s)
        authorities = Authorities(self._data.ca, store.authorities, wall_clock, *lives).open()
        self._make_first_operator(store)

        host = self._settings.host
        names = [*self._settings.names, *([] if host in ANY_ADDRESS else [host])]
        identity = ServerIdentity(authorities, self._data, names, self._settings.server_certificate_s)
        sockets = {name: self._shutdown.enter_context(bind(name, host, self._port(name))) for name in HTTPS}
        plain = self._shutdown.enter_context(bind(METRICS, self._settings.metrics_host, self._port(METRICS)))
        files = BrokerFiles(self._data.broker, identity.pair, self._data.ca_certificate)
        takeover = Takeover(self._data.broker)
        deny_s = self._settings.flood_deny_s
        gate = Gate(store, authorities, files.revoked, takeover, wall_clock, deny_s=deny_s)
        gate.write()
        broker, mqtt_port = await self._start_broker(program, files, takeover.password_line)
        ours = (identity.client_pair, str(self._data.ca_certificate))
        client = BrokerClient(ANY_ADDRESS.get(host, host), mqtt_port, *ours)
        client.start()
        gate.stand(broker, client)
        self._shutdown.push_async_callback(client.stop)

        answering, instruments = self._start_work(store, authorities, keys, client, broker, gate, identity)
        ports = {name: each.getsockname()[1] for name, each in sockets.items()} | {"mqtt": mqtt_port}
        apps = applications(answering, {name: Address(host=self._settings.address, port=ports[name]) for name in ports})
        contexts = identity.contexts()
        listeners = {name: Listener(apps[name], sockets[name], contexts[name], dated=name != UNDATED) for name in HTTPS}
        metrics = Listener(application(instruments.read), plain, None)
        every = {**listeners, METRICS: metrics}
        serving = [self._begin(name, listener.run()) for name, listener in every.items()]
        self._shutdown.push_async_callback(_stop, list(every.values()), serving)
        self._shutdown.callback(answering.bell.ring)
        await self._ready(client, list(every.values()))
        renewing = [self._begin("certificates", identity.run(listeners, broker, client, gate))]
        self._shutdown.push_async_callback(_cancel, renewing)
        self._announce(ports | {METRICS: plain.getsockname()[1]})

    def _start_work(
        self,
        store: Store,
        authorities: Authorities,
        keys: OnlineKeys,
        client: BrokerClient,
        broker: BrokerProcess,
        gate: Gate,
        identity: ServerIdentity,
    ) -> tuple[Answering, Instruments]:
        """Begin what runs by itself; returns what the API answers from, and metrics."""
        settings = self._settings
        publisher = Publisher(store, self._data, keys, wall_clock)
        expiries = Expiries(store, self._data, wall_clock)
        delivery = Delivery(client, store, wall_clock)
        sign, offline_after_s = keys.sign_assignment, settings.offline_after_s
        listening = Listening(lambda: client.up, wall_clock())
        controller = Controller(
            store, delivery, publisher, expiries, listening, sign, wall_clock, offline_after_s=offline_after_s
        )
        wait_s = settings.ingest_wait_ms / 1000
        flooding = Flooding(settings.ingest_rate, settings.flood_patience_s)
        relay = Relay()
        ingest = Ingest(
            client, store, controller, wall_clock, flooding, gate, relay, batch=settings.ingest_batch, wait_s=wait_s
        )
        vigil = Vigil(store, publisher.alarms, lambda: client.up, lambda: ingest.waiting_s, wall_clock)
        bell = Bell()
        recovery = Recovery(store, publisher, client, wall_clock)
        feed = Feed(store.events)
        dispatch, hooks = self._webhooks(store, feed)
        reactions = {
            ASSIGNMENTS: (delivery.wake,),
            EVENTS: (bell.ring, feed.wake),
            SEEN: (recovery.wake,),
            AUTHORITIES: (identity.wake,),
            WEBHOOKS: (dispatch.wake,),
            BATCHES: (controller.go_on,),
            DEVICES: (controller.joined,),
        }
        store.advancing.excuse(store.advancing.silence(wall_clock()), offline_after_s, wall_clock())
        store.database.on_commit = _in_this_loop(reactions, gate.shut_soon)
        feed.wake()  # for what came between its first look and now
        tasks = [
            self._begin("broker", broker.watch()),
            self._begin("delivery", delivery.run()),
            self._begin("ingest", ingest.run()),
            self._begin("gate", gate.run()),
            self._begin("controller", controller.run()),
            self._begin("recovery", recovery.run()),
            self._begin("safety look", controller.look()),
            self._begin("feed", feed.run()),
            self._begin("webhooks", dispatch.run()),
            self._begin("vigil", vigil.run()),
        ]
        if settings.heartbeat_url:
            heartbeat = Heartbeat(
                settings.heartbeat_url,
                lambda: is_well(client.up, publisher.alarms.sounding, expiries.all()),
                settings.heartbeat_ca_file,
            )
            tasks.append(self._begin("heartbeat", heartbeat.run()))
        if keys.trace_ids is not None:
            exporter = _exporter(settings.otel_endpoint)
            self._shutdown.push_async_callback(asyncio.to_thread, exporter.close)
            tasks.append(self._begin("traces", Tracing(store, feed, keys.trace_ids, exporter.export).run()))
        self._shutdown.push_async_callback(_cancel, tasks)
        answering = Answering(
            configuration=self._configuration,
            data=self._data,
            store=store,
            publisher=publisher,
            expiries=expiries,
            authorities=authorities,
            keys=keys,
            client=client,
            refused=ingest.refused,
            bell=bell,
            feed=feed,
            hooks=hooks,
            evidence=EvidenceFiles(self._data.evidence),
            relay=relay,
            stopping=self._stopping,
            clock=wall_clock,
        )
        sources = (store, client, ingest, feed, publisher.alarms, expiries, wall_clock)
        return answering, Instruments(*sources, per_device=settings.metrics_per_device)

    def _webhooks(self, store: Store, feed: Feed) -> tuple[Dispatch, Hooks]:
        settings = self._settings
        addresses = Addresses(settings.webhook_networks)
        sender = Sender(addresses, client_context(settings.webhook_ca_file), settings.webhook_timeout_s)
        patience = Patience(
            first_s=settings.webhook_retry_s,
            give_up_s=settings.webhook_retry_for_s,
            disable_s=settings.webhook_disable_after_s,
            log_s=settings.webhook_log_days * 86_400,
        )
        secrets = Secrets.open(self._data.keys)
        dispatch = Dispatch(store, feed, sender, secrets, wall_clock, patience)
        return dispatch, Hooks(addresses, secrets, dispatch.test)

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task without which the server makes no sense: when it fails, the server stops."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("a part of the server failed", part=name, exc_info=error)
                self._failed = True
                self._stopping.set()

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        return task

    def _make_first_operator(self, store: Store) -> None:
        if not store.operators.exists(ADMIN) and not store.operators.all():
            given = self._settings.admin_token_file
            token = read_secret(given) if given else new_token()
            if not given:
                durable.replace(self._data.admin_token, token.encode() + b"\n", 0o600)
            store.operators.put(ADMIN, "admin", token_hash(token), wall_clock())

    def _port(self, name: str) -> int:
        """The configured port, or for 0 the one of the last start; 0 at the first."""
        configured: int = getattr(self._settings, f"{name}_port")
        return configured or self._data.remembered_ports().get(name, 0)

    async def _start_broker(self, program: Path, files: BrokerFiles, password_line: str) -> tuple[BrokerProcess, int]:
        host, wanted = self._settings.host, self._port("mqtt")
        for tries_left in reversed(range(PORT_TRIES)):
            port = wanted or _free_port(host)
            files.write(host, port, pwd.getpwuid(os.geteuid()).pw_name, password_line)
            broker = BrokerProcess(program, files.configuration, host, port)
            await asyncio.to_thread(broker.end_orphan)
            try:
                await broker.start()
            except ServerError as error:
                if error.code != "server.port_taken" or wanted or not tries_left:
                    raise
            else:
                self._shutdown.push_async_callback(broker.stop)
                return broker, port
        raise AssertionError("unreachable: the last try raises")

    async def _ready(self, client: BrokerClient, listeners: Sequence[Listener]) -> None:
        try:
            async with asyncio.timeout(READY_S):
                for listener in listeners:
                    await listener.ready()
                await client.connected()
        except TimeoutError:
            what = f"mosquitto does not take the server in within {READY_S:.0f} s"
            raise ServerError("broker.failed", what, "its words are in the log at --log-level debug") from None

    def _announce(self, ports: Mapping[str, int]) -> None:
        """Write server.json, which says that the server is ready, and tell the person at the terminal what to do
        next."""
        host = f"[{self._settings.address}]" if ":" in self._settings.address else self._settings.address
        addresses = {name: f"https://{host}:{ports[name]}" for name in HTTPS} | {"mqtt": f"{host}:{ports['mqtt']}"}
        there = ANY_ADDRESS.get(self._settings.metrics_host, self._settings.metrics_host)
        addresses[METRICS] = f"http://{f'[{there}]' if ':' in there else there}:{ports[METRICS]}"
        self._data.remember({**addresses, "pid": os.getpid(), "ports": dict(ports)})
        _log.info("ready", data=str(self._data.root), **addresses)
        tell("READY=1")
        token, authority = self._settings.admin_token_file or self._data.admin_token, self._data.ca_certificate
        print(f"log in: beamfleet login {addresses['operators']} --token-file {token} --ca {authority}")
        print("ready", flush=True)


async def _stop(listeners: Sequence[Listener], serving: Sequence[asyncio.Task[None]]) -> None:
    for listener in listeners:
        listener.stop()
    await asyncio.gather(*serving, return_exceptions=True)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _in_this_loop(
    reactions: Mapping[str, Sequence[Callable[[], None]]], revoked: Callable[[str], None]
) -> Callable[[frozenset[str]], None]:
    """A function for other threads: calls, in the running loop, what belongs to each word, and `revoked` with the name
    of each device whose certificates were revoked."""
    loop = asyncio.get_running_loop()

    def call(words: frozenset[str]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            for word in words & reactions.keys():
                for react in reactions[word]:
                    loop.call_soon_threadsafe(react)
            for word in words:
                if word.startswith(REVOKED):
                    loop.call_soon_threadsafe(revoked, word.removeprefix(REVOKED))

    return call


def _exporter(endpoint: str) -> "Exporter":
    """OpenTelemetry is imported here, and only then."""
    try:
        from beamfleet_server.tracing.exporting import Exporter
    except ModuleNotFoundError:
        what = "otel_endpoint needs the OpenTelemetry SDK and its OTLP exporter over HTTP"
        raise ServerError("server.settings", what, "pip install 'beamfleet-server[otel]'") from None
    return Exporter(endpoint)


def _free_port(host: str) -> int:
    with bind("mqtt", host, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
