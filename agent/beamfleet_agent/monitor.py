"""Owns watching the running release: a sample each health interval, the trial of a new release twice a second.

Asks beamfleet_link and the release's probes (`prober.py` after a trial as well); never decides what follows from it.
"""

from collections.abc import Callable

from beamfleet_agent.boot import Boot, BootState
from beamfleet_agent.health import Sample, read_sample
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.prober import Prober
from beamfleet_agent.probes import Outcome
from beamfleet_agent.questions import LINK_TIMEOUT_S, Questions
from beamfleet_agent.trial import Trial
from beamfleet_agent.update_state import Release

TRIAL_TICK_S = 0.5
HTTP_EVERY_S = 2.0
COMMAND_EVERY_S = 5.0
STALE_S = 2 * LINK_TIMEOUT_S
"""What was seen of a trial longer ago says nothing of how it ended: we were held up, or frozen."""
GATE = ""
"""The kind of the gate's command."""
_GOOD = range(200, 300)


class Monitor:
    """Calls `on_sample(sample or None)` each `interval_s`, and `on_probes()` when a probe came to something else.

    In a trial it calls `on_observed(reason, detail)` at each change, and `on_proven()` once, when it was passed.
    `restart` files a request with the launcher.
    """

    def __init__(
        self,
        loop: Loop,
        paths: Paths,
        boot: Boot,
        interval_s: float,
        trial_s: float,
        restart: Callable[[str], None],
        on_sample: Callable[[Sample | None], None],
        on_observed: Callable[[str, str], None],
        on_proven: Callable[[], None],
        on_probes: Callable[[], None],
    ) -> None:
        self._loop, self._boot = loop, boot
        self._interval_s, self._trial_s = interval_s, trial_s
        self._on_sample, self._on_observed, self._on_proven = on_sample, on_observed, on_proven
        self._questions = Questions(loop, paths.link_sock)
        self._prober = Prober(loop, boot, self._questions, self._ask, restart, on_probes)
        self._trial: Trial | None = None
        self._named = ("", 0)
        self._looked = 0.0
        self._seen: tuple[str, str] | None = None
        self._answer = (0, 0)
        self._next_http = self._next_command = 0.0
        self._asking_http = False

    def start(self) -> None:
        """Take the first sample now."""
        self._loop.after("monitor.sample", self._interval_s, self.start)
        self._ask(self._on_sample)

    def follow(self, state: BootState, release: Release | None) -> None:
        """This is what runs now, with what is known of it; to be called whenever it may have changed."""
        self._prober.follow(state, release)

    def look(self) -> None:
        """The launcher may have answered."""
        self._prober.look()

    @property
    def probes(self) -> dict[str, Outcome]:
        """What the probes that go on after a trial have come to, by kind: (`ok`, `failed` or `waiting`, why)."""
        return self._prober.outcomes

    @property
    def unwell(self) -> str:
        """The failure of a probe that wants the release restarted; empty when there is none."""
        return self._prober.unwell

    def watch(self, slot: str, attempt: int, release: Release) -> None:
        """Watch the trial of a release from its beginning."""
        self._trial, self._named, self._seen = Trial(release, self._trial_s), (slot, attempt), None
        self._next_http = self._next_command = 0.0
        self._asking_http = False
        self._answer = self._boot.probe_file(GATE)
        self._looked = self._loop.now()
        self._tick()

    @property
    def lapsed(self) -> bool:
        """Whether a trial is watched that nobody has looked at lately."""
        return self._trial is not None and self._loop.now() - self._looked > STALE_S

    def unwatch(self) -> None:
        """The trial is over, however it ended."""
        self._trial = None
        self._loop.cancel("monitor.trial")

    def stop(self) -> None:
        """Ask nobody any more."""
        self.unwatch()
        self._loop.cancel("monitor.sample")
        self._prober.stop()
        self._questions.close()

    def _ask(self, on_sample: Callable[[Sample | None], None]) -> None:
        self._questions.link(lambda line: on_sample(read_sample(line) if line else None))

    def _tick(self) -> None:
        trial = self._trial
        if trial is not None:
            self._ask(lambda sample: self._judge(trial, sample))

    def _judge(self, trial: Trial, sample: Sample | None) -> None:
        if trial is not self._trial:
            return
        state = self._boot.state()
        if (state.phase, state.slot, state.attempt) != ("trial", *self._named):  # it is over: who runs now is another
            self._loop.after("monitor.trial", TRIAL_TICK_S, self._tick)
            return
        now, starts = self._loop.now(), state.starts
        self._looked = now
        self.follow(state, trial.release)
        if not self._boot.started(starts):  # what answers is the release before, which is still stopping
            sample = None
        if sample is not None and sample.boot == starts:
            self._probe(trial, now)
            self._prober.ask(now)
        seen = trial.observe(now, sample, starts, self.probes)
        if seen != self._seen:
            self._seen = seen
            self._on_observed(*seen)
        if trial is not self._trial:
            return
        if trial.passed(now):
            self.unwatch()
            self._on_proven()
            return
        self._loop.after("monitor.trial", TRIAL_TICK_S, self._tick)

    def _probe(self, trial: Trial, now: float) -> None:
        """The gate."""
        release = trial.release
        if release.probe_http and now >= self._next_http and not self._asking_http:
            self._next_http, self._asking_http = now + HTTP_EVERY_S, True
            self._ask_http(trial)
        if release.probe_command:
            answer = self._boot.probe_file(GATE)
            if answer != self._answer:  # a new file: it answers what we asked
                self._answer = answer
                result = self._boot.probe(GATE)
                if result is not None and result[:2] == self._named:
                    trial.command(result[2])
            if now >= self._next_command:
                self._next_command = now + max(COMMAND_EVERY_S, release.probe_timeout_s + 1)
                try:
                    self._boot.ask_probe(GATE, *self._named)
                except OSError:
                    trial.command(125)

    def _ask_http(self, trial: Trial) -> None:
        def answered(problem: str) -> None:
            self._asking_http = False
            trial.http(problem)

        self._questions.http(trial.release.probe_http, float(trial.release.probe_timeout_s), _GOOD, answered)
