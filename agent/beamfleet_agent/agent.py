"""The resident agent: one thread, one loop, a few wake-ups a minute. This docstring is the map of the device side.

    server ── session.py ── uplink.py ──┐                      ┌── monitor.py ── beamfleet_link, probes
    worker ── child.py ─────────────────┤   Agent.apply(event) ├── control.py ── beamfleet-agent on the command line
    launcher ── boot.py (boot/state) ───┤          │           ┘
                hooks.py (boot/hook.*) ─┘          │
                                            update.step: (state, event) -> (state, actions), pure
                                                   │
        journal.py (only if something durable changed) ── then each action: worker, hooks, request, watch, timer, report

Who writes what: the launcher boot/ and current; the worker slots/, staging/, trust/, identity/; the agent journal and
requests/. Every fact comes from its owner: what runs is read from boot/state, what is there from slots/; the journal
only remembers what was meant. `loop.py` waits, `reports.py` keeps what the server has not acknowledged, `paths.py`
knows where things lie, `settings.py` what the owner settled, `inventory.py` what this device is; `resident.py` is the
life of the process, and `notify.py` tells systemd of it.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import Any, assert_never

from beamfleet_agent import __version__, health, inventory, moves
from beamfleet_agent.boot import Boot, BootState
from beamfleet_agent.child import Child
from beamfleet_agent.errors import AgentError
from beamfleet_agent.health import Host, Sample
from beamfleet_agent.hooks import Answer, Hooks
from beamfleet_agent.journal import Journal, Ledger, release_from
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.monitor import Monitor
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import Reports, clean, update_of
from beamfleet_agent.settings import Settings
from beamfleet_agent.update import lower_schema, step
from beamfleet_agent.update_state import FINAL, PENDING, SWAPPED, Ground, State, known
from beamfleet_agent.uplink import Uplink

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
        lost = Ledger(boot=int(time.time()) if os.path.exists(paths.cert) else 0)  # above what the server has seen
        state, ledger = self._journal.read() or (State(), lost)
        self.state = state._replace(salt=settings.device)
        self._reports = Reports(ledger._replace(boot=ledger.boot + 1), self._send, heard=settings.server is not None)
        self._inventory = inventory.take(paths.slots, settings.hardware)
        self._monitor = Monitor(
            loop, paths, self._boot, settings.health_interval_s, settings.trial_s,
            self._request, self._sampled, lambda *seen: self.apply(moves.Observed(*seen)), self._proven,
        )  # fmt: skip
        self._hooks = Hooks(loop, paths, self._request, self._hooked)
        self._uplink = None
        if settings.server is not None and not offline:
            self._uplink = Uplink(
                loop, log, paths, settings, settings.server, self._reports,
                lambda document: self.apply(moves.Assigned(document)), self._save_ledger, self._reachable,
            )  # fmt: skip
        self._child: Child | None = None
        self._said: dict[str, Any] = {}
        self._asked = 0
        self._postponed: list[moves.Event] = []
        self._verdict = "unknown"
        self._hint = ""
        self.progress: tuple[int, int] = (0, 0)

    def start(self) -> None:
        """Recover from what is really there, then go on."""
        self._loop.on_signal(signal.SIGIO, self._look)
        self._watch = self._boot.watch()
        self._log.info("agent started", version=__version__, boot=self._reports.ledger.boot, slot=self.boot_state.slot)
        self._tell_restart()
        self._tell_hooks()
        slots = frozenset(name for name in os.listdir(self._paths.slots) if len(name) == 32)
        self.apply(moves.Started(ground_of(self.boot_state), slots))
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
        facts = {"product": new.product, "version": new.version, "slot": new.slot}
        self._log.info("update", phase=new.phase, attempt=new.attempt, reason=new.reason, detail=new.detail, **facts)
        if new.phase in FINAL and (old.phase, old.slot) != (new.phase, new.slot):
            self._reports.event(
                "update", new.reason, new.detail, new.slot,
                phase=new.phase, product=new.product, version=new.version, attempt=new.attempt,
            )  # fmt: skip

    def _act(self, action: moves.Action) -> None:
        match action:
            case moves.Check(document):
                self._work({"job": "fetch", "document": document, "sequence": self.state.sequence})
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
        if not forced and self.state.update.phase != "trial" and (lower := lower_schema(self.state)):
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
            "health": self._verdict,
            "product": release.product if release else "",
            "version": release.version if release else "",
            **boot_status(boot),
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

    def _look(self) -> None:
        """boot/ has changed, or may have."""
        self._hooks.look()
        self._tell_hooks()
        state = self._boot.state()
        if state == self.boot_state:
            return
        self.boot_state = state
        self._loop.after("monitor.sample", SAMPLE_SOON_S, self._monitor.start)
        self._tell_restart()
        self.apply(moves.BootChanged(ground_of(state)))
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
            self._save_ledger()
            if self._uplink is not None:
                self._uplink.flush()

    def _tell_restart(self) -> None:
        boot, ledger = self.boot_state, self._reports.ledger
        if boot.starts > ledger.starts:
            self._log.info("release started", starts=boot.starts, slot=boot.slot, cause=boot.cause, detail=boot.detail)
            self._reports.event("restart", boot.cause, boot.detail, boot.slot, starts=boot.starts)
            self._reports.ledger = self._reports.ledger._replace(starts=boot.starts)

    def _proven(self) -> None:
        self.apply(moves.Proven())

    # --- the worker

    def _work(self, job: dict[str, Any]) -> None:
        self._cancel()
        self.progress, self._said = (0, 0), {}
        words = {**job, "root": self._paths.root, "floor": self.state.floor}
        try:
            self._child = Child(self._loop, words, self._heard, lambda code: self._ended(job["job"], code))
        except OSError as error:
            failed = moves.Failed("worker.spawn", f"the worker cannot be started: {error}", 1 << 30)
            self._loop.soon(lambda: self.apply(failed))

    def _heard(self, line: dict[str, Any]) -> None:
        match line:
            case {"checked": {"sequence": int(sequence), "attempt": int(attempt), "release": release}}:
                self.apply(moves.Checked(sequence, attempt, release_from(release) if release else None))
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
        match self._said:
            case _ if job == "clean":
                pass
            case {"error": {"code": str(error), "message": str(message), "patience": int(patience), **more}}:
                self._hint = str(more.get("hint", ""))
                self.apply(moves.Failed(error, message, patience))
            case {"result": dict(result)} if job in ("fetch", "stage") and result:
                self.apply(moves.Staged(release_from(result)))
            case {"result": dict(result)} if job == "verify":
                self.apply(moves.Sound(release_from(result)))
            case {"result": _}:
                pass
            case _:
                self.apply(moves.Failed("worker.killed", f"the worker ended with {code}", 1 << 30))

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
        self._reports.state(self.boot_state, self.state, self._inventory)
        if self._uplink is not None:
            self._uplink.flush()
        self.on_change(self.status())

    def _save_ledger(self) -> None:
        try:
            self._journal.write(self.state, self._reports.ledger)
        except AgentError as error:  # sent again is better than not sent: the next event writes it
            self._log.error("journal not written", code=error.code, detail=error.message)

    def _reachable(self) -> None:
        if self._loop.cancel("agent.retry"):
            self.apply(moves.RetryDue())

    def _sampled(self, sample: Sample | None, host: Host) -> None:
        self.on_sample()
        self._look()
        boot = self.boot_state
        if not boot.slot:
            self._verdict = "unknown"
        elif boot.stopped:
            self._verdict = "stopped"
        else:
            unwell = health.finding(sample, boot.starts, known(self.state, boot.slot))
            self._verdict = "failing" if unwell else "healthy"
            if sample is None:
                self._boot.ring()  # a launcher that missed the end of its VM looks again
        self._reports.health(self._verdict, sample, host, boot.starts, 2 * self._settings.health_interval_s)
        if self._uplink is not None:
            self._uplink.tend()


def ground_of(boot: BootState) -> Ground:
    """What updates care about in boot/state."""
    return Ground(
        boot.slot, boot.previous, boot.phase, boot.attempt, boot.cause,
        boot.failed_slot, boot.failed_attempt, boot.failed_cause, boot.detail,
    )  # fmt: skip


def boot_status(boot: BootState) -> dict[str, Any]:
    """What boot/state says, as `status` shows it."""
    return {
        "slot": boot.slot,
        "previous": boot.previous,
        "phase": boot.phase,
        "attempt": boot.attempt,
        "stopped": boot.stopped,
        "starts": boot.starts,
        "cause": boot.cause,
        "detail": boot.detail,
        "failed": boot.failed,
        "power_losses": boot.power_losses,
    }
