"""Watching a release: the link's socket and the probes are real servers here, in any mood."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beamfleet_agent import monitor as module
from beamfleet_agent import prober, questions
from beamfleet_agent.boot import Boot
from beamfleet_agent.health import Sample
from beamfleet_agent.loop import Loop
from beamfleet_agent.monitor import Monitor
from beamfleet_agent.paths import Paths
from beamfleet_agent.probes import Probe
from beamfleet_agent.update_state import Release

Spin = Callable[[str, Callable[[], object]], None]
RELEASE = Release("a" * 64, "gateway", "1.0.0", ("kernel", "gateway"))
OFTEN_S = 0.1
"""Manifests have whole seconds."""


class Link:
    """What beamfleet_link does: a line to each who connects, with `more` in it; or nothing, while it is `silent`."""

    def __init__(self, path: str) -> None:
        self.boot, self.applications, self.more = 1, ["kernel", "gateway"], dict[str, object]()
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
            applications = [[name, "1"] for name in self.applications]
            line = {"v": 2, "boot": self.boot, "applications": applications, **self.more}
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
        self.restarts: list[str] = []
        self.outcomes: list[dict[str, tuple[str, str]]] = []
        self.proven = 0
        self.boot = Boot(paths.app_dir, paths.run_app)
        self.monitor = Monitor(
            loop, paths, self.boot, 0.2, 0.3, self.restarts.append, self.samples.append,
            lambda *seen: self.seen.append(seen), self._proved, self._probed,
        )  # fmt: skip
        loop.on_signal(signal.SIGIO, self.monitor.look)
        self._changes = self.boot.watch()

    def _proved(self) -> None:
        self.proven += 1

    def _probed(self) -> None:
        self.outcomes.append(self.monitor.probes)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(module, "TRIAL_TICK_S", 0.02)
    monkeypatch.setattr(module, "HTTP_EVERY_S", 0.05)
    monkeypatch.setattr(module, "COMMAND_EVERY_S", 0.05)
    made = Paths(str(tmp_path / ("deep" * 25)))
    for folder in (Path(made.link_sock).parent, Path(made.boot), Path(made.slots), Path(made.run_app, "asks")):
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


def starts(paths: Paths, number: int, *, started: bool = True, phase: str = "trial") -> None:
    """What the launcher writes for VM start `number` of the slot that is watched here."""
    words = {"format": 1, "slot": "a" * 32, "phase": phase, "attempt": 1, "starts": number}
    Path(paths.boot, "state").write_text("".join(f"{key}={value}\n" for key, value in words.items()))
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
    monkeypatch.setattr(questions, "LINK_TIMEOUT_S", 0.1)
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
@pytest.mark.parametrize("phase", ["reverted", "fallback", "committed"])
def test_a_trial_that_is_over_is_not_judged_by_who_runs_now(
    watcher: Watcher, paths: Paths, loop: Loop, spin: Spin, phase: str
) -> None:
    starts(paths, 1, phase=phase)
    watcher.monitor.watch("a" * 32, 1, RELEASE)
    later: list[int] = []
    loop.after("later", 0.6, lambda: later.append(1))
    spin("a while", lambda: later)
    assert (watcher.seen, watcher.proven) == ([], 0)


def test_who_has_not_looked_for_long_says_so_until_he_looks_again(
    watcher: Watcher, loop: Loop, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    lapsed = [watcher.monitor.lapsed]  # nothing is watched
    watcher.monitor.watch("a" * 32, 1, RELEASE)
    spin("what is wrong", lambda: watcher.seen)
    lapsed.append(watcher.monitor.lapsed)
    now = loop.now
    monkeypatch.setattr(loop, "now", lambda: now() + module.STALE_S)
    lapsed.append(watcher.monitor.lapsed)
    watcher.monitor.unwatch()
    assert [*lapsed, watcher.monitor.lapsed] == [False, False, True, False]


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
def test_the_command_of_the_gate_is_asked_for_until_it_succeeds(watcher: Watcher, paths: Paths, spin: Spin) -> None:
    answer, ask = Path(paths.run_app, "probe"), Path(paths.run_app, "asks/probe")
    answer.write_text(f"{'a' * 32} 1 0\n")  # of an earlier trial: no answer to what we ask
    watcher.monitor.watch("a" * 32, 1, RELEASE._replace(probe_command=True, probe_timeout_s=-1))
    spin("a question", ask.exists)
    assert ask.read_text() == f"{'a' * 32} 1 \n"
    assert watcher.seen[-1] == ("probe", "the probes have not ended yet")
    ask.unlink()
    replace(answer, f"{'a' * 32} 1 7\n")
    spin("its failure", lambda: watcher.seen[-1] == ("probe", "the probe command ended with 7"))
    spin("another question", ask.exists)
    replace(answer, f"{'b' * 32} 1 0\n")
    replace(answer, f"{'a' * 32} 1 0\n")
    spin("proof", lambda: watcher.proven)


def replace(path: Path, content: str) -> None:
    """As the launcher does it."""
    new = path.with_name("probe.new")
    new.write_text(content)
    new.rename(path)


class TestProbesThatHaveAKind:
    @pytest.fixture
    def web(self) -> Iterator[Web]:
        made = Web()
        yield made
        made.close()

    def runs(self, watcher: Watcher, *probes: Probe, confirm: bool = False) -> Release:
        release = RELEASE._replace(probes=probes, confirm=confirm)
        watcher.monitor.follow(watcher.boot.state(), release)
        return release

    @pytest.mark.usefixtures("link")
    def test_in_a_trial_each_has_to_succeed_and_a_failure_restarts_nothing(
        self, watcher: Watcher, web: Web, spin: Spin
    ) -> None:
        web.answer = b"HTTP/1.1 503 Busy\r\n\r\n"
        probe = Probe("liveness", "http", f"{web.port}/live", period_s=OFTEN_S, failure_threshold=1)
        watcher.monitor.watch("a" * 32, 1, RELEASE._replace(probes=(probe,)))
        spin("a failure", lambda: ("probe", f"liveness: GET :{web.port}/live: 503") in watcher.seen)
        assert watcher.monitor.unwell == f"liveness: GET :{web.port}/live: 503"
        web.answer = b"HTTP/1.1 302 Found\r\n\r\n"
        spin("proof", lambda: watcher.proven)
        assert watcher.monitor.probes == {"liveness": ("ok", "")}
        assert watcher.restarts == []

    def test_a_trial_waits_until_the_release_has_confirmed_itself(
        self, watcher: Watcher, link: Link, spin: Spin
    ) -> None:
        watcher.monitor.watch("a" * 32, 1, RELEASE._replace(confirm=True))
        spin("what is missing", lambda: ("probe", "the release has not confirmed itself yet") in watcher.seen)
        link.more = {"confirm": True}
        spin("proof", lambda: watcher.proven)

    def test_after_the_trial_a_failed_liveness_probe_asks_for_a_restart_of_this_start(
        self, watcher: Watcher, paths: Paths, web: Web, spin: Spin
    ) -> None:
        starts(paths, 7, phase="committed")
        web.answer = b"HTTP/1.1 500 Oh\r\n\r\n"
        release = self.runs(
            watcher, Probe("liveness", "http", f"{web.port}/a'b", period_s=OFTEN_S, failure_threshold=2)
        )
        spin("a request", lambda: watcher.restarts)
        assert watcher.restarts == [f"restart {'a' * 32} 7 liveness: GET :{web.port}/a_b: 500"]
        assert watcher.monitor.probes == {"liveness": ("failed", f"GET :{web.port}/a'b: 500")}
        starts(paths, 8, phase="committed")
        watcher.monitor.follow(watcher.boot.state(), release)
        assert watcher.outcomes[-1] == {"liveness": ("waiting", "")}, "a new start has a life of its own"
        assert watcher.monitor.unwell == ""

    def test_readiness_restarts_nothing_and_comes_and_goes(self, watcher: Watcher, paths: Paths, spin: Spin) -> None:
        starts(paths, 7, phase="committed")
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
            self.runs(watcher, Probe("readiness", "tcp", str(port), period_s=OFTEN_S, failure_threshold=1))
            refused = {"readiness": ("failed", f"port {port}: Connection refused")}
            spin("a failure", lambda: watcher.monitor.probes == refused)
            server.listen()
            spin("success", lambda: watcher.monitor.probes == {"readiness": ("ok", "")})
        spin("a failure again", lambda: watcher.monitor.probes == refused)
        assert (watcher.restarts, watcher.monitor.unwell) == ([], "")
        assert watcher.outcomes == [{"readiness": ("waiting", "")}, refused, {"readiness": ("ok", "")}, refused]

    def test_a_function_is_asked_through_the_link_and_no_news_changes_nothing(
        self, watcher: Watcher, paths: Paths, link: Link, spin: Spin
    ) -> None:
        starts(paths, 1, phase="committed")
        link.more = {"probes": {"startup": ["ok", ""]}}
        self.runs(watcher, Probe("startup", "erlang", period_s=OFTEN_S), Probe("liveness", "erlang", period_s=OFTEN_S))
        spin("startup", lambda: watcher.monitor.probes["startup"] == ("ok", ""))
        assert watcher.monitor.probes["liveness"] == ("waiting", "")
        link.more = {"probes": {"liveness": ["failed", "{badmatch,#{password => hunter2}}"]}}
        said = "{badmatch,#{password => [redacted]}}"
        spin("an answer", lambda: watcher.monitor.probes["liveness"] == ("waiting", said))
        link.more = {"probes": {"liveness": ["ok", ""]}}
        spin("liveness", lambda: watcher.monitor.probes["liveness"] == ("ok", ""))

    def test_a_command_is_asked_of_the_launcher_by_its_kind_and_its_answer_noticed_when_it_comes(
        self, watcher: Watcher, paths: Paths, spin: Spin
    ) -> None:
        starts(paths, 7, phase="committed")
        ask = Path(paths.run_app, "asks/probe.readiness")
        self.runs(watcher, Probe("readiness", "command", period_s=3600, failure_threshold=1))
        spin("a question", ask.exists)
        assert ask.read_text() == f"{'a' * 32} 1 readiness\n"
        replace(Path(paths.run_app, "probe.readiness"), f"{'a' * 32} 1 3\n")
        spin("the answer", lambda: watcher.monitor.probes == {"readiness": ("failed", "the command ended with 3")})

    def test_nobody_is_asked_before_the_vm_has_started(
        self, watcher: Watcher, paths: Paths, web: Web, spin: Spin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prober, "BOOT_LOOK_S", 0.02)
        starts(paths, 7, started=False, phase="committed")
        self.runs(watcher, Probe("liveness", "http", f"{web.port}/", period_s=OFTEN_S, failure_threshold=1))
        looks = iter(range(20))
        spin("a few turns", lambda: next(looks, None) is None)
        assert (web.requests, watcher.monitor.probes) == ([], {"liveness": ("waiting", "")})
        starts(paths, 7, phase="committed")
        spin("an answer", lambda: watcher.monitor.probes == {"liveness": ("ok", "")})

    def test_a_vm_that_does_not_start_is_asked_all_the_same_in_the_end(
        self, watcher: Watcher, paths: Paths, spin: Spin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prober, "BOOT_LOOK_S", 0.02)
        monkeypatch.setattr(prober, "STARTING_S", 0.1)
        starts(paths, 7, started=False, phase="committed")
        self.runs(watcher, Probe("liveness", "tcp", "1", period_s=OFTEN_S, failure_threshold=1))
        spin("a request", lambda: watcher.restarts)

    def test_nobody_is_asked_while_the_release_is_stopped_or_another_one_runs(
        self, watcher: Watcher, paths: Paths, loop: Loop
    ) -> None:
        starts(paths, 7, phase="committed")
        release = self.runs(watcher, Probe("liveness", "tcp", "1"))
        assert loop.pending("prober")
        watcher.monitor.follow(watcher.boot.state(), None)
        assert (loop.pending("prober"), watcher.monitor.probes) == (False, {})
        watcher.monitor.follow(watcher.boot.state(), release._replace(manifest="b" * 64))
        assert not loop.pending("prober")
        Path(paths.boot, "state").write_text(f"format=1\nslot={'a' * 32}\nphase=committed\nstopped=yes\nstarts=7\n")
        watcher.monitor.follow(watcher.boot.state(), release)
        assert not loop.pending("prober")
