"""A simulated fleet as a test holds it: the command in a process, its counters while it runs, what its devices keep."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
import yaml
from beamfleet_server.simulator import fate as fates
from beamfleet_server.simulator import memory
from beamfleet_server.simulator.memory import Memory
from beamfleet_server.simulator.scenario import Scenario, parse

from tests.support.fleet import Fleet, FleetError, wait_for

END_S = 60


class Simulation:
    """`beamfleet simulate` against the server of `fleet`. `scenario` is what its file says."""

    def __init__(self, fleet: Fleet, devices: int, scenario: dict[str, Any], *, prefix: str = "sim-") -> None:
        self.fleet, self.devices, self.document = fleet, devices, scenario
        self.scenario: Scenario = parse(scenario)
        self.prefix = prefix
        self.directory = fleet.work / f"simulated-{prefix.strip('-')}"
        self._process: subprocess.Popen[str] | None = None

    @property
    def names(self) -> list[str]:
        """Their ids."""
        return [f"{self.prefix}{number:05}" for number in range(1, self.devices + 1)]

    @property
    def pid(self) -> int:
        """The process of the simulator."""
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str) -> None:
        """Start it, and do not wait."""
        file = self.fleet.work / f"{self.prefix.strip('-')}.yaml"
        file.write_text(yaml.safe_dump(self.document))
        (self.directory / "status.json").unlink(missing_ok=True)
        words = ["simulate", "--devices", str(self.devices), "--scenario", str(file), "--prefix", self.prefix]
        self._process = self.fleet.begin(*words, "--state", str(self.directory), "-o", "json", *more)

    def status(self) -> dict[str, Any]:
        """Its newest counters; {} before the first."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise FleetError(f"the simulation ended with {self._process.returncode}: {self._process.communicate()}")
        try:
            found: dict[str, Any] = json.loads((self.directory / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait(self, what: str, look: Callable[[dict[str, Any]], Any], deadline_s: float = 60) -> dict[str, Any]:
        """The first counters of which `look` is true."""

        def seen() -> dict[str, Any] | None:
            counters = self.status()
            return counters if counters and look(counters) else None

        return wait_for(what, seen, deadline_s=deadline_s)

    def wait_online(self, least: int, deadline_s: float = 120) -> None:
        """Until so many sessions stand, as the simulator sees them."""
        self.wait(f"{least} simulated devices to be online", lambda seen: seen["online"] >= least, deadline_s)

    def stop(self) -> dict[str, Any]:
        """End it as Ctrl-C does; its summary."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        out, err = self._process.communicate(timeout=END_S)
        if self._process.returncode != 0:
            raise FleetError(f"the simulation ended with {self._process.returncode}\n{out}\n{err}")
        self._process = None
        summary: dict[str, Any] = json.loads(out)
        return summary

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def memories(self) -> dict[str, Memory]:
        """What the devices keep, after the end: the truth that the server has to know."""
        return memory.load(self.directory)

    def nature(self, name: str) -> fates.Nature:
        """What a device is."""
        return fates.nature(self.scenario, self.scenario.seed, name)

    def fate(self, name: str, manifest: str, version: str, attempt: int = 1) -> fates.Fate:
        """How an update of it goes."""
        return fates.fate(self.scenario, self.scenario.seed, name, manifest, version, attempt)


@contextlib.contextmanager
def simulation(
    fleet: Fleet, devices: int, scenario: dict[str, Any], *more: str, prefix: str = "sim-"
) -> Iterator[Simulation]:
    """A simulation that runs, and is ended."""
    here = Simulation(fleet, devices, scenario, prefix=prefix)
    here.start(*more)
    try:
        yield here
    finally:
        here.close()


class Api:
    """The operators' API of a fleet's server, without a process for each question."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def get(self, path: str, **query: Any) -> Any:
        """What a GET answers."""
        return self._answer("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What a POST answers."""
        return self._answer("POST", path, json=body)

    def all(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Every item of a list."""
        items: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self.get(path, limit=500, **query, **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            cursor = page.get("next")
        return items

    def _answer(self, method: str, path: str, **content: Any) -> Any:
        data: Path = self._fleet.data
        answer = requests.request(
            method, f"{self._fleet.address('operators')}/api/v1{path}", verify=str(data / "ca.pem"), timeout=60,
            headers={"Authorization": f"Bearer {(data / 'admin.token').read_text().strip()}"}, **content,
        )  # fmt: skip
        if not answer.ok:
            raise FleetError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()
