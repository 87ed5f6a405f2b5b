"""Owns watching the running release: a sample each health interval, and the trial of a new release twice a second.

Asks beamfleet_link on its Unix socket and the release's probes; never decides what follows from it.
"""

import os
import socket
from collections.abc import Callable

from beamfleet_agent.boot import Boot
from beamfleet_agent.health import Host, Sample, Trial, read_host, read_sample
from beamfleet_agent.inquiry import Inquiry, local_address
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.update_state import Release

TRIAL_TICK_S = 0.5
LINK_TIMEOUT_S = 5.0
HTTP_EVERY_S = 2.0
COMMAND_EVERY_S = 5.0


class Monitor:
    """Calls `on_sample(sample or None, host)` each `interval_s`.

    In a trial it calls `on_observed(reason, detail)` at each change, and `on_proven()` once, when it was passed.
    `request` files a request with the launcher.
    """

    def __init__(
        self,
        loop: Loop,
        paths: Paths,
        boot: Boot,
        interval_s: float,
        trial_s: float,
        request: Callable[[str], None],
        on_sample: Callable[[Sample | None, Host], None],
        on_observed: Callable[[str, str], None],
        on_proven: Callable[[], None],
    ) -> None:
        self._loop, self._paths, self._boot, self._request = loop, paths, boot, request
        self._interval_s, self._trial_s = interval_s, trial_s
        self._on_sample, self._on_observed, self._on_proven = on_sample, on_observed, on_proven
        self._trial: Trial | None = None
        self._named = ("", 0)
        self._seen: tuple[str, str] | None = None
        self._answer = ("", 0, 0)
        self._next_http = self._next_command = 0.0
        self._asking_http = False
        self._open: set[Inquiry] = set()

    def start(self) -> None:
        """Take the first sample now."""
        self._loop.after("monitor.sample", self._interval_s, self.start)
        self._ask(lambda sample: self._on_sample(sample, read_host(self._paths.slots)))

    def watch(self, slot: str, attempt: int, release: Release) -> None:
        """Watch the trial of a release from its beginning."""
        self._trial, self._named, self._seen = Trial(release, self._trial_s), (slot, attempt), None
        self._next_http = self._next_command = 0.0
        self._asking_http = False
        self._answer = self._probe_answer()
        self._tick()

    def unwatch(self) -> None:
        """The trial is over, however it ended."""
        self._trial = None
        self._loop.cancel("monitor.trial")

    def stop(self) -> None:
        """Ask nobody any more."""
        self.unwatch()
        self._loop.cancel("monitor.sample")
        for inquiry in self._open:
            inquiry.close()
        self._open.clear()

    def _ask(self, on_sample: Callable[[Sample | None], None]) -> None:
        try:
            address, descriptor = local_address(self._paths.link_sock)
        except OSError:
            self._loop.soon(lambda: on_sample(None))
            return

        def answered(line: bytes, _why: str) -> None:
            if descriptor >= 0:
                os.close(descriptor)
            on_sample(read_sample(line) if line else None)

        self._inquire(socket.AF_UNIX, address, b"", b"\n", LINK_TIMEOUT_S, answered)

    def _tick(self) -> None:
        trial = self._trial
        if trial is not None:
            self._ask(lambda sample: self._judge(trial, sample))

    def _judge(self, trial: Trial, sample: Sample | None) -> None:
        if trial is not self._trial:
            return
        now, starts = self._loop.now(), self._boot.state().starts
        if not self._boot.started(starts):  # what answers is the release before, which is still stopping
            sample = None
        if sample is not None and sample.boot == starts:
            self._probe(trial, now)
        seen = trial.observe(now, sample, starts)
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
        release = trial.release
        if release.probe_http and now >= self._next_http and not self._asking_http:
            self._next_http, self._asking_http = now + HTTP_EVERY_S, True
            self._ask_http(trial)
        if release.probe_command:
            answer = self._probe_answer()
            if answer != self._answer:  # a new file: it answers what we asked
                self._answer = answer
                result = self._boot.probe()
                if result is not None and result[:2] == self._named:
                    trial.command(result[2])
            if now >= self._next_command:
                self._next_command = now + max(COMMAND_EVERY_S, release.probe_timeout_s + 1)
                self._request(f"probe {self._named[0]} {self._named[1]}")

    def _ask_http(self, trial: Trial) -> None:
        port, _, path = trial.release.probe_http.partition("/")
        question = f"GET /{path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: beamfleet-agent\r\n\r\n".encode()

        def answered(answer: bytes, why: str) -> None:
            self._asking_http = False
            words = answer.split(b"\r\n", 1)[0].split()
            status = words[1].decode("ascii", "replace")[:3] if len(words) > 1 and words[0].startswith(b"HTTP/") else ""
            good = len(status) == 3 and status[0] == "2"
            trial.http("" if good else f"GET :{port}/{path}: {status or why or 'no HTTP'}")

        timeout = float(trial.release.probe_timeout_s)
        self._inquire(socket.AF_INET, ("127.0.0.1", int(port)), question, b"\r\n", timeout, answered)

    def _inquire(
        self,
        family: socket.AddressFamily,
        address: str | tuple[str, int],
        question: bytes,
        end: bytes,
        timeout_s: float,
        on_answer: Callable[[bytes, str], None],
    ) -> None:
        def answered(answer: bytes, why: str) -> None:
            self._open.discard(inquiry)
            on_answer(answer, why)

        inquiry = Inquiry(self._loop, family, address, question, lambda data: end in data, timeout_s, answered)
        self._open.add(inquiry)

    def _probe_answer(self) -> tuple[str, int, int]:
        """Which file boot/probe is now: the launcher writes a new one for each answer."""
        try:
            found = os.stat(f"{self._paths.boot}/probe")
        except OSError:
            return ("", 0, 0)
        return ("probe", found.st_ino, found.st_mtime_ns)
