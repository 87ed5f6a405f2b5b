"""Owns what the server shows of itself and which authorities it asks of others, while it runs: brings a new
certificate of its own, or another set of trusted authorities, into listeners, broker and its own session there.

Its certificates are made anew at 2/3 of their life and by whichever authority is active. New connections see what is
new; those that are open stay, and what is asked on them is looked up in the store each time. mosquitto reads its
certificate and the authorities again when it is told to, and keeps its sessions; when an authority is trusted no longer
it is started again, so that no session of one of its certificates lives on, and the others come back.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from beamfleet_bundles import durable, topics
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.authorities import Authorities
from beamfleet_server.broker.client import BrokerClient
from beamfleet_server.broker.gate import Gate
from beamfleet_server.broker.process import BrokerProcess
from beamfleet_server.ca import KeyPair
from beamfleet_server.data import DataDirectory
from beamfleet_server.listeners import Listener
from beamfleet_server.tls import devices_context, enrolment_context, operators_context

LOOK_S = 3600.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Shown:
    trusted: frozenset[str]
    known: bytes
    certificates: bytes


class ServerIdentity:
    """Use: construct, which writes the files; `contexts` for the listeners; then `run` as a task, and `wake`."""

    def __init__(self, authorities: Authorities, data: DataDirectory, names: Sequence[str], life_s: int) -> None:
        self._authorities = authorities
        self._data = data
        self._names = names
        self._look_s = min(LOOK_S, life_s / 20)
        self._changed = asyncio.Event()
        self.pair, self.client_pair = self._write()
        self._shown = self._state()

    def contexts(self) -> dict[str, ssl.SSLContext]:
        """A TLS context for each HTTPS listener."""
        pem = self._authorities.pem
        return {
            "operators": operators_context(self.pair),
            "devices": devices_context(self.pair, pem),
            "enrolment": enrolment_context(self.pair, self._authorities.renewable_pem),
        }

    def wake(self) -> None:
        """Something about the authorities has changed: take it up now."""
        self._changed.set()

    async def run(
        self, listeners: Mapping[str, Listener], broker: BrokerProcess, client: BrokerClient, gate: Gate
    ) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._look_s)
            self._changed.clear()
            try:
                await self._take_up(listeners, broker, client, gate)
            except (BeamfleetError, OSError, ssl.SSLError) as error:
                _log.error("the server's certificates cannot be renewed", detail=str(error))

    async def _take_up(
        self, listeners: Mapping[str, Listener], broker: BrokerProcess, client: BrokerClient, gate: Gate
    ) -> None:
        await asyncio.to_thread(self._authorities.look)
        self.pair, self.client_pair = await asyncio.to_thread(self._write)
        before, self._shown = self._shown, self._state()
        if before == self._shown:
            return
        _log.info("the server's certificates or authorities have changed", active=self._authorities.active.id)
        await asyncio.to_thread(gate.write)  # before the broker reads it: each authority needs its list
        client.use(self.client_pair, str(self._data.ca_certificate))
        for name, context in self.contexts().items():
            await listeners[name].use(context)
        if before.trusted <= self._shown.trusted and client.up:
            broker.reload()
        else:  # one that is just starting may have read the old files, and cannot be told
            broker.restart()

    def _write(self) -> tuple[KeyPair, KeyPair]:
        if not self._data.ca_certificate.exists() or self._data.ca_certificate.read_bytes() != self._authorities.pem:
            durable.replace(self._data.ca_certificate, self._authorities.pem)
        return self._authorities.server_pair(self._names), self._authorities.client_pair(topics.SERVER)

    def _state(self) -> _Shown:
        return _Shown(
            frozenset(each.id for each in self._authorities.trusted),
            self._authorities.renewable_pem,
            self.pair.certificate.read_bytes() + self.client_pair.certificate.read_bytes(),
        )
