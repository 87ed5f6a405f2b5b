"""`./dev demo`: the main job from nothing, on this machine, with the commands that a user would type.

A server, three devices in directories, 1.0.0, then 1.1.0 over the running fleet, then a 1.2.0 that dies at start (the
one canary reverts it, the others never see it), then one BEAM killed and one frozen. Every expectation is checked; a
wrong outcome ends with exit code 1. Without --once it stays up until Ctrl-C.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, FleetError, wait_for

NAMES = ("kiosk-1", "kiosk-2", "kiosk-3")
TRIAL_S = 10
WHERE = ("-l", "site=berlin")


def expect(condition: object, what: str) -> None:
    """Fail the demo with `what` unless the condition holds."""
    if not condition:
        raise FleetError(f"not as it should be: {what}")


class Demo:
    """The story, one chapter a method; `outcome` collects what really happened, as read from server and devices."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A heading with the seconds since the start."""
        print(f"\n\033[1m[{time.monotonic() - self._began:5.1f} s] {text}\033[0m", flush=True)

    def command(self, *words: str, ok: tuple[int, ...] = (0,)) -> None:
        """Show a command, run it on this terminal, check its exit code."""
        print(f"$ beamfleet {' '.join(word if ' ' not in word else repr(word) for word in words)}", flush=True)
        self._fleet.shown(*words, ok=ok)

    def run(self) -> dict[str, Any]:
        """The whole story; the object that --json prints."""
        self.say("A server, an operator, a product")
        self._fleet.open("sensor-gateway")
        print(f"server: {self._fleet.address('operators')}   data: {self._fleet.data}")
        self.say("Three devices from nothing")
        for name in NAMES:
            self._fleet.flash(name, trial_s=TRIAL_S, health_interval_s=10, labels={"site": "berlin"})
        self._fleet.wait_online(*NAMES)
        self.command("device", "list")

        self.say("sensor_gateway 1.0.0, onto all three at once")
        self.command("push", str(tarball("sensor_gateway", "1.0.0")), *WHERE, "--canary", str(len(NAMES)))
        before = self.answers("1.0.0")

        self.say("1.1.0 over the running fleet: one canary, then the rest")
        self.command("push", str(tarball("sensor_gateway", "1.1.0")), *WHERE)
        after = self.answers("1.1.0")
        for name in NAMES:
            expect(after[name]["count"] >= before[name]["count"] > 0, f"{name} kept its count over the update")

        self.say("1.2.0 dies at start: the canary reverts by itself, the others never see it")
        self.command("push", str(tarball("sensor_gateway", "1.2.0")), *WHERE, ok=(3,))
        self.answers("1.1.0")

        self.say("kill -9 of one BEAM, SIGSTOP of another (heart needs about 15 s to be sure)")
        restarts = self.murder(self._fleet.devices["kiosk-2"], self._fleet.devices["kiosk-3"])

        self.say("What the server knows")
        self.command("device", "list")
        self.command("rollout", "history")
        return self.outcome(restarts)

    def answers(self, version: str) -> dict[str, dict[str, Any]]:
        """What each device's own endpoint says, once it says this version."""
        seen = {}
        for device in self._fleet.devices.values():

            def right(device: Device = device) -> dict[str, Any] | None:
                answer = device.http()
                return answer if answer and answer["version"] == version and answer["healthy"] else None

            seen[device.name] = wait_for(f"{device.name} to answer with {version}", right, deadline_s=20)
            print(f"http://127.0.0.1:{device.http_port}/  {device.name}: {json.dumps(seen[device.name])}")
        return seen

    def murder(self, killed: Device, frozen: Device) -> Counter[str]:
        """End one VM, freeze another; the causes that the server then shows."""
        victims = {killed.name: ("crash", killed, signal.SIGKILL), frozen.name: ("hang", frozen, signal.SIGSTOP)}
        pids = {}
        for name, (_, device, blow) in victims.items():
            pid = device.vm_pid()
            expect(pid, f"{name} runs a BEAM")
            assert pid is not None
            pids[name] = pid
            os.kill(pid, blow)
        causes: Counter[str] = Counter()
        for name, (cause, device, _) in victims.items():

            def back(name: str = name, device: Device = device) -> str | None:
                if device.http() is None or device.vm_pid() in (None, pids[name]):
                    return None
                shown = self._fleet.json("device", "show", name)
                return str(shown["cause"]) if shown["starts"] == int(device.boot_state()["starts"]) else None

            told = wait_for(f"{name} to be back, and reported", back, deadline_s=60, every_s=0.5)
            print(f"{name}: back, cause {told}")
            expect(told == cause, f"{name}'s restart is told as {cause}, not {told}")
            causes[told] += 1
        return causes

    def outcome(self, restarts: Counter[str]) -> dict[str, Any]:
        """Counts read from the server's rollouts, checked against `boot/state` of every device."""
        devices = self._fleet.json("device", "list")
        committed, reverted, halted = Counter[str](), Counter[str](), False
        for summary in self._fleet.json("rollout", "history"):
            rollout = self._fleet.json("rollout", "status", str(summary["id"]))
            states = Counter(device["state"] for device in rollout["devices"])
            for tally, word in ((committed, "committed"), (reverted, "reverted")):
                if states[word]:
                    tally[rollout["version"]] += states[word]
            halted |= rollout["state"] == "halted"
        for item in devices:
            on_disk = self._fleet.devices[item["id"]].boot_state()
            expect(item["slot"] == on_disk["slot"], f"the server and boot/state of {item['id']} name the same slot")
            expect(item["version"] == "1.1.0" and item["online"], f"{item['id']} is online and runs 1.1.0")
        everyone = len(NAMES)
        expect(committed == {"1.0.0": everyone, "1.1.0": everyone}, f"all committed 1.0.0 and 1.1.0: {dict(committed)}")
        expect(reverted == {"1.2.0": 1} and halted, f"1.2.0 was reverted by the canary alone: {dict(reverted)}")
        return {
            "devices": len(devices),
            "committed": dict(committed),
            "reverted": dict(reverted),
            "halted": halted,
            "vm_restarts": {"crash": restarts["crash"], "hang": restarts["hang"]},
            "seconds": round(time.monotonic() - self._began, 1),
        }


def explore(fleet: Fleet) -> None:
    """Say what to try, and wait for Ctrl-C."""
    print(f"""
The fleet stays up until Ctrl-C. In another terminal:
  export BEAMFLEET_CONFIG_DIR={fleet.work / "operator"} PATH={Path(sys.executable).parent}:$PATH
  beamfleet device list
  beamfleet device show kiosk-1
  beamfleet events --follow
  beamfleet rollout history
  curl http://127.0.0.1:{fleet.devices["kiosk-1"].http_port}/
  curl {fleet.address("metrics")}/metrics
  cat {fleet.devices["kiosk-1"].path("boot/state")}""")
    sys.stdout.flush()
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def main() -> int:
    """0 when everything came out as it should, 1 when something did not."""
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="run to the end, clean up, exit by the outcome")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--keep", action="store_true", help="leave the working directory for a look")
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    work = Path(tempfile.mkdtemp(prefix="beamfleet-demo-"))
    fleet = Fleet(work)
    outcome: dict[str, Any] | None = None
    try:
        outcome = Demo(fleet).run()
        print("\nEverything came out as it should.", flush=True)
        if not options.once:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            explore(fleet)
    except (FleetError, KeyboardInterrupt) as error:
        print(f"\nThe demo failed: {error if str(error) else 'interrupted'}", file=sys.stderr)
        for device in fleet.devices.values():
            print(f"--- {device.name}\n{device.console(20)}", file=sys.stderr)
    finally:
        fleet.close()
        if options.keep:
            print(f"working directory: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        print(json.dumps(outcome or {"failed": True}))
    return 0 if outcome else 1


if __name__ == "__main__":
    sys.exit(main())
