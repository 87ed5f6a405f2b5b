"""The real server as a child process of a test, with its real mosquitto, and an operator's hands on its API."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from beamfleet_bundles import pki
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

T = TypeVar("T")
DEADLINE_S = 30.0
LISTENERS = ("operators", "devices", "enrolment", "mqtt", "metrics")


def eventually(what: str, look: Callable[[], T | None], deadline_s: float = DEADLINE_S) -> T:
    """The first true answer of `look`; fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while not (answer := look()):
        assert time.monotonic() < end, f"waited {deadline_s:.0f} s for {what}"
        time.sleep(0.02)
    return answer


def alive(pid: int | None) -> bool:
    """True for a process that runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Identity:
    """A device's id, and the PEM files of its key and certificate."""

    device: str
    key: Path
    certificate: Path


class Server:
    """One server process on the directory `data`; free ports unless `settings` say otherwise."""

    def __init__(self, data: Path, **settings: object) -> None:
        self.data = data
        self._settings: dict[str, object] = dict.fromkeys((f"{name}_port" for name in LISTENERS), 0) | settings
        self._process: subprocess.Popen[str] | None = None
        self._orphan: int | None = None
        self.log = data.parent / f"{data.name}.log"

    def start(self) -> None:
        """Start it and wait for the line `ready`."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(),
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "ready\n":
                return
        raise AssertionError(f"the server ended with {self._process.wait()}\n{self.log.read_text()}")

    def attempt(self) -> subprocess.CompletedProcess[str]:
        """Start it where it cannot start; its exit code and output."""
        return subprocess.run(self._command(), capture_output=True, text=True, timeout=60, env=_environment())

    def kill(self) -> None:
        """SIGKILL: the power goes, for the server alone."""
        assert self._process is not None
        self._orphan = self.broker_pid
        self._process.kill()
        self._process.communicate()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=60)
        return self._process.returncode

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def end(self) -> None:
        """Stop it if it runs, and the broker of a killed one that nobody has started again."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        if self._orphan is not None and alive(self._orphan):
            os.kill(self._orphan, signal.SIGTERM)

    @property
    def pid(self) -> int:
        """The running server process."""
        assert self._process is not None
        return self._process.pid

    @property
    def broker_pid(self) -> int | None:
        """The mosquitto that the server has spawned."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text().strip() == "mosquitto":
                        return int(child)
        return None

    @property
    def facts(self) -> dict[str, Any]:
        """server.json."""
        facts: dict[str, Any] = json.loads((self.data / "server.json").read_text())
        return facts

    @property
    def ca(self) -> Path:
        """The fleet CA's certificate."""
        return self.data / "ca.pem"

    @property
    def token(self) -> str:
        """The first operator's token."""
        return (self.data / "admin.token").read_text().strip()

    def api(self, method: str, path: str, *, token: str | None = None, **content: Any) -> requests.Response:
        """A request to the operators' API, with the operator's token unless another is given."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"} | content.pop("headers", {})
        url = f"{self.facts['operators']}/api/v1{path}"
        return requests.request(method, url, headers=headers, verify=str(self.ca), timeout=60, **content)

    def get(self, path: str) -> Any:
        """What a GET answers, which must be 200."""
        response = self.api("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: dict[str, Any], status: int = 201) -> Any:
        """What a POST answers, which must have this status."""
        response = self.api("POST", path, json=body)
        assert response.status_code == status, response.text
        return response.json()

    def new_token(self, device: str, **more: Any) -> str:
        """A one-time token."""
        return str(self.post("/tokens", {"device": device} | more)["token"])

    def simpleenroll(self, device: str, token: str, request: bytes) -> requests.Response:
        """An enrolment with a PKCS#10 request (DER)."""
        url = f"{self.facts['enrolment']}/.well-known/est/simpleenroll"
        headers = {"Content-Type": "application/pkcs10"}
        body = pki.encode_body(request)
        return requests.post(url, body, headers=headers, auth=(device, token), verify=str(self.ca), timeout=60)

    def simplereenroll(self, identity: Identity, request: bytes | None = None) -> requests.Response:
        """A renewal with what a device holds; the request (DER) is for a new key unless another is given."""
        url = f"{self.facts['enrolment']}/.well-known/est/simplereenroll"
        body = request or pki.make_request(ec.generate_private_key(ec.SECP256R1()), identity.device)
        pair = (str(identity.certificate), str(identity.key))
        return requests.post(url, pki.encode_body(body), cert=pair, verify=str(self.ca), timeout=60)

    def enrol(self, device: str, directory: Path, **token: Any) -> Identity:
        """A device with a certificate, whose files lie in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        identity = Identity(device, directory / f"{device}.key", directory / f"{device}.pem")
        identity.key.unlink(missing_ok=True)
        key = pki.create_key(identity.key)
        answer = self.simpleenroll(device, self.new_token(device, **token), pki.make_request(key, device))
        assert answer.status_code == 200, answer.text
        (certificate,) = pki.unpack_certificates(pki.decode_body(answer.content, pki.MAX_RESPONSE))
        identity.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        return identity

    def fetch(self, identity: Identity, path: str, **content: Any) -> requests.Response:
        """A GET of a device on the devices' listener."""
        pair = (str(identity.certificate), str(identity.key))
        return requests.get(f"{self.facts['devices']}{path}", cert=pair, verify=str(self.ca), timeout=60, **content)

    def _command(self) -> list[str]:
        settings = [f"{key}={value}" for key, value in self._settings.items()]
        return [sys.executable, "-m", "beamfleet_server.serve", f"data={self.data}", *settings]


def start_server(data: Path, **settings: object) -> Server:
    """A server that is ready."""
    server = Server(data, **settings)
    server.start()
    return server


@contextlib.contextmanager
def running_server(data: Path, **settings: object) -> Iterator[Server]:
    """A server that is ready, and stopped at the end."""
    server = start_server(data, **settings)
    try:
        yield server
    finally:
        server.end()


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("BEAMFLEET_")}
