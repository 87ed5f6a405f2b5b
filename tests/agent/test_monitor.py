"""Watching a release: the link's socket and the probes are real servers here, in any mood."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beamfleet_agent import monitor as module
from beamfleet_agent.boot import Boot
from beamfleet_agent.health import Sample
from beamfleet_agent.loop import Loop
from beamfleet_agent.monitor import Monitor
from beamfleet_agent.paths import Paths
from beamfleet_agent.update_state import Release

Spin = Callable[[str, Callable[[], object]], None]
RELEASE = Release("a" * 64, "gateway", "1.0.0", ("kernel", "gateway"))


class Link:
    """What beamfleet_link does: a line to each who connects. `applications` None: it does not answer."""

    def __init__(self, path: str) -> None:
        self.boot, self.applications = 1, ["kernel", "gateway"]
        self.silent = False
        self._server = socket.socket(socket.AF_UNIX)
        folder, name = os.path.split(path)
        descriptor = os.open(folder, os.O_PATH)
        self._server.bind(f"/proc/self/fd/{descriptor}/{name}")
        os.close(descriptor)
        self._server.listen()
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._held:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            if self.silent:
                self._held.append(connection)
                continue
            applications = [{"name": name, "version": "1"} for name in self.applications]
            line = {
                "v": 1, "boot": self.boot, "uptime_ms": 5, "applications": applications, "memory": {"total": 1},
                "processes": 1, "ports": 1, "run_queue": 0,
            }  # fmt: skip
            with connection:
                connection.sendall(json.dumps(line).encode() + b"\n")


class Web:
    """Answers each request with `answer`."""

    def __init__(self) -> None:
        self.answer, self.requests = b"HTTP/1.1 200 OK\r\n\r\nfine", list[bytes]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(4096))
                connection.sendall(self.answer)


class Watcher:
    """A monitor, and what it told."""

    def __init__(self, loop: Loop, paths: Paths) -> None:
        self.samples: list[Sample | None] = []
        self.seen: list[tuple[str, str]] = []
        self.requests: list[str] = []
        self.proven = 0
        self.monitor = Monitor(
            loop, paths, Boot(paths.app_dir, paths.run_app), 0.2, 0.3,
            self.requests.append, lambda sample, _host: self.samples.append(sample),
            lambda *seen: self.seen.append(seen), self._proved,
        )  # fmt: skip

    def _proved(self) -> None:
        self.proven += 1


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(module, "TRIAL_TICK_S", 0.02)
    monkeypatch.setattr(module, "HTTP_EVERY_S", 0.05)
    monkeypatch.setattr(module, "COMMAND_EVERY_S", 0.05)
    made = Paths(str(tmp_path / ("deep" * 25)))
    for folder in (Path(made.link_sock).parent, Path(made.boot), Path(made.slots)):
        folder.mkdir(parents=True)
    starts(made, 1)
    return made


@pytest.fixture
def link(paths: Paths) -> Iterator[Link]:
    made = Link(paths.link_sock)
    yield made
    made.close()


@pytest.fixture
def watcher(loop: Loop, paths: Paths) -> Iterator[Watcher]:
    made = Watcher(loop, paths)
    yield made
    made.monitor.stop()


def starts(paths: Paths, number: int, *, started: bool = True) -> None:
    """What the launcher writes for VM start `number`."""
    Path(paths.boot, "state").write_text(f"format=1\nphase=trial\nstarts={number}\n")
    place = Path(paths.link_sock).parent
    for mark in place.glob("started.*"):
        mark.unlink()
    if started:
        (place / f"started.{number}").touch()


@pytest.mark.usefixtures("link")
def test_a_sample_is_taken_in_each_interval_however_deep_the_socket_lies(watcher: Watcher, spin: Spin) -> None:
    watcher.monitor.start()
    spin("three samples", lambda: len(watcher.samples) == 3)
    assert {sample.applications for sample in watcher.samples if sample} == {("kernel", "gateway")}


def test_a_release_that_does_not_listen_gives_an_empty_sample(watcher: Watcher, spin: Spin) -> None:
    watcher.monitor.start()
    spin("a sample", lambda: watcher.samples)
    assert watcher.samples[0] is None


def test_a_link_that_says_nothing_is_given_up(
    watcher: Watcher, link: Link, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINK_TIMEOUT_S", 0.1)
    link.silent = True
    watcher.monitor.start()
    spin("a sample", lambda: watcher.samples)
    assert watcher.samples[0] is None


@pytest.mark.usefixtures("link")
def test_a_release_that_is_well_for_the_period_is_proven_once(watcher: Watcher, spin: Spin) -> None:
    watcher.monitor.watch("a" * 32, 1, RELEASE)
    spin("proof", lambda: watcher.proven)
    assert watcher.seen == [("", "")]


def test_what_is_wrong_is_told_once_and_what_gets_well_is_proven(watcher: Watcher, link: Link, spin: Spin) -> None:
    link.applications = ["kernel"]
    watcher.monitor.watch("a" * 32, 1, RELEASE)
    spin("what is wrong", lambda: watcher.seen)
    link.applications = ["kernel", "gateway"]
    spin("proof", lambda: watcher.proven)
    assert watcher.seen == [("health", "not running: gateway"), ("", "")]


def test_the_release_before_that_still_answers_proves_nothing(
    watcher: Watcher, link: Link, paths: Paths, spin: Spin
) -> None:
    starts(paths, 1, started=False)
    watcher.monitor.watch("a" * 32, 1, RELEASE)
    spin("what is wrong", lambda: watcher.seen)
    assert watcher.seen == [("health", "the release does not answer")]
    link.boot = 2
    starts(paths, 2)
    spin("proof", lambda: watcher.proven)


@pytest.mark.usefixtures("link")
def test_nothing_is_told_after_the_watch_has_ended(watcher: Watcher, loop: Loop, spin: Spin) -> None:
    watcher.monitor.watch("a" * 32, 1, RELEASE)
    watcher.monitor.unwatch()
    later: list[int] = []
    loop.after("later", 0.5, lambda: later.append(1))
    spin("a while", lambda: later)
    assert (watcher.seen, watcher.proven) == ([], 0)


class TestTheHttpProbe:
    @pytest.fixture
    def web(self) -> Iterator[Web]:
        made = Web()
        yield made
        made.close()

    @pytest.mark.usefixtures("link")
    def test_it_asks_for_the_path_and_any_2xx_is_good(self, watcher: Watcher, web: Web, spin: Spin) -> None:
        web.answer = b"HTTP/1.0 204 No Content\r\n\r\n"
        watcher.monitor.watch("a" * 32, 1, RELEASE._replace(probe_http=f"{web.port}/health?deep=1"))
        spin("proof", lambda: watcher.proven)
        assert web.requests[0].startswith(b"GET /health?deep=1 HTTP/1.0\r\nHost: 127.0.0.1:")

    @pytest.mark.usefixtures("link")
    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (b"HTTP/1.1 503 Busy\r\n\r\n", "503"),
            (b"HTTP/1.1 301 Moved\r\n\r\n", "301"),
            (b"SSH-2.0-x\r\n", "no HTTP"),
            (b"", "no HTTP"),
            (b"HTTP/1.1\r\n", "no HTTP"),
            (b"x" * 70_000, "too long"),
        ],
    )
    def test_any_other_answer_is_named(self, watcher: Watcher, web: Web, spin: Spin, answer: bytes, told: str) -> None:
        web.answer = answer
        watcher.monitor.watch("a" * 32, 1, RELEASE._replace(probe_http=f"{web.port}/"))
        spin("a verdict", lambda: any(told in detail for _, detail in watcher.seen))
        assert watcher.proven == 0

    @pytest.mark.usefixtures("link")
    def test_nobody_listening_is_named(self, watcher: Watcher, spin: Spin) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
            watcher.monitor.watch("a" * 32, 1, RELEASE._replace(probe_http=f"{port}/"))
            spin("a verdict", lambda: ("probe", f"GET :{port}/: Connection refused") in watcher.seen)


@pytest.mark.usefixtures("link")
def test_the_command_probe_is_asked_for_until_it_succeeds(watcher: Watcher, paths: Paths, spin: Spin) -> None:
    answer = Path(paths.boot, "probe")
    answer.write_text(f"{'a' * 32} 1 0\n")  # of an earlier trial: no answer to what we ask
    watcher.monitor.watch("a" * 32, 1, RELEASE._replace(probe_command=True, probe_timeout_s=-1))
    spin("a request", lambda: watcher.requests)
    assert watcher.requests[0] == f"probe {'a' * 32} 1"
    assert watcher.seen[-1] == ("probe", "the probes have not ended yet")
    replace(answer, f"{'a' * 32} 1 7\n")
    spin("its failure", lambda: watcher.seen[-1] == ("probe", "the probe command ended with 7"))
    asked = len(watcher.requests)
    spin("another request", lambda: len(watcher.requests) > asked)
    replace(answer, f"{'b' * 32} 1 0\n")
    replace(answer, f"{'a' * 32} 1 0\n")
    spin("proof", lambda: watcher.proven)


def replace(path: Path, content: str) -> None:
    """As the launcher does it."""
    new = path.with_name("probe.new")
    new.write_text(content)
    new.rename(path)
