"""Debian's Prometheus and its promtool, started by a test on a free port with the files of server/deploy."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.support.fleet import free_port, wait_for

DEPLOY = Path(__file__).resolve().parents[2] / "server/deploy"
RULES = DEPLOY / "beamfleet.rules.yml"
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
"""What Grafana would put in place of the dashboard's variables."""


class Prometheus:
    """One that scrapes `target` (host:port) each second, otherwise by the configuration that people are given."""

    def __init__(self, work: Path, target: str) -> None:
        work.mkdir(parents=True)
        self.address = f"127.0.0.1:{free_port()}"
        told = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        told["global"] = dict.fromkeys(told["global"], "1s")
        told["rule_files"] = [str(DEPLOY / name) for name in told["rule_files"]]
        (job,) = told["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        (work / "prometheus.yml").write_text(yaml.safe_dump(told))
        words = [f"--config.file={work / 'prometheus.yml'}", f"--storage.tsdb.path={work / 'data'}"]
        words += [f"--web.listen-address={self.address}", "--log.level=warn"]
        self.log = work / "prometheus.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(["prometheus", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for_target(self, health: str) -> None:
        """Until it has scraped the target with this outcome, `up` or `down`."""

        def seen() -> bool:
            with contextlib.suppress(requests.ConnectionError):
                targets = self.get("targets")["activeTargets"]
                return [each["health"] for each in targets] == [health]
            assert self._process.poll() is None, self.log.read_text()
            return False

        wait_for(f"Prometheus to find its target {health}", seen, deadline_s=60, every_s=0.2)

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = requests.get(f"http://{self.address}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[Any]:
        """What an expression is now: its series."""
        found: list[Any] = self.get("query", query=expression)["result"]
        return found

    def alerts(self) -> Mapping[str, str]:
        """Alerts by name that are `pending` or `firing`."""
        return {each["labels"]["alertname"]: each["state"] for each in self.get("alerts")["alerts"]}

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


@contextlib.contextmanager
def scraping(work: Path, target: str) -> Iterator[Prometheus]:
    """A Prometheus that runs; what it shall scrape may come later."""
    prometheus = Prometheus(work, target)
    try:
        yield prometheus
    finally:
        prometheus.stop()


def promtool(*words: str, given: str = "") -> str:
    """What promtool says of something that it must find right: nothing of what it might find wrong with it either."""
    done = subprocess.run(["promtool", *words], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def dashboard_queries() -> list[tuple[str, str]]:
    """(title of the panel, expression) of each query of the dashboard, as Grafana would send it."""
    found = []
    for panel in json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression
            found.append((panel["title"], expression))
    return found


def metrics_named(text: str) -> set[str]:
    """The families of our metrics and the process's that a text names."""
    names = re.findall(r"\b(?:beamfleet|process)_[a-z_]+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
