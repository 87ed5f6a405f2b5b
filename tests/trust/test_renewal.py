"""Certificates of a few seconds on a real server: devices renew them, whatever is killed, and find a fleet again that
has changed its authority and its address while they slept."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from beamfleet_agent import bearings, tls
from beamfleet_agent.paths import Paths
from beamfleet_bundles import pki, repository, whereabouts

from tests.agent.device import Worker, lay_down, words_for, work
from tests.support.author import Author, now
from tests.support.server import Server, eventually, running_server

pytestmark = pytest.mark.suite(name="trust")

LIFE_S = 24


class Resident:
    """The agent of a device, as its init runs it."""

    def __init__(self, root: Path) -> None:
        self._log = root / "agent.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "beamfleet_agent", "run", "--root", str(root)], stderr=log
            )

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def end(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)


@pytest.fixture
def agents() -> Iterator[list[Resident]]:
    started: list[Resident] = []
    yield started
    for each in started:
        if each.process.poll() is None:
            each.end()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "server", device_certificate_s=LIFE_S) as made:
        yield made


@pytest.fixture
def author(server: Server, tmp_path: Path) -> Author:
    made = Author(server, tmp_path / "author")
    assert made.initialise().status_code == 200
    return made


def enrolled(server: Server, root: Path, name: str) -> Paths:
    paths = lay_down(root, words_for(server, name, token=server.new_token(name)))
    assert "result" in work(root, "enrol")
    return paths


def serial(paths: Paths) -> str:
    return pki.read_certificate(pki.load_pair(Path(paths.pair))[0]).serial


def issuer(paths: Paths) -> str:
    return pki.load_pair(Path(paths.pair))[0].issuer.rfc4514_string()


def online(server: Server, name: str) -> bool:
    return bool(server.get(f"/devices/{name}")["online"])


def signed_whereabouts(server: Server, author: Author, known: whereabouts.Whereabouts) -> None:
    """The owners sign where the server is, and the server takes it."""
    import base64

    held = author.held("targets")
    signed = repository.set_whereabouts(held, known, [author.keys["targets"]], now())
    answer = server.api("POST", "/metadata", json={"targets": base64.b64encode(signed).decode()})
    assert answer.status_code == 200, answer.text


@pytest.mark.usefixtures("author")
def test_a_running_device_renews_and_its_session_goes_on_with_the_new_certificate(
    server: Server, tmp_path: Path, agents: list[Resident]
) -> None:
    paths = enrolled(server, tmp_path / "device", "gw-1")
    first = serial(paths)
    agents.append(Resident(tmp_path / "device"))
    eventually("a renewal", lambda: serial(paths) != first, deadline_s=60)
    eventually("a session with it", lambda: len(agents[0].logged("session up")) > 1)
    eventually("the server to see it", lambda: online(server, "gw-1"))
    assert agents[0].logged("certificate switched")[0]["serial"] == serial(paths)
    assert agents[0].logged("session down") == []
    assert len(list(Path(paths.identity).glob("old-*.pem"))) == 1


@pytest.mark.usefixtures("author")
def test_a_worker_that_is_killed_at_any_moment_of_a_renewal_leaves_a_pair_that_works(
    server: Server, tmp_path: Path
) -> None:
    paths = enrolled(server, tmp_path / "device", "gw-2")
    certificate, _ = pki.load_pair(Path(paths.pair))
    end = certificate.not_valid_after_utc.timestamp()
    eventually("its end", lambda: time.time() > end, deadline_s=60)
    delay_s, killed = 0.3, 0
    while True:
        worker = Worker(tmp_path / "device", "renew")
        try:
            worker.process.communicate(timeout=delay_s)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.communicate()
            killed += 1
        pki.load_pair(Path(paths.pair))
        if worker.process.returncode == 0:
            break
        delay_s += 0.04
        assert delay_s < 20
    assert killed
    assert "result" in work(tmp_path / "device", "poll")


@pytest.mark.usefixtures("author")
def test_a_certificate_that_has_run_out_renews_and_does_nothing_else(server: Server, tmp_path: Path) -> None:
    paths = enrolled(server, tmp_path / "device", "gw-3")
    certificate, _ = pki.load_pair(Path(paths.pair))
    end = certificate.not_valid_after_utc.timestamp()
    eventually("its end", lambda: time.time() > end, deadline_s=60)
    error = work(tmp_path / "device", "poll")["error"]
    assert error["code"] in ("certificate.refused", "certificate.unknown", "worker.network"), error
    assert work(tmp_path / "device", "renew")["result"]["switched"]
    assert "result" in work(tmp_path / "device", "poll")


class TestAFleetThatMoved:
    """The owner changes the authority and the name of the server, and signs that."""

    def rotate(self, server: Server, author: Author, also: dict[str, str] | None = None) -> None:
        """A new authority that all devices hear of, the old one retired."""
        (old,) = server.get("/server")["authorities"]
        new = server.post("/authorities", {})
        facts = server.facts
        here = {"api": facts["devices"], "enrol": facts["enrolment"], "mqtt": facts["mqtt"]}
        pems = {entry["id"]: entry["pem"] for entry in server.get("/server")["authorities"]}
        places = [also, here] if also else [here]
        signed_whereabouts(server, author, whereabouts.make([pems[old["id"]], pems[new["id"]]], places))
        assert server.api("POST", f"/authorities/{new['id']}/activate").status_code == 200
        signed_whereabouts(server, author, whereabouts.make([pems[new["id"]]], places))
        answer = server.api("POST", f"/authorities/{old['id']}/retire", json={"force": True})
        assert answer.status_code == 200, answer.text

    def test_a_device_that_slept_through_all_of_it_comes_back_without_a_visit(
        self, server: Server, author: Author, tmp_path: Path, agents: list[Resident]
    ) -> None:
        paths = enrolled(server, tmp_path / "device", "gw-4")
        before, flashed = issuer(paths), Path(paths.ca).read_bytes()
        nobody = {"api": "https://127.0.0.1:9", "enrol": "https://127.0.0.1:9", "mqtt": "127.0.0.1:9"}
        self.rotate(server, author, nobody)
        certificate, _ = pki.load_pair(Path(paths.pair))
        end = certificate.not_valid_after_utc.timestamp()
        eventually("its end", lambda: time.time() > end, deadline_s=60)
        agents.append(Resident(tmp_path / "device"))
        eventually("a session", lambda: agents[0].logged("session up"), deadline_s=90)
        assert issuer(paths) != before
        assert Path(paths.ca).read_bytes() == flashed, "nobody has been there"
        assert Path(bearings.authorities(paths)).read_bytes() != flashed
        assert bearings.load(paths).servers[0].api == nobody["api"]

    @pytest.mark.usefixtures("author")
    def test_nothing_but_public_metadata_goes_to_somebody_who_is_not_verified(
        self, server: Server, tmp_path: Path
    ) -> None:
        """A stranger at the server's address sees what is asked for, without a certificate and without a body."""
        paths = enrolled(server, tmp_path / "device", "gw-5")
        with Stranger(tmp_path) as stranger:
            toml = Path(paths.settings)
            for name in ("devices", "enrolment"):
                toml.write_text(toml.read_text().replace(server.facts[name], stranger.address))
            error = work(tmp_path / "device", "poll")["error"]
            assert (error["code"], error["patience"] > 1_000) == ("worker.network", True)
            Path(paths.token).write_text("a token")
            Path(paths.pair).unlink()
            work(tmp_path / "device", "enrol")
        assert stranger.asked
        assert {line.split(b" ")[0] for line in stranger.asked} == {b"GET"}
        assert {line.split(b" ")[1] for line in stranger.asked} <= {
            b"/metadata/2.root.json",
            b"/metadata/timestamp.json",
        }
        assert not any(stranger.certificates)
        assert b"Authorization" not in b"".join(stranger.heard)


class Stranger:
    """Anybody with a certificate of his own who listens at the server's address and has nothing to say."""

    def __init__(self, folder: Path) -> None:
        import ssl
        import threading

        from tests.support.certificates import self_signed

        (folder / "stranger").mkdir()
        certificate, key = self_signed(folder / "stranger")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"https://127.0.0.1:{self._server.getsockname()[1]}"
        self.heard: list[bytes] = []
        self.certificates: list[bool] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def asked(self) -> list[bytes]:
        """The first line of each request."""
        return [data.split(b"\r\n")[0] for data in self.heard if data]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(20)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    while data := connection.recv(65_536):
                        self.heard.append(data)
                        self.certificates.append(connection.getpeercert(binary_form=True) is not None)
                        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                continue


@pytest.mark.usefixtures("author")
def test_a_device_without_any_clock_has_a_session(server: Server, tmp_path: Path, agents: list[Resident]) -> None:
    """Its clock shows less than a time that was signed to it: then it knows that it does not know."""
    paths = enrolled(server, tmp_path / "device", "gw-6")
    (Path(paths.trust) / "clock").write_text(json.dumps({"time": int(time.time()) + 10 * 365 * 86_400, "root": 1}))
    agents.append(Resident(tmp_path / "device"))
    eventually("a session", lambda: agents[0].logged("session up"))
    assert tls.is_behind(paths)
