"""`./dev bench telemetry`: what it costs to know how a release is: bytes on the wire, processor, flash, memory.

    a real server and broker -> three devices, each with a running release:
      sampled   each 10 s, with 100 and then with 10,000 processes: size of a report, processor time, writes to disk
      metered   the profile for paid lines, its intervals made short: bytes of a session and of an interval
      resident  the profile for wires, as it is: memory and wake-ups

Everything is counted from outside: packets by the kernel, MQTT between device and broker, sectors at the disk.
"""

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.disk import Disk, Written, own_disk
from tests.bench.meter import Meter, Packet
from tests.bench.month import ASSUMED, Month, measured
from tests.bench.processes import Cost, MeasureError, descendants, observe, processor_s
from tests.bench.result import as_json, machine
from tests.rollout.simulated import Api
from tests.support import release_slots
from tests.support.examples import ExampleError, tarball
from tests.support.fleet import Device, Fleet, FleetError, wait_for
from tests.support.interception import identity_of, redirect, restart_agent, server_pair
from tests.support.relay import Relay

PRODUCT = "sensor-gateway"
SAMPLED, METERED, RESIDENT = "sampled", "metered", "resident"
SAMPLE_S, SCALED_S = 10, 4
MANY = 10_000
SETTLE_S = 20
BASELINE_S = 30
QUIET = ("-sensor_gateway", "tick_ms", "86400000", "save_ms", "86400000")
"""The example counts ten times a second and saves its count: here it rests, so that what is counted is ours."""
CROWD = f"[spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, {MANY})]."
BOUNDS = {
    "report_wire_bytes": 1000.0,
    "sampling_cpu_percent": 1.0,
    "flash_bytes_online": 0.0,
    "metered_mb_per_month": 3.0,
    "rss_mb": 0.85 * 31,
    "wakeups_per_min": 4.0,
}
DEFINITIONS = f"""
report: one up/health as the agent sends it; payload is part of MQTT, MQTT is part of TLS; the largest one counts.
sampling: processor time of agent and VM while it is sampled each {SAMPLE_S} s, of one core. Of the VM's, what it uses
while its agent is stopped is taken off. flash: the larger of what the device's disk was given and what the kernel
charges to its processes, while it is online; var/run is in memory, as on a device.
month: {ASSUMED} With the headers of TCP and IP.
RSS and wake-ups: medians of the profile `wired`, 60 s; the bound of RSS is 0.85 of mender 3.4's 31 MB (`bench agent`
measures that side by side)."""


@dataclass(frozen=True, slots=True)
class Processor:
    """Share of one core, in per cent: of the agent, and of the VM for its answers."""

    agent: float
    vm: float

    @property
    def both(self) -> float:
        """What sampling costs in all."""
        return self.agent + self.vm


@dataclass(slots=True)
class Outcome:
    """What was measured. `written` None: no disk could be mounted, and `why_not` says why."""

    reports: list[Packet] = field(default_factory=list)
    receipts: list[Packet] = field(default_factory=list)
    processor: dict[int, Processor] = field(default_factory=dict)
    written: Written | None = None
    why_not: str = ""
    month: Month | None = None
    resident: Cost | None = None

    def figures(self) -> dict[str, float | None]:
        """By key; the first of each kind has a bound."""
        assert self.month
        assert self.resident
        largest = max(self.reports, key=lambda report: report.tls)
        found: dict[str, float | None] = {
            "report_wire_bytes": largest.tls,
            "report_mqtt_bytes": largest.mqtt,
            "report_payload_bytes": largest.payload,
            "report_usual_wire_bytes": statistics.median(report.tls for report in self.reports),
            "report_receipt_bytes": max(receipt.tls for receipt in self.receipts),
            "sampling_cpu_percent": max(case.both for case in self.processor.values()),
        }
        for processes, case in self.processor.items():
            found[f"sampling_cpu_percent.agent_{processes}"] = case.agent
            found[f"sampling_cpu_percent.vm_{processes}"] = case.vm
        found |= {
            "flash_bytes_online": None if self.written is None else self.written.bytes,
            "metered_mb_per_month": self.month.bytes / 1e6,
            "metered_interval_bytes": self.month.interval,
            "metered_session_bytes": self.month.session,
            "metered_look_bytes": self.month.look,
            "rss_mb": self.resident.rss_mb,
            "wakeups_per_min": self.resident.wakeups_per_min,
            "threads": self.resident.threads,
        }
        return found

    def missed(self) -> list[str]:
        """The figures that are over their bounds, and those that could not be had."""
        figures = self.figures()
        return [key for key, bound in BOUNDS.items() if (value := figures[key]) is None or value > bound]

    def table(self) -> str:
        """The same for people."""
        missed = self.missed()
        lines = [f"{'':34}{'measured':>12}{'bound':>10}"]
        for key, value in self.figures().items():
            if value is None:
                lines.append(f"{key:34}{'':>12}{BOUNDS[key]:10g}  not measured: {self.why_not}")
            elif key in BOUNDS:
                lines.append(f"{key:34}{value:12.3f}{BOUNDS[key]:10g}  {'OVER' if key in missed else 'held'}")
            else:
                lines.append(f"  {key:32}{value:12.3f}")
        if self.written is not None and self.written.files:
            lines.append(f"changed on the disk: {', '.join(self.written.files[:10])}")
        return "\n".join(lines)


class Bench:
    """One run in the directory `work`; `seconds` is the length of each window."""

    def __init__(self, work: Path, seconds: float) -> None:
        self._work, self._seconds = work, seconds
        self._fleet = Fleet(work / "fleet")
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Measure everything. FleetError, ExampleError, MeasureError when our side is not as promised."""
        with contextlib.ExitStack() as stack:
            disk = self._disk(stack)
            stack.callback(self._fleet.close)
            self._fleet.open(PRODUCT)
            self._pair = server_pair(self._fleet.data, self._work / "pair")
            say("flashing three devices, pushing a release of 100 processes")
            sampled, meter = self._device(stack, SAMPLED, SAMPLE_S)
            metered, paid = self._device(stack, METERED, SCALED_S, "--profile", "metered")
            api = stack.enter_context(Relay(int(self._fleet.address("devices").rpartition(":")[2])))
            redirect(metered, api=f"https://localhost:{api.port}")
            resident = self._fleet.flash(RESIDENT)
            self._fleet.wait_online(SAMPLED, METERED, RESIDENT)
            self._push("1.0.0", "--all", "--canary", "3")
            time.sleep(SETTLE_S)

            pids = {name: _agent(device) for name, device in self._fleet.devices.items()}
            self._window(sampled, disk, resident, 100)
            say(f"metering the profile for paid lines for {self._seconds:g} s")
            self._outcome.month = measured(
                paid,
                api,
                self._seconds,
                SCALED_S,
                look=lambda: self._look(METERED),
                again=lambda: restart_agent(metered),
            )
            pids[METERED] = _agent(metered)
            say(f"pushing a release of {MANY:,} processes")
            self._push("1.1.0", "-l", f"name={SAMPLED}", evaluated=CROWD)
            time.sleep(SETTLE_S)
            self._window(sampled, disk, resident, MANY)

            self._outcome.reports = meter.published("health")
            self._outcome.receipts = [packet for packet in meter.packets if packet.name == "puback" and not packet.up]
            if not self._outcome.reports or meter.failures or paid.failures:
                raise MeasureError(f"no report was counted: {meter.failures} {paid.failures}\n{sampled.console()}")
            if {name: _agent(device) for name, device in self._fleet.devices.items()} != pids:
                raise MeasureError("an agent was started anew meanwhile")
        return self._outcome

    # --- devices

    def _disk(self, stack: contextlib.ExitStack) -> Disk | None:
        """A disk under the device that is sampled."""
        try:
            return stack.enter_context(own_disk(self._fleet.work / SAMPLED, self._work / "disk"))
        except OSError as error:
            self._outcome.why_not = f"no disk of its own: {error}"
            return None

    def _device(self, stack: contextlib.ExitStack, name: str, interval_s: int, *words: str) -> tuple[Device, Meter]:
        """A device whose session goes through a meter."""
        device = self._fleet.flash(name, health_interval_s=interval_s, more=words, labels={"name": name})
        self._fleet.wait_online(name)
        port = int(self._fleet.address("mqtt").rpartition(":")[2])
        meter = Meter(port, self._pair, identity_of(device), self._fleet.data / "ca.pem")
        stack.callback(meter.close)
        redirect(device, mqtt=f"localhost:{meter.port}")
        return device, meter

    def _push(self, version: str, *words: str, evaluated: str = "") -> None:
        """Have devices run the example, at rest but for what it does at its start."""
        arguments = (*QUIET, "-eval", evaluated) if evaluated else QUIET
        made = self._work / f"sensor_gateway-{version}.tar.gz"
        release_slots.with_arguments(tarball("sensor_gateway", version), made, arguments)
        self._fleet.cli("push", str(made), *words, "--timeout", "120")

    def _look(self, name: str) -> None:
        """Have a device look at the server's metadata over HTTPS, as it does by itself now and then."""
        Api(self._fleet).post(f"/devices/{name}/command", {"name": "refresh"})

    # --- windows

    def _window(self, sampled: Device, disk: Disk | None, resident: Device, processes: int) -> None:
        """Processor time and writes of one device, memory and wake-ups of the other, side by side."""
        say(f"watching devices with {processes:,} processes for {self._seconds:g} s")
        agent, vm = _agent(sampled), _vm(sampled)
        if disk is not None:
            assert sampled._init
            disk.begin([sampled._init.pid, *descendants(sampled._init.pid)])
        began, before = time.monotonic(), (processor_s(agent), processor_s(vm))
        cost = observe([(RESIDENT, _agent(resident))], self._seconds)[RESIDENT]
        passed = time.monotonic() - began
        after = processor_s(agent), processor_s(vm)
        shares = [100 * (now - then) / passed for now, then in zip(after, before, strict=True)]
        if disk is not None:
            written = [disk.written(), *([self._outcome.written] if self._outcome.written else [])]
            self._outcome.written = max(written, key=lambda each: each.bytes)
        if self._outcome.resident is None:
            self._outcome.resident = cost
        self._outcome.processor[processes] = Processor(shares[0], max(0.0, shares[1] - self._at_rest(agent, vm)))

    def _at_rest(self, agent: int, vm: int) -> float:
        """The VM's share of a core while nobody asks it anything."""
        with stopped(agent):
            before = processor_s(vm)
            time.sleep(BASELINE_S)
            return 100 * (processor_s(vm) - before) / BASELINE_S


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def say(text: str) -> None:
    """Tell people what takes so long."""
    print(f"bench telemetry: {text}", file=sys.stderr, flush=True)


def _agent(device: Device) -> int:
    return wait_for("the agent's pid", device.agent_pid, deadline_s=30)


def _vm(device: Device) -> int:
    return wait_for("the VM's pid", device.vm_pid, deadline_s=30)


def main() -> int:
    """0 when every figure keeps its bound, 1 when not, 2 on wrong usage, 130 and 143 when ended by a signal."""
    parser = argparse.ArgumentParser(prog="./dev bench telemetry", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2, help="length of each window (default 2, at least 1)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: a window shorter than a minute has too few samples")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="beamfleet-bench-", ignore_cleanup_errors=True) as work:
        try:
            outcome = Bench(Path(work), options.minutes * 60).run()
        except (FleetError, ExampleError, MeasureError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(f"\nthree windows of {options.minutes:g} minutes on {machine()}\n\n{outcome.table()}\n{DEFINITIONS}")
    if options.json:
        print(as_json("telemetry", outcome.figures()))
    return 1 if outcome.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
