"""Owns the simulated fleet as a whole: its event loop, its devices and their coming and going, its end.

enrol what is missing -> verify the metadata -> open the links, as many handshakes at once as are asked for
every second: pings, counters; now and then, and at the end: memories to disk
SIGINT, SIGTERM, or the time is over: farewells, counters, end
"""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import requests
from beamfleet_bundles import durable
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.errors import BeamfleetError, BundleError
from beamfleet_bundles.facts import Facts

from beamfleet_server.simulator import memory as memories
from beamfleet_server.simulator.authority import Authority
from beamfleet_server.simulator.device import Device
from beamfleet_server.simulator.enrolment import Fleet as Place
from beamfleet_server.simulator.enrolment import Identities, Token
from beamfleet_server.simulator.fate import Nature, draw, fate, nature
from beamfleet_server.simulator.link import Link
from beamfleet_server.simulator.link import Place as Broker
from beamfleet_server.simulator.memory import Memory, Release, unheard_of
from beamfleet_server.simulator.scenario import Scenario
from beamfleet_server.simulator.tally import Tally

STATUS = "status.json"
STORE_S = 30.0
TEND_S = 5.0
HUSH_S, LISTEN_S = 5.0, 0.1
LOOK_S = 1.0
FETCHERS = 16
PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Run:
    """What is asked for. seconds: 0 for until it is ended. handshakes: so many at the same time. fetch: bytes of each
    pack that are really downloaded."""

    names: Sequence[str]
    seed: int
    seconds: float = 0.0
    speed: float = 1.0
    handshakes: int = 48
    fetch: int = 0


class Fleet:
    """The devices of one run. `show` is given the summary every second."""

    def __init__(
        self,
        run: Run,
        scenario: Scenario,
        identities: Identities,
        place: Place,
        show: Callable[[dict[str, Any]], None],
    ) -> None:
        self._run, self._scenario, self._identities, self._place, self._show = run, scenario, identities, place, show
        self.speed, self.tally = run.speed, Tally()
        self._natures = {name: nature(scenario, run.seed, name) for name in run.names}
        self._memories: dict[str, Memory] = {}
        self._devices: list[tuple[Device, Link]] = []
        self._authority: Authority | None = None
        self._looking: asyncio.Task[None] | None = None
        self._curious: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetchers = ThreadPoolExecutor(FETCHERS)
        self._began = time.monotonic()
        self._hushed = False

    def enrol(self, token: Token, done: Callable[[int, int], None]) -> int:
        """Enrol who is not; see `Identities.enrol`."""
        self._identities.belong(self._place)
        labels = {name: each.labels for name, each in self._natures.items()}
        return self._identities.enrol(self._place, labels, token, done)

    async def run(self) -> dict[str, Any]:
        """Until the end; the summary. Errors `trust.*` when the metadata cannot be verified at the start."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, over.set)
        pair = self._identities.pair(self._run.names[0])
        self._authority = Authority(
            self._identities.trust, self._place.api, self._identities.authorities, pair, self._place.root
        )
        await asyncio.to_thread(self._authority.refresh)
        self._memories = memories.load(self._identities.directory)
        await self._gather()
        if self._run.seconds:
            loop.call_later(self._run.seconds, over.set)
        self._began = time.monotonic()
        watch = asyncio.create_task(self._watch())
        await over.wait()
        watch.cancel()
        await self._hush()
        summary = self._summary()
        await self._disperse()
        return summary

    # --- the world of a device

    @property
    def metadata(self) -> dict[str, Any]:
        """The versions of the verified metadata."""
        return self._here.versions

    def now(self) -> int:
        """Unix seconds."""
        return int(time.time())

    def after(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call this later."""
        return asyncio.get_running_loop().call_later(seconds, call)

    def check(self, document: bytes, device: str, last: int) -> tuple[Assignment, Facts | None]:
        """See `Authority.check`."""
        return self._here.check(document, device, last)

    def look(self, then: Callable[[], None]) -> None:
        """Look at the metadata, once for all who ask meanwhile."""
        self._curious.append(then)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def fetch(self, device: str, facts: Facts, then: Callable[[], None]) -> None:
        """Fetch the beginning of a pack, if bytes are asked for; a failure is tried again, as the agent does."""
        if not self._run.fetch:
            then()
            return
        task = asyncio.create_task(self._fetch(device, facts.sha256, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- beginning and end

    async def _gather(self) -> None:
        host, _, port = self._place.mqtt.rpartition(":")
        broker = Broker(host.strip("[]"), int(port), self._place.authorities, self._run.handshakes, self.tally.count)
        releases: dict[str, Release] = {}
        for name, each in self._natures.items():
            known = self._memories.get(name)
            if known is None and self._scenario.runs:
                known = await self._flashed(each, releases)
            self._add(name, known or Memory(), each, broker)
            if each.clone:
                self._add(f"{name}#2", self._memories.get(f"{name}#2") or msgspec.convert(
                    msgspec.to_builtins(self._memories[name]), Memory), each, broker)  # fmt: skip

    def _add(self, key: str, kept: Memory, each: Nature, broker: Broker) -> None:
        name, _, second = key.partition("#")
        self._memories[key] = kept
        fates = partial(fate, self._scenario, self._run.seed, name)
        device = Device(name, kept, each, fates, self, machine=len(second))
        link = Link(broker, name, self._identities.pair(name), device, each.keepalive_s)
        device.attach(link)
        self._devices.append((device, link))
        device.start()
        if each.never:
            return
        if each.rhythm is None:
            link.open()
        else:
            self._come(device, link, 0)
        if each.health_s:
            self._sample(device, each.health_s, draw(key, "health"))

    async def _flashed(self, each: Nature, releases: dict[str, Release]) -> Memory:
        """What a device keeps that was flashed with the scenario's release, published or not."""
        product, version = self._scenario.release
        target = each.target
        key = f"{target.arch}-{target.libc}-{target.hardware}"
        if key not in releases:
            found = await asyncio.to_thread(self._here.releases, product, version)
            fits = [
                facts.sha256
                for facts in found
                if (facts.custom.arch, facts.custom.libc) == (target.arch, target.libc)
                and facts.custom.hardware in (None, target.hardware)
            ]
            other = unheard_of(product, version, key)
            releases[key] = Release(fits[0], product, version) if fits else other
        release = releases[key]
        return Memory(
            slot=release.slot, phase="committed", attempt=1, cause="update", starts=1, releases={release.slot: release}
        )

    async def _hush(self) -> None:
        """No more reports of health; those that are on their way arrive, or there is trouble."""
        self._hushed = True
        for _ in range(int(HUSH_S / LISTEN_S)):
            if not any(link.waiting for _, link in self._devices):
                return
            await asyncio.sleep(LISTEN_S)

    async def _disperse(self) -> None:
        """Say farewell and write down what the devices keep."""
        for task in (*self._tasks, self._looking):
            if task is not None:
                task.cancel()
        for device, link in self._devices:
            device.stop()
            link.close("the simulation ended")
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(memories.store, self._identities.directory, self._memories)

    async def _watch(self) -> None:
        stored = tended = time.monotonic()
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            self._dismiss()
            summary = self._summary()
            self._show(summary)
            durable.replace(self._identities.directory / STATUS, msgspec.json.encode(summary), 0o600)
            if now - tended >= TEND_S:
                tended = now
                for _, link in self._devices:
                    link.tend()
            if now - stored >= STORE_S:
                stored = now
                memories.store(self._identities.directory, self._memories)

    def _summary(self) -> dict[str, Any]:
        up = sum(link.up for _, link in self._devices)
        waiting = sum(link.up and device.voice.waiting for device, link in self._devices)
        ours = [device.memory for device, _ in self._devices]
        return {"seed": self._run.seed, **self.tally.summary(ours, up, waiting, time.monotonic() - self._began)}

    # --- coming and going

    def _come(self, device: Device, link: Link, turn: int) -> None:
        rhythm = device.nature.rhythm
        if rhythm is not None:
            link.open()
            up_s = rhythm.up.at(draw(self._run.seed, device.name, "up", turn))
            self.after(up_s / self.speed, lambda: self._go(device, link, turn))

    def _go(self, device: Device, link: Link, turn: int) -> None:
        rhythm = device.nature.rhythm
        if rhythm is not None:
            link.close()
            down_s = rhythm.down.at(draw(self._run.seed, device.name, "down", turn))
            self.after(down_s / self.speed, lambda: self._come(device, link, turn + 1))

    def _dismiss(self) -> None:
        """Who comes once goes when the server has acknowledged what it is."""
        for device, link in self._devices:
            if device.nature.once and link.up and not device.voice.waiting and not link.waiting:
                link.close()

    def _sample(self, device: Device, every_s: float, first: float) -> None:
        def due() -> None:
            if not self._hushed:
                device.sample()
                self.after(every_s, due)

        self.after(every_s * first, due)

    # --- what is fetched

    @property
    def _here(self) -> Authority:
        if self._authority is None:
            raise BundleError("trust.unavailable", "the metadata has not been seen yet")
        return self._authority

    async def _look(self) -> None:
        await asyncio.sleep(0.1)  # others will ask as well
        while self._curious:
            try:
                await asyncio.to_thread(self._here.refresh)
            except BeamfleetError:
                self.tally.count("failed_looks")
                await asyncio.sleep(LOOK_S)
                continue
            curious, self._curious = self._curious, []
            for then in curious:
                then()
            await asyncio.sleep(LOOK_S)
        self._looking = None

    async def _fetch(self, device: str, manifest: str, then: Callable[[], None]) -> None:
        pause_s, loop = 1.0, asyncio.get_running_loop()
        while True:
            pair = self._identities.pair(device)
            try:
                size = await loop.run_in_executor(self._fetchers, self._fetched, pair, manifest)
            except (requests.exceptions.RequestException, OSError):
                self.tally.count("failed_fetches")
                await asyncio.sleep(pause_s)
                pause_s = min(600.0, 2 * pause_s)
            else:
                self.tally.count("bytes", size)
                then()
                return

    def _fetched(self, pair: Path, manifest: str) -> int:
        """Bytes of the pack that came; blocks."""
        url, most = f"{self._place.api}/packs/{manifest}/full", self._run.fetch
        with requests.get(
            url, headers={"Range": f"bytes=0-{most - 1}"}, cert=str(pair), verify=str(self._identities.authorities),
            timeout=60, stream=True, allow_redirects=False,
        ) as answer:  # fmt: skip
            answer.raise_for_status()
            return sum(len(piece) for piece in answer.iter_content(PIECE))
