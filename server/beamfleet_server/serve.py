"""Owns the life of the server: startup, main loop, shutdown. One process, one data directory. The map of this side:

    cli/ ── HTTPS ──► api/operators ─┐                            devices ── HTTPS ──► api/devices, api/enrolment
                                     ▼                                                      │
       publishing ◄── bundles     store  ◄── one writer thread, SQLite ──────────────────────┘
                                     ▲  ▲
                     fleet (rules) ──┘  └── ingest ◄── broker.client ◄── MQTT ── devices
                           ▲                   │                            ▲
                     controller ◄── committed ─┘        delivery ── `desired`, retained
                                                       broker.gate: who is kept out
                                                       broker.process: mosquitto, our child

    settings, data, ca, keys, tls, listeners        what it stands on
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
from typing import Any

import structlog
from beamfleet_bundles import durable, topics
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server import logs
from beamfleet_server.api.applications import Answering, applications
from beamfleet_server.api.authentication import new_token, token_hash
from beamfleet_server.api.schemas import Address
from beamfleet_server.bell import Bell
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.broker.configuration import BrokerFiles
from beamfleet_server.broker.gate import Gate
from beamfleet_server.broker.process import BrokerProcess, find_program
from beamfleet_server.broker.takeover import Takeover
from beamfleet_server.ca import FleetAuthority
from beamfleet_server.clock import wall_clock
from beamfleet_server.controller import Controller
from beamfleet_server.data import DataDirectory
from beamfleet_server.delivery import Delivery
from beamfleet_server.errors import ServerError
from beamfleet_server.flooding import Flooding
from beamfleet_server.ingest import Ingest
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.listeners import Listener, bind
from beamfleet_server.notification import tell
from beamfleet_server.publishing import Publisher
from beamfleet_server.settings import Configuration, load, read_secret
from beamfleet_server.store import Store
from beamfleet_server.store.assignments import TOUCHED as ASSIGNMENTS
from beamfleet_server.store.events import TOUCHED as EVENTS
from beamfleet_server.store.gate import REVOKED
from beamfleet_server.tls import devices_context, enrolment_context, operators_context

ADMIN = "admin"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared, not bound)
"""Addresses that mean all of this machine's, and where the server itself finds what listens there."""
HTTPS = ("operators", "devices", "enrolment")
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
        authority = FleetAuthority.open(self._data.ca, wall_clock)
        durable.replace(self._data.ca_certificate, authority.pem)
        keys = OnlineKeys.open(self._data.keys, wall_clock)
        store = Store(self._data.database, keys.sign_assignment)
        store.sessions.idle_s, store.sessions.life_s = self._settings.session_idle_s, self._settings.session_life_s
        store.open()
        self._shutdown.callback(store.close)
        self._make_first_operator(store)

        host = self._settings.host
        pair = authority.server_pair([*self._settings.names, *([] if host in ANY_ADDRESS else [host])])
        sockets = {name: self._shutdown.enter_context(bind(name, host, self._port(name))) for name in HTTPS}
        files = BrokerFiles(self._data.broker, pair, self._data.ca_certificate)
        takeover = Takeover(self._data.broker)
        deny_s = self._settings.flood_deny_s
        gate = Gate(store, authority, files.revoked, takeover, wall_clock, deny_s=deny_s)
        gate.write()
        broker, mqtt_port = await self._start_broker(program, files, takeover.password_line)
        client_pair = authority.client_pair(topics.SERVER)
        client = BrokerClient(ANY_ADDRESS.get(host, host), mqtt_port, client_pair, str(self._data.ca_certificate))
        client.start()
        gate.stand(broker, client)
        self._shutdown.push_async_callback(client.stop)

        answering = self._start_work(store, authority, keys, client, broker, gate)
        ports = {name: each.getsockname()[1] for name, each in sockets.items()} | {"mqtt": mqtt_port}
        apps = applications(answering, {name: Address(host=self._settings.address, port=ports[name]) for name in ports})
        contexts = {
            "operators": operators_context(pair),
            "devices": devices_context(pair, authority.pem),
            "enrolment": enrolment_context(pair, authority.pem),
        }
        listeners = [Listener(apps[name], sockets[name], contexts[name]) for name in HTTPS]
        serving = [self._begin(name, listener.run()) for name, listener in zip(HTTPS, listeners, strict=True)]
        self._shutdown.push_async_callback(_stop, listeners, serving)
        self._shutdown.callback(answering.bell.ring)
        await self._ready(client, listeners)
        self._announce(ports)

    def _start_work(
        self,
        store: Store,
        authority: FleetAuthority,
        keys: OnlineKeys,
        client: BrokerClient,
        broker: BrokerProcess,
        gate: Gate,
    ) -> Answering:
        """Begin what runs by itself; returns what the API answers from."""
        settings = self._settings
        publisher = Publisher(store, self._data, keys, wall_clock)
        delivery = Delivery(client, store, wall_clock)
        controller = Controller(
            store, delivery, publisher, keys.sign_assignment, wall_clock, offline_after_s=settings.offline_after_s
        )
        wait_s = settings.ingest_wait_ms / 1000
        flooding = Flooding(settings.ingest_rate, settings.flood_patience_s)
        ingest = Ingest(
            client, store, controller, wall_clock, flooding, gate, batch=settings.ingest_batch, wait_s=wait_s
        )
        bell = Bell()
        store.database.on_commit = _in_this_loop({ASSIGNMENTS: delivery.wake, EVENTS: bell.ring}, gate.shut_soon)
        tasks = [
            self._begin("broker", broker.watch()),
            self._begin("delivery", delivery.run()),
            self._begin("ingest", ingest.run()),
            self._begin("gate", gate.run()),
            self._begin("controller", controller.run()),
            self._begin("safety look", controller.look()),
        ]
        self._shutdown.push_async_callback(_cancel, tasks)
        return Answering(
            configuration=self._configuration,
            data=self._data,
            store=store,
            publisher=publisher,
            authority=authority,
            keys=keys,
            client=client,
            refused=ingest.refused,
            bell=bell,
            stopping=self._stopping,
            clock=wall_clock,
        )

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
    reactions: Mapping[str, Callable[[], None]], revoked: Callable[[str], None]
) -> Callable[[frozenset[str]], None]:
    """A function for other threads: calls, in the running loop, what belongs to each word, and `revoked` with the name
    of each device whose certificates were revoked."""
    loop = asyncio.get_running_loop()

    def call(words: frozenset[str]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            for word in words & reactions.keys():
                loop.call_soon_threadsafe(reactions[word])
            for word in words:
                if word.startswith(REVOKED):
                    loop.call_soon_threadsafe(revoked, word.removeprefix(REVOKED))

    return call


def _free_port(host: str) -> int:
    with bind("mqtt", host, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
