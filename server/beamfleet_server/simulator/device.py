"""Owns one simulated device: what it does with assignments, how its updates go, what it says. No sockets, no files.

It holds what a real one holds (`memory`), checks an assignment as a real one does, and then lets its fate run: time
passes in place of downloads, slots and starts. There are no slots, no packs (unless bytes are asked for), no hooks.
"""

from collections.abc import Callable
from typing import Any

from beamfleet_bundles.assignment import Assignment, DeviceFacts, check_fit, check_floor
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts

from beamfleet_server.simulator import report
from beamfleet_server.simulator.fate import Fate, Nature, draw
from beamfleet_server.simulator.memory import Memory, Release, Update, unheard_of
from beamfleet_server.simulator.telemetry import Telling, sample
from beamfleet_server.simulator.voice import Voice
from beamfleet_server.simulator.world import Line, Timer, World

PENDING = frozenset({"downloading", "verified", "staged"})
SWAPPED = frozenset({"swapping", "trial"})
NO_EVIDENCE = frozenset({"power", "unconfirmed", "uncounted"})
PROGRESS_EXPIRY_S = 120
DARK_S = 3.0
"""How long a device is away whose power failed."""
REPLAYS = 5
AGE_S = 14 * 86_400
"""A release that runs when the simulation begins has run for up to so long."""


class Device:
    """One device, or one of the two machines that share an identity."""

    def __init__(
        self,
        name: str,
        memory: Memory,
        nature: Nature,
        fates: Callable[[str, str, int], Fate],
        world: World,
        machine: int = 0,
    ) -> None:
        self.name, self.memory, self.nature, self._machine = name, memory, nature, machine
        self._fates, self._world = fates, world
        self._line: Line | None = None
        self._timer: Timer | None = None
        self._offered = b""
        self._refused = b""
        self._before = b""
        self._old: list[bytes] = []
        self._fate: Fate | None = None
        self._telling = Telling(nature.profile)
        self._starts, self._started = memory.starts, world.now() - int(AGE_S * draw(name, "age"))
        self.voice = Voice(memory, world, self._send)
        self._boot()

    def attach(self, line: Line) -> None:
        """This is the way to the broker from now on."""
        self._line = line

    def start(self) -> None:
        """The agent starts: what was under way goes on. A trial begins anew, a download with the next assignment."""
        update = self.memory.update
        if update.phase == "swapping":
            self.memory.update = Update()
        elif update.phase == "trial":
            self._fate = self._fates(update.manifest, update.version, update.attempt)
            self._try()
        self._changed()

    def stop(self) -> None:
        """The agent ends."""
        self._cancel()
        self.voice.silence()

    # --- what the line says

    def presence(self, connection: int, online: bool, reason: str) -> bytes:
        """Birth, will or farewell of this boot's connection number `connection`."""
        return report.presence(self.memory, self.nature, connection, online, reason, self._world.now())

    def risen(self) -> None:
        """There is a session: what waits goes out, and how the device is."""
        self.voice.session_began()
        self._telling.session_began()
        if self.nature.health_s:
            self.sample()

    def fallen(self) -> None:
        """There is none."""
        self.voice.silence()

    def heard(self, kind: str, said: dict[str, Any] | bytes) -> None:
        """A message below `down`: the document of an assignment, or a decoded object."""
        match said:
            case bytes():
                if said:
                    self._assigned(said)
            case {"boot": int(boot), "seq": int(seq)} if kind == "ack":
                self._world.tally.count("acks")
                self.voice.acknowledge(boot, seq)
                self.voice.flush()
            case {"name": str()} if kind == "command":
                self._world.tally.count("commands")
                self.voice.session_began()
            case _:
                self._world.tally.count("not_understood")

    def sample(self) -> None:
        """Say how the device is."""
        if self._line is None or not self._line.up:
            return
        memory, now = self.memory, self._world.now()
        if memory.starts != self._starts:
            self._starts, self._started = memory.starts, now
        runs = memory.running()
        release = f"{runs.product} {runs.version}" if runs else ""
        line = sample(self.name, self.nature, release, memory.starts, max(0, now - self._started), now)
        told = self._telling.report(line)
        expiry_s = None if "full" in told else max(1, int(2 * self.nature.health_s))
        self._send("health", report.dump(told), expiry_s)

    # --- assignments

    def _assigned(self, document: bytes, *, looked: bool = False) -> None:
        if document == self._refused:
            return
        if self.memory.update.phase in SWAPPED:
            self._offered = document  # looked at when that is over
            return
        try:
            assignment, facts = self._world.check(document, self.name, self.memory.sequence)
        except BundleError as error:
            if not looked and error.code in ("assignment.signature", "trust.unknown_target"):
                self._world.look(lambda: self._assigned(document, looked=True))
            else:
                self._refuse(document, error)
            return
        self.memory.sequence = assignment.sequence
        self._world.tally.count("assignments")
        if facts is None:
            self._hold()
        else:
            self._want(document, assignment, facts)
        self._changed()

    def _refuse(self, document: bytes, error: BundleError) -> None:
        self._refused = document
        self._world.tally.count(f"refused {error.code}")
        self.voice.event("error", error.code, error.message)
        self._changed()

    def _hold(self) -> None:
        if self.memory.update.phase in PENDING:
            self._cancel()
            self.memory.update = Update(reason="hold")
            self._world.tally.count("held")

    def _want(self, document: bytes, assignment: Assignment, facts: Facts) -> None:
        memory, target = self.memory, self.nature.target
        release = Release(facts.sha256, facts.custom.product, facts.custom.version, facts.custom.floor)
        wanted = Update("downloading", release.product, release.version, release.manifest, assignment.attempt)
        again = (memory.update.manifest, memory.update.attempt) == (release.manifest, assignment.attempt)
        pair = (release.slot, assignment.attempt)
        try:
            hardware = target.hardware or None
            check_fit(facts, DeviceFacts(target.arch, target.libc, target.libc_version or None, hardware))
            check_floor(facts, memory.floors.get(release.product, 0))
        except BundleError as error:
            self._cancel()
            memory.update = wanted
            self._end("failed", error.code, error.message)
            self._refused = document
            return
        if pair in memory.spent:
            if not again or memory.update.phase in PENDING:
                self._cancel()
                memory.update = wanted
                self._end("failed", "update.quarantined", "it did not stay in this attempt")
            return
        if memory.slot == release.slot and memory.phase != "trial":
            self._cancel()
            if not again or memory.update.phase != "committed":
                memory.update = wanted
                self._end("committed")
            return
        if not again and memory.carried == f"{release.manifest}:{assignment.attempt}":
            return  # the order was carried out, and somebody has installed something else since
        if again and memory.update.phase in PENDING and self._timer is not None:
            return
        if again and self._fate is not None and memory.update.phase in PENDING and self._fate.stuck:
            return
        self._cancel()
        memory.remember(release)
        memory.update = wanted
        self._fate = self._fates(release.manifest, release.version, assignment.attempt)
        self._world.tally.count("downloads")
        self._progress(0.0)
        self._world.fetch(self.name, facts, lambda: self._download(wanted))

    # --- the course of an update

    def _download(self, wanted: Update) -> None:
        if self.memory.update is wanted and self._fate is not None:
            self._next("downloading", self._fate.download_s, lambda: self._pass("verified", self._verify))

    def _verify(self) -> None:
        self._next("verified", self._ours.verify_s, lambda: self._pass("staged", self._stage))

    def _stage(self) -> None:
        if self._ours.lies == "committed":
            self.memory.update.phase = "committed"  # its boot/state says otherwise
            self._changed()
            return
        self._next("staged", self._ours.stage_s, lambda: self._pass("swapping", self._swap))

    def _swap(self) -> None:
        if self._ours.stuck != "swapping":
            self._later(self._ours.swap_s, self._start_trial)

    def _start_trial(self) -> None:
        memory, update = self.memory, self.memory.update
        memory.previous, memory.slot = memory.slot, update.manifest[:32]
        memory.phase, memory.attempt, memory.cause = "trial", update.attempt, "update"
        memory.starts += 1
        key = f"{update.manifest}:{update.attempt}"
        memory.installs[key] = memory.installs.get(key, 0) + 1
        self._world.tally.installed(again=memory.installs[key] > 1)
        self.voice.event("restart", "update", slot=memory.slot, starts=memory.starts)
        self._pass("trial", self._try)

    def _try(self) -> None:
        fate = self._ours
        if fate.reverts is not None:
            cause = fate.reverts.cause
            self._later(fate.reverts_s, lambda: self._go_back("reverted", cause))
        else:
            self._later(fate.trial_s, self._commit)

    def _commit(self) -> None:
        memory, fate = self.memory, self._ours
        memory.phase, memory.carried = "committed", f"{memory.update.manifest}:{memory.update.attempt}"
        release = memory.running()
        if release is not None:
            memory.floors[release.product] = max(memory.floors.get(release.product, 0), release.floor)
        self._end("committed")
        self._changed()
        if fate.falls is not None:
            cause = fate.falls.cause
            self._later(fate.falls_s, lambda: self._go_back("fallback", cause))
        if fate.stick is not None:
            product, _, version = fate.stick.installs.partition(" ")
            self._later(fate.stick_s, lambda: self._install(product, version))
        if fate.lies == "replay":
            for old in self._old * REPLAYS:
                self._send("state", old, None)
        self._resume()

    def _install(self, product: str, version: str) -> None:
        """Somebody installs another release from a stick: an update with attempt 0, and no word of the server's."""
        memory, release = self.memory, unheard_of(product, version, "stick")
        memory.remember(release)
        memory.previous, memory.slot = memory.slot, release.slot
        memory.phase, memory.attempt, memory.cause = "committed", 0, "update"
        memory.starts += 1
        memory.update = Update("committed", product, version, release.manifest)
        self._world.tally.count("sticks")
        self.voice.event("restart", "update", slot=memory.slot, starts=memory.starts)
        self._changed()

    def _go_back(self, phase: str, cause: str) -> None:
        """The launcher's go_back: what ran before runs again."""
        memory, update = self.memory, self.memory.update
        memory.failed = f"{memory.slot}:{memory.attempt}:{cause}"
        memory.phase, memory.cause = phase, "fallback" if phase == "fallback" else "revert"
        memory.slot, memory.previous = memory.previous, ""
        memory.starts += 1
        if cause not in NO_EVIDENCE:
            memory.spend(update.manifest[:32], update.attempt)
        self._end("reverted", "fallback" if phase == "fallback" else cause)
        self.voice.event("restart", memory.cause, slot=memory.slot, starts=memory.starts)
        if cause == "power":
            self._power_cut()
        self._changed()
        self._resume()

    def _power_cut(self) -> None:
        self.memory.power_losses += 1
        if self._line is not None:
            self._line.cut(DARK_S)
        self._boot()
        self.voice.boot()

    def _resume(self) -> None:
        """An update has ended; an assignment may have come in meanwhile."""
        offered, self._offered = self._offered, b""
        if offered:
            self._assigned(offered)

    def _end(self, phase: str, reason: str = "", detail: str = "") -> None:
        update = self.memory.update
        update.phase, update.reason, update.detail = phase, reason, detail
        self._world.tally.ended(phase, reason)
        self.voice.event(
            "update", reason, detail, update.manifest[:32],
            phase=phase, product=update.product, version=update.version, attempt=update.attempt,
        )  # fmt: skip

    def _next(self, phase: str, seconds: float, then: Callable[[], None]) -> None:
        """Leave this phase after so long, unless it is where the update fails or stays."""
        fate = self._ours
        if fate.stuck == phase:
            return
        if fate.fails is not None and fate.fails.at == phase:
            self._later(seconds, self._fail)
            return
        self._later(seconds, then)

    def _fail(self) -> None:
        update, fails = self.memory.update, self._ours.fails
        if fails is not None:
            self.memory.spend(update.manifest[:32], update.attempt)
            self._end("failed", fails.code, "scripted")
            self._changed()

    def _pass(self, phase: str, then: Callable[[], None]) -> None:
        self._progress(1.0)
        self.memory.update.phase = phase
        self._changed()
        then()

    def _progress(self, part: float) -> None:
        update = self.memory.update
        if update.phase == "downloading" and self._ours.download_s >= 1:
            self._send("progress", report.progress(update, part), PROGRESS_EXPIRY_S)

    @property
    def _ours(self) -> Fate:
        if self._fate is None:
            update = self.memory.update
            self._fate = self._fates(update.manifest, update.version, update.attempt)
        return self._fate

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._cancel()

        def due() -> None:
            self._timer = None
            call()

        self._timer = self._world.after(seconds / self._world.speed, due)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what it says

    def _boot(self) -> None:
        self.memory.boot += 1
        self.memory.machine = f"{int(draw(self.name, self._machine, self.memory.boot) * 2**64):032x}"

    def _changed(self) -> None:
        """Say what is new."""
        self._before = self.voice.said
        self.voice.state(report.state(self.memory, self.nature, self._world.metadata))
        self._misbehave()
        self.voice.flush()

    def _misbehave(self) -> None:
        """What its fate has it say beside the truth."""
        fate = self._fate
        if fate is None or fate.lies not in ("order", "replay") or not self._before:
            return
        if fate.stick is not None:
            product, _, version = fate.stick.installs.partition(" ")
            self._later(fate.stick_s, lambda: self._install(product, version))
        if fate.lies == "replay":
            self._old = [*self._old, self._before][:1]
        elif self._before != self.voice.said:
            self.voice.flush()
            self._send("state", self._before, None)

    def _send(self, kind: str, payload: bytes, expiry_s: int | None) -> bool:
        line = self._line
        if line is None or not line.up:
            return False
        self._world.tally.count("sent")
        if self.nature.late_s:
            self._world.after(self.nature.late_s / self._world.speed, lambda: _publish(line, kind, payload, expiry_s))
            return True
        return line.publish(kind, payload, expiry_s)


def _publish(line: Line, kind: str, payload: bytes, expiry_s: int | None) -> None:
    line.publish(kind, payload, expiry_s)
