"""The resident agent: one thread, one loop, a few wake-ups a minute. This docstring is the map of the device side.

    server ── session.py ── uplink.py ──┐                      ┌── monitor.py ── beamfleet_link, probes -> vitals.py
    worker ── child.py ─────────────────┤   Agent.apply(event) ├── control.py ── beamfleet-agent on the command line
    launcher ── boot.py (boot/state) ───┤          │           ┘
                hooks.py (boot/hook.*) ─┘          │
                                            update.step: (state, event) -> (state, actions), pure
                                                   │
        journal.py (only if something durable changed) ── then each action: worker, hooks, request, watch, timer, report

Who writes what: the launcher boot/ and current; the worker slots/, staging/, trust/, identity/; the agent journal and
requests/. Every fact comes from its owner: what runs is read from boot/state, what is there from slots/; the journal
only remembers what was meant. `loop.py` waits, `reports.py` keeps what the server has not acknowledged, `paths.py`
knows where things lie, `settings.py` what the owner settled, `inventory.py` what this device is, `place.py` where it
is, `host.py` how; `vitals.py` makes reports of samples, as `telemetry.py` wants them; `resident.py` is the life of the
process, and `notify.py` tells systemd of it.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import Any, assert_never

from beamfleet_agent import __version__, bearings, inventory, moves, place, telemetry
from beamfleet_agent.boot import Boot, BootState
from beamfleet_agent.child import Child
from beamfleet_agent.errors import AgentError
from beamfleet_agent.health import Sample
from beamfleet_agent.hooks import Answer, Hooks
from beamfleet_agent.journal import Journal, Ledger, release_from
from beamfleet_agent.laps import Laps
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.monitor import Monitor
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import Reports, clean, update_of
from beamfleet_agent.restarts import Restarts
from beamfleet_agent.settings import Settings
from beamfleet_agent.update import lower_schema, step
from beamfleet_agent.update_state import FINAL, PENDING, SWAPPED, State, known
from beamfleet_agent.uplink import Uplink
from beamfleet_agent.vitals import Vitals

BOOT_POLL_S = 0.5
JOURNAL_AGAIN_S = 10.0
REQUEST_AGAIN_S = 5.0
SAMPLE_SOON_S = 3.0


class Agent:
    """The device's agent; needs the lock of `claim`. `on_change` hears `status()` after everything that happened.

    on_sample: hears each health sample, without its content.
    offline: hold no session, for an installation from a file while no agent runs.
    """

    def __init__(self, loop: Loop, log: Log, paths: Paths, settings: Settings, *, offline: bool = False) -> None:
        self._loop, self._log, self._paths, self._settings = loop, log, paths, settings
        self.on_change: Callable[[dict[str, Any]], None] = lambda _status: None
        self.on_sample: Callable[[], None] = lambda: None
        self._boot = Boot(paths.app_dir, paths.run_app)
        self.boot_state: BootState = self._boot.state()
        self._journal = Journal(paths.journal)
        lost = Ledger(boot=int(time.time()) if os.path.exists(paths.pair) else 0)  # above what the server has seen
        state, ledger = self._journal.read() or (State(), lost)
        self.state = state._replace(salt=settings.device)
        rhythm = telemetry.rhythm(settings.profile, settings.health_interval_s, settings.keepalive_s)
        heard = settings.server is not None
        self._reports = Reports(ledger._replace(boot=ledger.boot + 1), self._send, rhythm, heard=heard)
        self._vitals = Vitals(loop, paths.slots, self._reports, rhythm, heard=heard and not offline)
        self._inventory = inventory.take(paths.slots, settings.hardware, settings.network)
        self._bearings = bearings.load(paths)
        self._monitor = Monitor(
            loop, paths, self._boot, rhythm.sample_s, settings.trial_s, self._restart, self._sampled,
            lambda *seen: self.apply(moves.Observed(*seen)), lambda: self.apply(moves.Proven()), self._probed,
        )  # fmt: skip
        self._hooks = Hooks(loop, paths, self._request, self._hooked)
        self._restarts = Restarts(loop, log, paths, self._reports, self._pass_on)
        self._uplink = None
        if settings.server is not None and not offline:
            self._uplink = Uplink(
                loop, log, paths, settings, settings.server, self._reports, rhythm.keepalive_s,
                lambda document: self.apply(moves.Assigned(document)), self._save_ledger, self._reachable, self._learn,
            )  # fmt: skip
        self._child: Child | None = None
        self._said: dict[str, Any] = {}
        self._laps = Laps()
        self._failure = ("", "")
        """Code and words of the newest failure of a job, which is in the log."""
        self._asked, self._hint = 0, ""
        self._postponed: list[moves.Event] = []
        self.progress: tuple[int, int] = (0, 0)

    def start(self) -> None:
        """Recover from what is really there, then go on."""
        self._loop.on_signal(signal.SIGIO, self._look)
        self._watch = self._boot.watch()
        if self.busy:
            self._log.follow(self.state.update.trace_id)
        self._log.info("agent started", version=__version__, boot=self._reports.ledger.boot, slot=self.boot_state.slot)
        self._restarts.look(self.boot_state)
        self._tell_hooks()
        slots = frozenset(name for name in os.listdir(self._paths.slots) if len(name) == 32)
        self.apply(moves.Started(self.boot_state.ground(), slots))
        if not self.state.job and os.path.isdir(self._paths.staging) and os.listdir(self._paths.staging):
            self._work({"job": "clean"})
        if self._uplink is not None:
            self._uplink.start()
        self._monitor.start()

    def stop(self) -> None:
        """Say good-bye; what is under way goes on at the next start."""
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # Python restores the default at its end, which is to die
        self._cancel()
        self._monitor.stop()
        if self._uplink is not None:
            self._uplink.stop()
        self._log.info("agent stopped")
        self._loop.stop()

    # --- the one way in

    def apply(self, event: moves.Event) -> None:
        """Take an event: decide, journal, act. While the journal cannot be written events wait, in order."""
        if self._postponed:
            self._postponed.append(event)
            return
        before, ledger = self.state, self._reports.ledger
        state, actions = step(before, event)
        self._note(before, state)
        try:
            self._journal.write(state, self._reports.ledger)
        except AgentError as error:
            self._log.error("journal not written", code=error.code, detail=error.message)
            self._reports.ledger = ledger
            self._postponed.append(event)
            self._loop.after("agent.journal", JOURNAL_AGAIN_S, self._again)
            return
        self.state = state
        if state.update.phase != "trial":
            self._monitor.unwatch()
        self._follow()
        for action in actions:
            self._act(action)
        if self._owed and not self._loop.pending("agent.boot"):
            self._loop.after("agent.boot", BOOT_POLL_S, self._poll_boot)
        self._report()

    def _again(self) -> None:
        waiting, self._postponed = self._postponed, []
        for event in waiting:
            self.apply(event)

    def _note(self, before: State, after: State) -> None:
        """What the server and the log should know of a change."""
        old, new = before.update, after.update
        if (old.phase, old.slot, old.reason, old.detail) == (new.phase, new.slot, new.reason, new.detail):
            return
        self._laps.enter(new)
        self._log.follow(new.trace_id)
        facts = {"product": new.product, "version": new.version, "slot": new.slot}
        self._log.info("update", phase=new.phase, attempt=new.attempt, code=new.reason, detail=new.detail, **facts)
        if new.phase in FINAL:
            self._log.follow("")
            if (old.phase, old.slot) != (new.phase, new.slot):
                self._reports.event(
                    "update", new.reason, new.detail, new.slot,
                    phase=new.phase, product=new.product, version=new.version, attempt=new.attempt,
                    **self._laps.of(new),
                )  # fmt: skip

    def _act(self, action: moves.Action) -> None:
        match action:
            case moves.Check(document):
                order = {"sequence": self.state.sequence, "director": self.state.director}
                self._work({"job": "fetch", "document": document, **order})
            case moves.Stage(path):
                self._work({"job": "stage", "path": path})
            case moves.Verify(slot):
                self._work({"job": "verify", "slot": slot})
            case moves.Proceed():
                if self._child is not None:
                    self._child.tell({"proceed": True})
            case moves.Hook(point, slot, attempt):
                self._hooks.ask(point, slot, attempt)
            case moves.Cancel():
                self._cancel()
            case moves.Request(line):
                self._request(line)
            case moves.Watch(slot, attempt, release):
                self._monitor.watch(slot, attempt, release)
            case moves.Retry(after_s):
                self._loop.after("agent.retry", after_s, lambda: self.apply(moves.RetryDue()))
            case moves.Tell(code, message):
                if (code, message) != self._failure:
                    self._log.error("refused", code=code, detail=message)
                self._reports.event("error", code, message)
                self._save_ledger()
            case _:
                assert_never(action)

    # --- what people at the device ask for

    def install(self, path: str) -> None:
        """Install the bundle file at `path`. Error: `update.busy` while a swap or trial runs."""
        if self.state.update.phase in SWAPPED:
            raise AgentError("update.busy", "an update is on trial now", "wait until it is committed or reverted")
        self.apply(moves.Install(path))

    def rollback(self, forced: bool = False) -> None:
        """Go back to the previous release. Errors: `update.no_previous`, `update.busy`, `update.lower_schema`."""
        if not self.boot_state.previous:
            raise AgentError("update.no_previous", "there is no previous release to go back to", "install one")
        if self.state.update.phase == "swapping":
            raise AgentError("update.busy", "a swap is under way", "wait for its trial")
        if (
            not forced
            and self.state.update.phase != "trial"
            and (lower := lower_schema(self.state, self.state.ground.previous))
        ):
            hint = "it may not understand the data: see that it does, then `beamfleet-agent rollback --force`"
            raise AgentError("update.lower_schema", lower, hint)
        self.apply(moves.Rollback(forced))

    def commit(self) -> None:
        """End the trial in favour of the new release. Error: `update.no_trial`."""
        if self.state.update.phase != "trial":
            raise AgentError("update.no_trial", "no release is on trial", "see `beamfleet-agent status`")
        self.apply(moves.Commit())

    def ask(self, verb: str) -> int:
        """File `stop` or `start` with the launcher; the request's number. Error: `boot.request`."""
        return self._boot.request(verb)

    def enrol(self) -> None:
        """Ask for a certificate now. Error: `enrol.no_server`."""
        if self._uplink is None:
            raise AgentError("enrol.no_server", "this device knows no server", "give agent.toml a [server]")
        self._uplink.enrol()

    @property
    def busy(self) -> bool:
        """Whether an update is under way."""
        return self.state.update.phase in PENDING | SWAPPED

    def status(self) -> dict[str, Any]:
        """What `beamfleet-agent status` shows."""
        uplink, boot, release = self._uplink, self.boot_state, known(self.state, self.boot_state.slot)
        return {
            "device": self._settings.device,
            "agent": {"version": __version__, "pid": os.getpid(), "boot": self._reports.ledger.boot},
            "session": uplink is not None and uplink.up,
            "problem": uplink.problem if uplink else "",
            "health": self._vitals.verdict,
            "unwell": self._vitals.detail,
            "profile": self._settings.profile,
            "product": release.product if release else "",
            "version": release.version if release else "",
            **boot.shown(),
            "update": {**update_of(self.state.update), "slot": self.state.update.slot, "done": self.progress[0],
                       "total": self.progress[1], "hint": self._hint if self.state.update.phase == "failed" else ""},
        }  # fmt: skip

    # --- the launcher

    def _request(self, line: str) -> None:
        try:
            self._asked = self._boot.request(line)
        except AgentError as error:
            self._log.error("request not filed", code=error.code, detail=error.message)
            self._loop.after("agent.request", REQUEST_AGAIN_S, lambda: self._request(line))
        else:
            self._log.info("request", line=line, number=self._asked)

    def _follow(self) -> None:
        self._monitor.follow(self.boot_state, known(self.state, self.boot_state.slot))

    def _restart(self, line: str) -> None:
        """A probe of the release failed: asked again, and later, as long as that lasts."""
        self._log.warning("restart for a probe", line=line)
        try:
            self._boot.request(line)
        except AgentError as error:
            self._log.error("request not filed", code=error.code, detail=error.message)

    def _look(self) -> None:
        """boot/ has changed, or may have."""
        self._hooks.look()
        self._monitor.look()
        self._tell_hooks()
        state = self._boot.state()
        if state == self.boot_state:
            return
        self.boot_state = state
        self._follow()
        self._loop.after("monitor.sample", SAMPLE_SOON_S, self._monitor.start)
        self._restarts.look(self.boot_state)
        if self._monitor.lapsed:  # what we saw then is no evidence of how it ended
            self.apply(moves.Observed("", ""))
        self.apply(moves.BootChanged(state.ground()))
        if self._asked and state.last_request >= self._asked:
            answered, self._asked = state.last_request == self._asked, 0
            if answered and state.result.startswith("refused:"):
                self.apply(moves.Refused(state.result.removeprefix("refused:")))

    def _poll_boot(self) -> None:
        """Directory notification may be missing on this kernel: look, but only while an update runs."""
        if self._owed:
            self._loop.after("agent.boot", BOOT_POLL_S, self._poll_boot)
        self._look()

    @property
    def _owed(self) -> bool:
        """Whether the launcher has something to say about an update."""
        return self.state.update.phase in SWAPPED or self._hooks.waiting

    def _hooked(self, point: str, answer: Answer) -> None:
        output = clean(answer.output, 768).strip()
        self._log.info("hooks", point=point, status=answer.status, name=clean(answer.name, 64), output=output)
        self.apply(moves.Hooked(point, answer.slot, answer.attempt, answer.status, clean(answer.name, 64), output))

    def _tell_hooks(self) -> None:
        if news := self._hooks.news():
            for point, answer in news:
                self._reports.hook(point, answer)
            self._pass_on()

    def _pass_on(self) -> None:
        """Events have come in that no move of the update brings to the journal and to the server."""
        self._save_ledger()
        if self._uplink is not None:
            self._uplink.flush()

    def _probed(self) -> None:
        """A probe has come to something else: a reason to report."""
        self._loop.after("monitor.sample", 0, self._monitor.start)

    # --- the worker

    def _work(self, job: dict[str, Any]) -> None:
        self._cancel()
        self.progress, self._said = (0, 0), {}
        words = {**job, "root": self._paths.root, "floors": dict(self.state.floors)}
        try:
            self._child = Child(self._loop, words, self._heard, lambda code: self._ended(job["job"], code))
        except OSError as error:
            why = f"the worker cannot be started: {error}"
            self._loop.soon(lambda: self._failed(job["job"], "worker.spawn", why))

    def _heard(self, line: dict[str, Any]) -> None:
        match line:
            case {"checked": {"sequence": int(sequence), "attempt": int(attempt), "release": found, **more}}:
                release = release_from(found) if found else None
                signers, forced = str(more.get("director", "")), more.get("forced") is True
                self.apply(moves.Checked(sequence, attempt, release, signers, forced, str(more.get("trace", ""))))
            case {"progress": {"done": int(done), "total": int(total)}}:
                self.progress = (done, total)
                self._reports.progress(self.state.update, done, total)
                self.on_change(self.status())
            case {"verified": dict(release)}:
                self.apply(moves.Verified(release_from(release)))
            case _:
                self._said.update(line)

    def _ended(self, job: str, code: int) -> None:
        self._child = None
        self._learn()
        match self._said:
            case {"error": {"code": str(error), "message": str(message), "patience": int(patience), **more}}:
                self._hint = str(more.get("hint", ""))
                self._failed(job, error, message, patience)
            case {"result": dict(result)} if job in ("fetch", "stage") and result:
                self.apply(moves.Staged(release_from(result)))
            case {"result": dict(result)} if job == "verify":
                self.apply(moves.Sound(release_from(result)))
            case {"result": _}:
                pass
            case _:
                self._failed(job, "worker.killed", f"the worker ended with {code}")

    def _failed(self, job: str, code: str, message: str, patience: int = 1 << 30) -> None:
        """The one line of the log about it; the worker itself is silent."""
        self._failure = (code, message)
        self._log.warning("job failed", job=job, code=code, detail=message)
        if job != "clean":
            self.apply(moves.Failed(code, message, patience))

    def _cancel(self) -> None:
        self._loop.cancel("agent.retry")
        self._hooks.forget()
        if self._child is not None:
            self._child.kill()
            self._child = None

    # --- the server

    def _send(self, kind: str, payload: bytes, expiry_s: int | None) -> bool:
        return self._uplink is not None and self._uplink.send(kind, payload, expiry_s)

    def _report(self) -> None:
        self._reports.state(self.boot_state, self.state, self._inventory, self._bearings.versions)
        if self._uplink is not None:
            self._uplink.flush()
        self.on_change(self.status())

    def _save_ledger(self) -> None:
        try:
            self._journal.write(self.state, self._reports.ledger)
        except AgentError as error:  # sent again is better than not sent: the next event writes it
            self._log.error("journal not written", code=error.code, detail=error.message)

    def _learn(self) -> None:
        """A worker has ended: it may have looked at the metadata."""
        found, before = bearings.load(self._paths), self._bearings
        if found == before:
            return
        self._bearings = found
        self._report()
        if self._uplink is not None and (found.versions or {}).get("targets") != (before.versions or {}).get("targets"):
            self._uplink.look_for_renewal()

    def _look_around(self) -> None:
        """The device may be in another zone, or on another network."""
        here = place.look(self._settings.network)
        if here != (self._inventory.timezone, self._inventory.network):
            self._inventory = self._inventory._replace(timezone=here.timezone, network=here.network)
            self._report()

    def _reachable(self) -> None:
        self._look_around()
        self._vitals.session_began()
        self._loop.after("monitor.sample", SAMPLE_SOON_S, self._monitor.start)
        if self._loop.cancel("agent.retry"):
            self.apply(moves.RetryDue())

    def _sampled(self, sample: Sample | None) -> None:
        self.on_sample()
        self._look_around()
        self._look()
        boot, uplink = self.boot_state, self._uplink
        if sample is None and boot.slot and not boot.stopped:
            self._boot.ring()  # a launcher that missed the end of its VM looks again
        if not self._vitals.take(
            sample, boot, known(self.state, boot.slot), self._monitor.unwell, self._monitor.probes,
            self._inventory.network, started=self._boot.started(boot.starts), online=uplink is not None and uplink.up,
        ):  # fmt: skip
            self._loop.after("monitor.sample", SAMPLE_SOON_S, self._monitor.start)
        if uplink is not None:
            uplink.tend()
