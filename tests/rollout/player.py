"""Plays one history: time, devices and people against the reference, each op recorded and watched."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from random import Random

from beamfleet_server.fleet.states import IN_FLIGHT, Progress, State

from tests.rollout.behaviours import Behaviour, SimDevice
from tests.rollout.memory_world import MemoryWorld
from tests.rollout.watch import Watch
from tests.rollout.world import (
    ARM,
    BOARD,
    PLAIN,
    Act,
    Enrol,
    Event,
    Look,
    Machine,
    Online,
    Op,
    Publish,
    Reports,
    Restart,
    Said,
)

VERSIONS = ("1.0.0", "1.1.0", "1.5.0", "2.0.0", "2.1.0")
HOUR_S = 3600
LAST_LOOK_S = 12 * 86_400
MOST_LOOKS = 400


@dataclass(slots=True)
class Player:
    seed: int
    chance: Random
    now: int
    bad: frozenset[str]
    world: MemoryWorld = field(default_factory=MemoryWorld)
    devices: dict[str, SimDevice] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)
    queue: list[tuple[int, int, Callable[[], object]]] = field(default_factory=list)
    heard: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    wakes: dict[str, int] = field(default_factory=dict)
    published: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numbered: int = 0
    watch: Watch = field(init=False)
    late: int = 0
    luck: bool = False
    """late: seconds that most reports take; luck: a bad release works on some devices."""

    # --- time

    def at(self, after: int, happens: Callable[[], object]) -> None:
        """Let it happen in `after` seconds."""
        self.numbered += 1
        heappush(self.queue, (self.now + after, self.numbered, happens))

    def do(self, event: Event) -> bool:
        """An op, now; then everybody hears what they were told."""
        op = Op(self.now, event)
        self.ops.append(op)
        accepted = self.world.apply(op)
        if not accepted:
            self.refused.add(len(self.ops) - 1)
        self.watch.after(op)
        for name, line in self.world.told.items():
            if len(line) != self.heard.get(name, 0):
                self.heard[name] = len(line)
                if self.devices[name].online:
                    self.at(self.chance.choice((0, 1, 20)), partial(self.hear, name))
        return accepted

    # --- devices

    def hear(self, name: str) -> None:
        device, line = self.devices[name], self.world.told.get(name)
        if device.online and device.behaviour is not Behaviour.SILENT and line and device.hear(*line[-1]):
            self.changed(device)

    def changed(self, device: SimDevice) -> None:
        """Its state is another one: it says so, and its next step is due."""
        self.report(device)
        self.schedule(device)

    def schedule(self, device: SimDevice) -> None:
        self.wakes[device.name] = number = self.wakes.get(device.name, 0) + 1
        if device.script:
            self.at(device.script[0][0], partial(self.wake, device, number))

    def wake(self, device: SimDevice, number: int) -> None:
        if self.wakes.get(device.name) == number and device.script and device.wake():
            self.changed(device)
            if not device.script:
                self.at(5, partial(self.hear, device.name))

    def report(self, device: SimDevice, *, again: bool = False) -> None:
        """Its state now goes out; it may be late, or lost and sent again later."""
        if not device.online:
            return
        said = device.said()
        if not again and self.chance.random() < 0.05:
            self.at(self.chance.choice((100, 400)), partial(self.report, device, again=True))
            return
        delay = self.late if self.late and self.chance.random() < 0.7 else self.chance.choice((0, 0, 1, 2))
        self.at(delay, partial(self.deliver, device.name, said))

    def deliver(self, name: str, said: Said) -> None:
        self.watch.delivered(name, said)
        self.do(Reports(((name, said),)))

    def enrol(self, device: SimDevice, labels: dict[str, str]) -> None:
        self.devices[device.name] = device
        device.committed.add(device.manifest(device.version))
        self.do(Enrol(device.name, tuple(sorted(labels.items()))))
        self.do(Look())
        if device.behaviour is Behaviour.SILENT and self.chance.random() < 0.5:
            return
        chance = self.chance
        if not device.online and device.behaviour is not Behaviour.SILENT:
            self.at(chance.choice((100, 2000, 20_000)), partial(self.back, device))
        if device.behaviour is Behaviour.LIAR:
            for _ in range(4):
                self.at(chance.randint(20, 900), partial(self.lie, device))
        if device.behaviour is Behaviour.CLONED:
            for _ in range(2):
                self.at(chance.randint(20, 400), partial(self.cloned, device))
        self.presence(device, online=device.online)
        self.at(0, partial(self.report, device, again=True))
        if device.behaviour is Behaviour.SILENT:
            device.online = False

    def presence(self, device: SimDevice, *, online: bool) -> None:
        self.sessions[device.name] = self.sessions.get(device.name, 0) + 1
        self.do(Online(device.name, online, self.sessions[device.name]))

    def away(self, device: SimDevice, seconds: int) -> None:
        if device.online:
            device.online = False
            self.do(Online(device.name, False, self.sessions.get(device.name, 0)))
            self.at(seconds, partial(self.back, device))

    def back(self, device: SimDevice) -> None:
        device.online = True
        self.presence(device, online=True)
        self.report(device, again=True)
        self.hear(device.name)

    def stick(self, device: SimDevice, version: str) -> None:
        if not device.swapped:
            device.install(version)
            self.changed(device)

    def cloned(self, device: SimDevice) -> None:
        """The other machine speaks: of a later boot, and of what it runs."""
        device.boot += self.chance.randint(0, 1)
        other = replace(
            device.said(), version="1.0.0", manifest=device.manifest("1.0.0"), phase="committed", update=None
        )
        self.deliver(device.name, other)

    def lie(self, device: SimDevice) -> None:
        self.deliver(device.name, device.lie(VERSIONS))

    def moves(self, device: SimDevice, machine: Machine) -> None:
        device.machine = machine
        self.report(device)

    # --- operators

    def look(self) -> None:
        self.do(Look())

    def then_look(self, event: Event) -> None:
        self.do(event)
        self.do(Look())

    def act(self, word: str, number: int) -> None:
        self.do(Act(word, number))

    def published_now(self, version: str, targets: tuple[str, ...]) -> None:
        self.published[version] = targets
        self.do(Publish(version, targets))

    def target(self, board: bool, arm: bool) -> Callable[[str], str]:
        """The target of each version for a device of this kind."""

        def of(version: str) -> str:
            if arm:
                return ARM
            return BOARD if board and BOARD in self.published.get(version, ()) else PLAIN

        return of

    # --- to the end

    def run(self) -> None:
        """Until nothing is left to come and every rollout has ended."""
        end, looks = self.now + LAST_LOOK_S, 0
        while looks < MOST_LOOKS:
            due = min(self._due(), end)
            if self.queue and self.queue[0][0] <= due:
                self.now, _, happens = heappop(self.queue)
                happens()
                continue
            if due >= end:
                break
            self.now = max(due, self.now + 1)
            looks += 1
            self.look()
            if self.chance.random() < 0.01:
                self.do(Restart())
        self.now = end
        self.look()
        self.look()

    def _due(self) -> int:
        """When the clock alone changes something next."""
        times = [self.now + LAST_LOOK_S]
        for kept in self.world.rollouts.values():
            facts = kept.facts
            if self.now < facts.expires:
                times.append(facts.expires)
            if facts.proved_since is not None:
                times.append(facts.proved_since + kept.plan.phases[facts.phase].soak)
            for row in kept.rows.values():
                member = row.member
                if member.deadline is not None:
                    times.append(member.deadline)
                if member.state is State.PENDING and member.manifest:
                    times.append(member.next_try)
                waits = member.state is State.PENDING or member.state in IN_FLIGHT
                if kept.plan.window and waits and facts.progress is Progress.RUNNING:
                    times.append(
                        self.now - self.now % HOUR_S + HOUR_S // 2 + (HOUR_S // 2) * (self.now % HOUR_S >= 1800)
                    )
        return min(time for time in times if time > self.now)
