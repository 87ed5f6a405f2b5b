"""`./dev bench agent`: what the resident agent costs while nothing happens, beside bare Python, mender and rauc.

    a real server and broker, one device -> push 1.0.0, its worker's peak followed -> one window, everybody side by side
    -> the agent alone, started again and again until its session is up

The agent holds its TLS session, has taken an assignment and samples health each 60 s; the peers idle as in the field.
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import idle_peers
from tests.bench.processes import Cost, MeasureError, PeakOfDescendants, established, observe
from tests.bench.result import as_json, machine
from tests.support.examples import ExampleError, tarball
from tests.support.fleet import Device, Fleet, FleetError, wait_for

AGENT, PYTHON, MENDER, RAUC = "beamfleet-agent", "python3, asleep", "mender daemon", "rauc service"
PEERS = {PYTHON: idle_peers.bare_python, MENDER: idle_peers.mender, RAUC: idle_peers.rauc}
HEALTH_INTERVAL_S = 60
SETTLE_S = 15
START_ROUNDS = 5
START_LIMIT_S = 60
SESSION_UP = "session up"
DEFINITIONS = f"""
Medians over the window. MB = 10**6 bytes. RSS: VmRSS. private: Private_Clean + Private_Dirty of smaps_rollup.
wake-ups: voluntary context switches of all threads. worker's peak: VmHWM of the largest child during the push.
start: from starting the agent's own command, enrolled and offline before, to its log line "{SESSION_UP}" (CONNACK over
TLS), divided by `python3 -c pass` with the same interpreter; medians of {START_ROUNDS}, in turns."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Costs by name, why a peer is missing by name, and what only the agent has."""

    minutes: float
    costs: Mapping[str, Cost]
    missing: Mapping[str, str]
    children_peak_rss_mb: float | None
    start_s: float
    bare_start_s: float

    def figures(self) -> dict[str, float | None]:
        """The figures of bench.md."""
        ours = self.costs[AGENT]

        def ratio(name: str) -> float | None:
            return ours.rss_mb / self.costs[name].rss_mb if name in self.costs else None

        return {
            "rss_mb": ours.rss_mb,
            "rss_ratio_mender": ratio(MENDER),
            "rss_ratio_rauc": ratio(RAUC),
            "children_peak_rss_mb": self.children_peak_rss_mb,
            "rss_ratio_bare_python": ratio(PYTHON),
            "uss_mb": ours.uss_mb,
            "wakeups_per_min": ours.wakeups_per_min,
            "threads": ours.threads,
            "start_ratio_python": self.start_s / self.bare_start_s,
        }

    def table(self) -> str:
        """The same for people."""
        lines = [f"{'':17}{'RSS MB':>9}{'ratio':>9}{'private MB':>12}{'threads':>9}{'wake-ups/min':>14}"]
        ours = self.costs[AGENT].rss_mb
        for name in (AGENT, *PEERS):
            if cost := self.costs.get(name):
                ratio = f"{ours / cost.rss_mb:.2f}" if name != AGENT else ""
                numbers = f"{cost.rss_mb:9.1f}{ratio:>9}{cost.uss_mb:12.1f}{cost.threads:9}{cost.wakeups_per_min:14.1f}"
            else:
                numbers = f"      not here: {self.missing[name]}"
            lines.append(f"{name:17}{numbers}")
        peak = self.children_peak_rss_mb
        lines += [
            "",
            f"worker's peak RSS during the push: {'not seen' if peak is None else f'{peak:.1f} MB'}",
            f"start to session: {self.start_s * 1000:.0f} ms, {self.start_s / self.bare_start_s:.1f} times bare Python",
        ]
        return "\n".join(lines)


class Bench:
    """One run in the directory `work`; `say` tells people what is going on."""

    def __init__(self, work: Path, minutes: float) -> None:
        self._work, self._minutes = work, minutes

    def run(self) -> Outcome:
        """Measure everything. FleetError, ExampleError or MeasureError when our side is not as promised."""
        missing: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            fleet = Fleet(self._work / "fleet")
            stack.callback(fleet.close)
            device, peak = self._updated_device(fleet)
            processes = [(AGENT, _agent(device))]
            for name, peer in PEERS.items():
                try:
                    processes.append((name, stack.enter_context(peer(self._work / name.split()[0].strip(",")))))
                except idle_peers.UnavailableError as reason:
                    missing[name] = str(reason)
            costs = self._window(fleet, device, processes)
            start_s, bare_start_s = self._starts(device)
        return Outcome(self._minutes, costs, missing, peak, start_s, bare_start_s)

    def _updated_device(self, fleet: Fleet) -> tuple[Device, float | None]:
        """A device that has committed a pushed release, and the peak of its worker meanwhile, in MB."""
        say("starting a server, flashing a device, pushing sensor_gateway 1.0.0")
        fleet.open("sensor-gateway")
        device = fleet.flash("bench", health_interval_s=HEALTH_INTERVAL_S)
        fleet.wait_online("bench")
        with PeakOfDescendants(_agent(device)) as workers:
            fleet.cli("push", str(tarball("sensor_gateway", "1.0.0")), "--all")
        return device, workers.peak_mb

    def _window(self, fleet: Fleet, device: Device, processes: Sequence[tuple[str, int]]) -> dict[str, Cost]:
        """Everybody's costs, with the proof that ours was at work all the time."""
        time.sleep(SETTLE_S)
        say(f"watching {', '.join(name for name, _ in processes)} for {self._minutes:g} minutes")
        agent, port = dict(processes)[AGENT], int(fleet.address("mqtt").rpartition(":")[2])
        session, sampled = established(agent, port), _sampled(fleet)
        costs = observe(processes, self._minutes * 60)
        if not session or established(agent, port) != session or device.agent_pid() != agent:
            raise MeasureError(f"the agent did not hold one session to the broker\n{device.console()}")
        if _sampled(fleet) == sampled:
            raise MeasureError(f"no sample of health reached the server\n{device.console()}")
        return costs

    def _starts(self, device: Device) -> tuple[float, float]:
        """Seconds to a session, and seconds of bare Python; medians."""
        say(f"starting the agent {START_ROUNDS} times")
        agent = _agent(device)
        words = Path(f"/proc/{agent}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        variables = Path(f"/proc/{agent}/environ").read_bytes().decode().rstrip("\0").split("\0")
        environment = dict(variable.split("=", 1) for variable in variables)
        folder = Path(f"/proc/{agent}/cwd").readlink()
        device.stop()
        ours, bare = [], []
        for _ in range(START_ROUNDS):
            bare.append(_seconds_of([words[0], "-c", "pass"]))
            ours.append(_seconds_to_session(words, environment, folder))
        return statistics.median(ours), statistics.median(bare)


def say(text: str) -> None:
    """Tell people what takes so long."""
    print(f"bench agent: {text}", file=sys.stderr, flush=True)


def _agent(device: Device) -> int:
    return wait_for("the agent's pid", device.agent_pid, deadline_s=30)


def _sampled(fleet: Fleet) -> str:
    """When the newest sample of health was taken, as the server shows it."""

    def newest() -> str | None:
        health = fleet.json("device", "show", "bench")["health"]
        return str(health["time"]) if health else None

    return wait_for("a sample of health", newest, deadline_s=2 * HEALTH_INTERVAL_S, every_s=1)


def _seconds_of(words: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - began


def _seconds_to_session(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    began = time.perf_counter()
    agent = subprocess.Popen(words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, cwd=folder)
    limit = threading.Timer(START_LIMIT_S, agent.kill)
    limit.start()
    try:
        assert agent.stderr is not None
        for line in agent.stderr:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                if json.loads(line)["event"] == SESSION_UP:
                    return time.perf_counter() - began
        raise MeasureError(f"the agent had no session in {START_LIMIT_S} s")
    finally:
        limit.cancel()
        agent.terminate()
        agent.communicate()


def main() -> int:
    """0 when everything of ours was measured, 1 when not, 2 on wrong usage, 130 and 143 when ended by a signal."""
    parser = argparse.ArgumentParser(prog="./dev bench agent", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="length of the window (default 10, at least 1.5)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    if options.minutes < 1.5:
        parser.error("--minutes: a window shorter than 1.5 minutes need not hold a sample of health")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="beamfleet-bench-", ignore_cleanup_errors=True) as work:
        try:
            outcome = Bench(Path(work), options.minutes).run()
        except (FleetError, ExampleError, MeasureError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(f"\n{options.minutes:g} minutes on {machine()}\n\n{outcome.table()}\n{DEFINITIONS}")
    if options.json:
        print(as_json("agent", outcome.figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
