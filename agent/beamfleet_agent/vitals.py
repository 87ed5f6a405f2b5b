"""Owns the device's signs of life: makes of each sample of the release and each look at the machine what is reported.

    monitor -> take: verdict, machine -> Telemetry: is it due? -> reports; after a session began, what was kept as well

Keeps samples in memory alone: nothing of them is ever written.
"""

import time
from collections.abc import Mapping

from beamfleet_agent import health, host
from beamfleet_agent.boot import BootState
from beamfleet_agent.health import Sample
from beamfleet_agent.loop import Loop
from beamfleet_agent.reports import Reports, clean
from beamfleet_agent.telemetry import Line, Rhythm, Telemetry
from beamfleet_agent.update_state import Release

LATE_EVERY_S = 2.0
STARTING_S = 30.0
"""So long a VM may take to start before its silence is a failure."""


class Vitals:
    """Tells `reports` how release and machine are; `heard`: whether there is a server to hear of it."""

    def __init__(self, loop: Loop, slots: str, reports: Reports, rhythm: Rhythm, *, heard: bool) -> None:
        self._loop, self._slots, self._reports, self._rhythm, self._heard = loop, slots, reports, rhythm, heard
        self._telemetry = Telemetry(rhythm)
        self.verdict, self.detail = "unknown", ""
        self._unstarted: float | None = None
        """Since when no VM has come to its end of booting."""

    def take(
        self,
        sample: Sample | None,
        boot: BootState,
        release: Release | None,
        unwell: str,
        probes: Mapping[str, tuple[str, str]],
        network: str,
        *,
        started: bool,
        online: bool,
    ) -> bool:
        """A sample of what boot/state says is running, None if it does not answer; False: it is too early to say.

        unwell: what the probes found. started: whether the VM has said that its boot script has run.
        """
        now = self._loop.now()
        self._unstarted = None if started else self._unstarted or now
        verdict, detail = _judged(sample, boot, release, unwell)
        patience_s = min(STARTING_S, 2.0 * self._rhythm.interval_s)
        if verdict == "failing" and self._unstarted and now - self._unstarted < patience_s:
            return False
        self.verdict, self.detail = verdict, detail
        if not self._heard:
            return True
        line: Line = {
            "time": int(time.time()),
            "verdict": self.verdict,
            "starts": boot.starts,
            "beam": None if sample is None else dict(sample.beam),
            "applications": [] if sample is None else list(sample.running),
            "probes": {kind: [state, clean(detail, 256)] for kind, (state, detail) in probes.items()},
            "host": {**host.look(self._slots), "network": network},
        }
        if self.detail:
            line["detail"] = clean(self.detail, 256)
        report = self._telemetry.observe(now, line, online=online)
        if report is not None:
            lasting_s = self._rhythm.full_s if "full" in report else 0
            self._reports.health(report, max(lasting_s, self._rhythm.expiry_s))
        return True

    def session_began(self) -> None:
        """Tell all anew, and then what nobody has heard."""
        self._telemetry.session_began(self._loop.now())
        if self._telemetry.waiting:
            self._loop.after("vitals.late", LATE_EVERY_S, self._tell_late)

    def _tell_late(self) -> None:
        report = self._telemetry.oldest(self._loop.now())
        if report is not None and self._reports.health(report, self._rhythm.full_s):
            self._telemetry.told()
            self._loop.after("vitals.late", LATE_EVERY_S, self._tell_late)


def _judged(sample: Sample | None, boot: BootState, release: Release | None, unwell: str) -> tuple[str, str]:
    """The device's own verdict, and why."""
    if not boot.slot:
        return "unknown", ""
    if boot.stopped:
        return "stopped", ""
    problem = health.finding(sample, boot.starts, release) or unwell
    return ("failing", problem) if problem else ("healthy", "")
