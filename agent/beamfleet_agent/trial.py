"""Owns the verdict over a new release: pure, from observations at times that the caller gives.

A trial is passed when for the whole period, without a gap, the VM that boot/state names answered, all permanent
applications ran, every probe of the release had succeeded, and it had confirmed itself if its manifest asks for that.
"""

from collections.abc import Mapping

from beamfleet_agent.health import Sample, finding
from beamfleet_agent.probes import Outcome
from beamfleet_agent.update_state import Release


class Trial:
    """The trial of one release, well for `period_s` seconds or not."""

    def __init__(self, release: Release, period_s: float) -> None:
        self.release = release
        self._period_s = period_s
        self._well_since: float | None = None
        self._http: str | None = None if release.probe_http else ""
        self._command: str | None = None if release.probe_command else ""

    def http(self, problem: str) -> None:
        """The HTTP request of the gate succeeded ("") or not."""
        self._http = problem

    def command(self, status: int) -> None:
        """The command of the gate ended."""
        self._command = "" if status == 0 else f"the probe command ended with {status}"

    def observe(
        self, now: float, sample: Sample | None, starts: int, outcomes: Mapping[str, Outcome] = {}
    ) -> tuple[str, str]:
        """(reason, detail) of what keeps the release from being well, ("", "") if nothing does."""
        problem = finding(sample, starts, self.release)
        unwell = ("health", problem) if problem else self._probes(outcomes)
        if not unwell[0] and self.release.confirm and not (sample and sample.confirm):
            unwell = ("probe", "the release has not confirmed itself yet")
        if unwell[0]:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        return unwell

    def passed(self, now: float) -> bool:
        """Whether it has been well for the whole period."""
        return self._well_since is not None and now - self._well_since >= self._period_s

    def _probes(self, outcomes: Mapping[str, Outcome]) -> tuple[str, str]:
        for problem in (self._http, self._command):
            if problem is None:
                return "probe", "the probes have not ended yet"
            if problem:
                return "probe", problem
        for probe in self.release.probes:
            outcome, detail = outcomes.get(probe.kind, ("waiting", ""))
            if outcome != "ok":
                return "probe", f"{probe.kind}: {detail or 'no answer yet'}"
        return "", ""
