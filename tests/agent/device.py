"""A device laid down in a directory by the real setup, and its worker, run as the agent runs it."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from beamfleet_agent.paths import Paths
from beamfleet_agent.setup import set_up

from tests.support.server import Server


def words(device: str, **more: Any) -> dict[str, Any]:
    """What `setup` takes, for a device without a server unless `more` names one."""
    root = base64.b64encode(b'{"signed":{"_type":"root"},"signatures":[]}').decode()
    ca = "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"
    given = {"device": device, "ca_pem": ca, "root_json_base64": root}
    return {**given, "single_user": True, "allow_unsafe_filesystem": True, "trial_s": 1, **more}


def words_for(server: Server, device: str, **more: Any) -> dict[str, Any]:
    """The same for a device of this server."""
    facts, about = server.facts, server.get("/server")
    addresses = {"api": facts["devices"], "enrol": facts["enrolment"], "mqtt": facts["mqtt"]}
    trust = {"ca_pem": server.ca.read_text(), "root_json_base64": about["metadata"]["root_json_base64"]}
    return words(device, server=addresses, **trust, **more)


class Worker:
    """One worker process on one job."""

    def __init__(self, root: Path, job: str, **more: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "beamfleet_agent.worker", str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.tell({"job": job, "root": str(root), "sequence": 0, "floors": {}, **more})

    def tell(self, line: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def lines(self) -> list[dict[str, Any]]:
        """Everything it says, to its end; it may proceed at once."""
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(json.loads(line))
            if "checked" in said[-1]:
                self.tell({"proceed": True})
        self.process.communicate()
        assert self.process.returncode == (0 if "result" in said[-1] else 1)
        return said


def work(root: Path, job: str, **more: Any) -> dict[str, Any]:
    """The last line of a job: {"result": ...} or {"error": ...}."""
    return Worker(root, job, **more).lines()[-1]


def identify(paths: Paths, certificate: Path, key: Path) -> None:
    """Make this pair the one that the device uses."""
    Path(paths.pair).write_bytes(certificate.read_bytes() + key.read_bytes())
    Path(paths.pair).chmod(0o600)


def lay_down(root: Path, given: dict[str, Any]) -> Paths:
    """A device in the directory `root`."""
    set_up(str(root), given)
    return Paths(str(root))
