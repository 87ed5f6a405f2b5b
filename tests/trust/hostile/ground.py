"""A real server, a real device that runs a release, and everything between them in the hands of the test.

The device enrols and gets its release from the server itself. From then on it hears `front` and `broker`, which hold
the server's own certificate, so that TLS refuses nothing of what they say. What is signed is signed with the real keys.
"""

import contextlib
import itertools
import json
import re
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beamfleet_agent import client
from beamfleet_agent.paths import Paths
from beamfleet_bundles import pki
from beamfleet_bundles.build.builder import build
from cryptography.hazmat.primitives.asymmetric import ec

from tests.agent.device import lay_down, words_for
from tests.support.author import Author
from tests.support.examples import tarball
from tests.support.fleet import Device, free_port, wait_for
from tests.support.interception import Answer, FalseBroker, Interceptor, identity_of, redirect, server_pair
from tests.support.mqtt_device import MqttDevice
from tests.support.server import Identity, Server, running_server
from tests.support.thief import Thief

DEVICE = "gw-1"
SPENDER = "spender"
LIAR = "liar"
PRODUCT = "sensor-gateway"
RUNNING, PUBLISHED = "1.0.0", "1.1.0"
DEADLINE_S = 30.0

MOVING_ON_SERVER = re.compile(r"beamfleet\.db(-wal|-shm)?|broker/mosquitto\.db.*")
MOVING_ON_DEVICE = re.compile(
    r"console\.log|var/run/.*|var/lib/beamfleet/(\.?journal(\.new)?|trust/.*|apps/main/data/.*)"
)
"""What may change: what is told and remembered about a refusal, and the release's own files; trust/ may take newer
metadata that is good, see `Ground.trusted`."""
COUNTED = ("bundles", "certificates", "devices", "operators", "products", "rollouts", "tuf_metadata")

Picture = Mapping[str, tuple[int, ...]]
State = tuple[Picture, Picture, Mapping[str, int], Mapping[str, str]]


@dataclass(slots=True)
class Log:
    """The JSON lines that were written to a file since the last look."""

    path: Path
    _read: int = 0

    def skip(self) -> None:
        """Everything until now has been looked at."""
        self._read = self.path.stat().st_size

    def refusals(self) -> list[dict[str, Any]]:
        """The lines since the last `skip` that tell of something bad, or of a refusal; a traceback is not one line."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
        lines = [json.loads(line) if line.startswith(b"{") else {"event": line.decode()} for line in whole.split(b"\n")]
        return [line for line in lines if line["event"] and is_refusal(line)]


def is_refusal(line: dict[str, Any]) -> bool:
    """Whether a line of a log tells of a refusal or of anything worse."""
    return line.get("level", "error") in ("warning", "error", "critical") or line["event"].endswith(" refused")


@dataclass(slots=True)
class Ground:
    """Where hostile inputs are given."""

    work: Path
    server: Server
    author: Author
    device: Device
    front: Interceptor
    broker: FalseBroker
    thief: Thief
    liar: MqttDevice
    identity: Identity
    """Of the device `liar`, which speaks to the real server."""
    spent: str
    """The token with which the device `spender` came."""
    attempts: int = 0
    made: dict[str, Any] = field(default_factory=dict)
    """What is made once."""
    sides: dict[str, Log] = field(default_factory=dict)
    turns: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.sides = {"device": Log(self.device.root / "console.log"), "server": Log(self.server.log)}

    # --- what must not change

    def pids(self) -> tuple[int | None, ...]:
        """Who has to stay up: server, broker, agent, launcher, release."""
        return (
            self.server.pid, self.server.broker_pid,
            self.device.agent_pid(), self.device.launcher_pid(), self.device.vm_pid(),
        )  # fmt: skip

    def state(self) -> State:
        """Files of both sides, rows of the server's tables, and what the launcher says."""
        with contextlib.closing(sqlite3.connect(f"file:{self.server.data / 'beamfleet.db'}?mode=ro", uri=True)) as rows:
            counts = {table: rows.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in COUNTED}  # noqa: S608
        server = picture(self.server.data, MOVING_ON_SERVER)
        return server, picture(self.device.root, MOVING_ON_DEVICE), counts, self.device.boot_state()

    def left_over(self) -> list[str]:
        """What lies where nothing may be left."""
        places = [self.device.path("staging"), self.device.path("requests"), self.server.data / "quarantine"]
        return [str(path) for place in places for path in place.iterdir()]

    def memory_kib(self) -> dict[str, int]:
        """Resident memory of server and agent."""
        agent = self.device.agent_pid()
        assert agent is not None
        return {"server": resident_kib(self.server.pid), "agent": resident_kib(agent)}

    # --- how a device is given something

    def heard(self, side: str, count: int = 1) -> str:
        """Wait for the refusal's line in the log of a side; its code."""
        log = self.sides[side]

        def told() -> list[dict[str, Any]] | None:
            found = log.refusals()
            return found if len(found) >= count else None

        lines = wait_for("a refusal", told, deadline_s=DEADLINE_S, every_s=0.01)
        if side == "device":
            wait_for("the worker to end", lambda: self.device.worker_pid() is None, deadline_s=DEADLINE_S, every_s=0.01)
        return str(lines[0].get("code"))

    def install(self, path: Path) -> str:
        """Have the agent install a bundle file; the code of its refusal."""
        status = client.ask(Paths(str(self.device.root)), {"do": "install", "path": str(path)}, lambda _: None)
        assert status is not None
        assert status["update"]["phase"] == "failed", status
        return str(status["update"]["reason"])

    def desired(self, document: bytes) -> str:
        """Push an assignment; the code of its refusal."""
        self.broker.tell(DEVICE, "desired", document, retain=True)
        return self.heard("device")

    @contextlib.contextmanager
    def served(self, **answers: Answer) -> Iterator[None]:
        """Meanwhile the device hears these answers, by path."""
        self.front.answers |= answers
        try:
            yield
        finally:
            for path in answers:
                del self.front.answers[path]

    def next_attempt(self) -> int:
        """One that the device has not seen."""
        self.attempts += 1
        return self.attempts

    def assigned(self, version: str = PUBLISHED, **changes: Any) -> bytes:
        """A good assignment of a published release, but for `changes`."""
        release = self.thief.release(PRODUCT, version)
        return self.thief.assign(DEVICE, release, attempt=self.next_attempt(), **changes)

    def settle(self) -> None:
        """The running release is assigned again: the device has nothing left to do."""
        self.broker.tell(DEVICE, "desired", self.assigned(RUNNING), retain=True)

        def settled() -> bool:
            update = client.ask(Paths(str(self.device.root)), {"do": "status"}, lambda _: None)
            return bool(update and update["update"]["phase"] == "committed" and self.device.worker_pid() is None)

        wait_for("the device to settle", settled, deadline_s=DEADLINE_S)
        for log in self.sides.values():
            log.skip()

    def publish(self, kind: str, content: bytes, **more: Any) -> str:
        """Publish as the liar; the code of the server's refusal, or the broker's words if it was the broker's."""
        answer = self.liar.publish(kind, content, **more)
        return self.heard("server") if answer == "Success" else answer

    def publish_on(self, topic: str, content: bytes) -> str:
        """Publish as the liar on any topic; the broker's words."""
        return self.liar.publish_on(topic, content)


def picture(root: Path, moving: re.Pattern[str]) -> Picture:
    """Kind, size, time and identity of everything below `root` that may not move."""
    seen: dict[str, tuple[int, ...]] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not moving.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
                times = (0, 0) if stat.S_ISDIR(found.st_mode) else (found.st_mtime_ns, found.st_ino)
                seen[name] = (found.st_mode, size, *times)
    return seen


def resident_kib(pid: int) -> int:
    """VmRSS."""
    found = re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


@contextlib.contextmanager
def opened(work: Path) -> Iterator[Ground]:
    """The ground, with a device that runs its release; everything ends with it."""
    rates = {"requests_per_operator_s": 1000, "requests_per_address_s": 1000, "requests_per_device_s": 1000}
    with contextlib.ExitStack() as ends:
        server = ends.enter_context(running_server(work / "server", log_format="json", ingest_rate=1000, **rates))
        author = Author(server, work / "author")
        assert author.initialise().status_code == 201 or server.get("/server")["metadata"]["root"]
        assert author.create_product(PRODUCT).status_code == 201
        for version in (RUNNING, PUBLISHED):
            folder = work / "built" / version
            folder.mkdir(parents=True)
            built = build(tarball("sensor_gateway", version), out_dir=folder, product=PRODUCT, version=version)
            assert author.upload(author.sign(built.path)).status_code == 201
        device = Device(DEVICE, work / DEVICE, free_port())
        lay_down(device.root, words_for(
            server, DEVICE, token=server.new_token(DEVICE), env={"SENSOR_GATEWAY_PORT": str(device.http_port)},
            trial_s=1, health_interval_s=3600,
        ))  # fmt: skip
        ends.callback(device.stop)
        device.start()
        server_knows(server)
        server.post("/rollouts", {"product": PRODUCT, "version": RUNNING, "all": True})
        wait_for("the release", lambda: device.boot_state().get("phase") == "committed", deadline_s=60)
        pair = server_pair(server.data, work / "front")
        front = Interceptor(pair, server.ca, server.facts["devices"], identity_of(device))
        ends.callback(front.close)
        broker = FalseBroker(work / "front/broker", pair, server.ca)
        ends.callback(broker.close)
        redirect(device, api=front.address, mqtt=broker.address)
        broker.wait("the device", lambda: broker.of("state"))
        spent, key = server.new_token(SPENDER), ec.generate_private_key(ec.SECP256R1())
        assert server.simpleenroll(SPENDER, spent, pki.make_request(key, SPENDER)).status_code == 200
        identity = server.enrol(LIAR, work / "liar")
        liar = MqttDevice(identity, server.facts["mqtt"], server.ca)
        ends.callback(liar.close)
        liar.birth()
        liar.acknowledged(liar.report())
        ground = Ground(
            work, server, author, device, front, broker, Thief(server.data, work / "thief"), liar, identity, spent
        )
        ground.settle()
        yield ground


def server_knows(server: Server) -> None:
    """Wait until the device has enrolled and told what it is."""

    def known() -> bool:
        return any(item["id"] == DEVICE and item["online"] for item in server.get("/devices")["items"])

    wait_for("the device to come online", known, deadline_s=60, every_s=0.1)
