"""The resident agent as a process: alone on its root, small, answering on its socket, safe to end at any time."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import resident
from beamfleet_agent.agent import Agent
from beamfleet_agent.errors import AgentError
from beamfleet_agent.journal import Journal
from beamfleet_agent.paths import Paths
from beamfleet_agent.slots import present
from beamfleet_bundles.build.builder import build
from beamfleet_bundles.bundle import Bundle

from tests.agent.device import lay_down, words
from tests.support import skeleton
from tests.support.repository import Repository
from tests.support.server import eventually

PRODUCT = "gateway"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A signed bundle of a tiny release, and the root that vouches for it."""
    folder = tmp_path_factory.mktemp("bundle")
    repository = Repository(now=datetime.now(UTC), releases=())
    repository.create(PRODUCT)
    source = skeleton.write(folder, skeleton.release("relx", "gateway", "1.0.0"))
    built = build(source, out_dir=folder, product=PRODUCT, version="1.0.0")
    repository.release(built.manifest)
    repository.publish()
    Bundle.open(built.path).with_metadata(built.path, repository.bundle_metadata(PRODUCT))
    return built.path, repository.root


@pytest.fixture
def paths(tmp_path_factory: pytest.TempPathFactory, bundle: tuple[Path, bytes]) -> Paths:
    root_json = base64.b64encode(bundle[1]).decode()
    short = tmp_path_factory.mktemp("d")  # the path of a socket has 107 bytes
    return lay_down(short / "device", words("gw-1", root_json_base64=root_json))


class Process:
    """An agent in a process of its own."""

    def __init__(self, root: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "beamfleet_agent", "run", "--root", root], stderr=subprocess.PIPE, text=True
        )
        eventually("its socket", lambda: Path(Paths(root).agent_sock).exists())

    def end(self) -> str:
        """What it logged."""
        self.process.terminate()
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def running(paths: Paths) -> Iterator[Process]:
    made = Process(paths.root)
    yield made
    if made.process.poll() is None:
        made.end()


def agent(paths: Paths, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def state_of(paths: Paths) -> str:
    remembered = Journal(paths.journal).read()
    return remembered[0].update.phase if remembered else ""


def test_a_second_agent_is_refused_with_the_pid_of_the_first(paths: Paths, running: Process) -> None:
    second = agent(paths, "run")
    assert second.returncode == 1
    assert f"agent {running.process.pid} serves {paths.root} already (agent.already_running)" in second.stderr
    assert running.process.poll() is None


def test_a_killed_agent_leaves_nothing_that_keeps_the_next_one_out(paths: Paths) -> None:
    first = Process(paths.root)
    first.process.kill()
    first.process.communicate()
    Path(paths.agent_sock).unlink()
    second = Process(paths.root)
    assert json.loads(agent(paths, "status", "-o", "json").stdout)["agent"]["pid"] == second.process.pid
    second.end()


def test_it_says_good_bye_on_term_and_takes_its_files_along(paths: Paths, running: Process) -> None:
    assert Path(paths.agent_pid).read_text() == f"{running.process.pid}\n"
    log = [json.loads(line) for line in running.end().splitlines()]
    assert [log[0]["event"], log[-1]["event"]] == ["agent started", "agent stopped"]
    assert {"device", "event", "level", "timestamp"} <= set(log[0])
    assert running.process.returncode == 0
    assert not Path(paths.agent_pid).exists()
    assert not Path(paths.agent_sock).exists()


def test_without_a_device_it_says_how_to_lay_one_down(tmp_path: Path) -> None:
    refused = agent(Paths(str(tmp_path)), "run")
    assert refused.returncode == 1
    assert "agent.settings_missing" in refused.stderr
    assert "beamfleet flash" in refused.stderr


def test_every_start_counts_as_a_boot(paths: Paths) -> None:
    for boot in (1, 2, 3):
        process = Process(paths.root)
        assert json.loads(agent(paths, "status", "-o", "json").stdout)["agent"]["boot"] == boot
        process.end()


def test_the_resident_process_imports_nothing_heavy(paths: Paths) -> None:
    """Of the real process: what it has mapped and what it has loaded, with its session's modules."""
    listing = (
        "import sys; sys.argv = ['x', 'run', '--root', sys.argv[1]]\n"
        "from beamfleet_agent import resident, loop\n"
        "loop.Loop.run = lambda self: None\n"
        "from beamfleet_agent.cli import main; main()\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", listing, paths.root], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"paho.mqtt.client", "ssl", "beamfleet_agent.session"} <= loaded
    heavy = {
        "argparse", "asyncio", "backports", "concurrent", "cryptography", "ctypes", "dataclasses", "email", "http",
        "inspect", "msgspec", "pathlib", "requests", "securesystemslib", "shutil", "structlog", "subprocess",
        "tempfile", "tuf", "urllib3",
    }  # fmt: skip
    assert {name for name in loaded if name.split(".")[0] in heavy} == set()
    ours = {name for name in loaded if name.startswith("beamfleet_bundles.")}
    light = ("build_time", "durable", "errors", "filesystem", "names", "topics")
    assert ours == {f"beamfleet_bundles.{name}" for name in light}


class TestTheCommandLine:
    def test_status_works_with_and_without_an_agent(self, paths: Paths) -> None:
        without = json.loads(agent(paths, "status", "-o", "json").stdout)
        assert (without["agent"], without["slot"], without["device"]) == (None, "", "gw-1")
        assert "not running" in agent(paths, "status").stdout
        process = Process(paths.root)
        with_agent = json.loads(agent(paths, "status", "-o", "json").stdout)
        assert set(with_agent) == set(without)
        process.end()

    def test_a_file_is_staged_by_the_running_agent_up_to_the_swap(
        self, paths: Paths, running: Process, bundle: tuple[Path, bytes]
    ) -> None:
        asked = subprocess.Popen(
            [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, "install", str(bundle[0])],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        request = eventually("the request", lambda: sorted(Path(paths.requests).glob("[0-9]*")))[0]
        (slot,) = present(paths.slots)
        assert request.read_text() == f"swap {slot} 1\n"
        assert state_of(paths) == "swapping"
        refused = agent(paths, "install", str(bundle[0]), "-o", "json")
        assert json.loads(refused.stdout)["error"]["code"] == "update.busy"
        running.process.kill()
        running.process.communicate()
        _, said = asked.communicate(timeout=30)
        assert (asked.returncode, "agent.gone" in said) == (1, True)

    @pytest.mark.usefixtures("running")
    def test_a_file_that_is_no_good_fails_by_name_and_leaves_nothing(self, paths: Paths, tmp_path: Path) -> None:
        (tmp_path / "text.bundle").write_text("hello")
        failed = agent(paths, "install", str(tmp_path / "text.bundle"))
        assert failed.returncode == 1
        assert "bundle.not_a_bundle" in failed.stderr
        assert "hint:" in failed.stderr
        assert agent(paths, "install", str(tmp_path / "none")).returncode == 1
        assert os.listdir(paths.slots) == os.listdir(paths.staging) == []  # noqa: PTH208

    @pytest.mark.parametrize(("verb", "code"), [("rollback", "update.no_previous"), ("commit", "update.no_trial")])
    @pytest.mark.parametrize("with_agent", [True, False])
    def test_what_makes_no_sense_now_is_refused_by_name(
        self, paths: Paths, verb: str, code: str, with_agent: bool
    ) -> None:
        process = Process(paths.root) if with_agent else None
        refused = agent(paths, verb, "-o", "json")
        assert refused.returncode == 1
        assert json.loads(refused.stdout)["error"]["code"] == code
        if process is not None:
            process.end()

    @pytest.mark.usefixtures("running")
    def test_stop_files_a_request(self, paths: Paths) -> None:
        asked = subprocess.Popen([sys.executable, "-m", "beamfleet_agent", "--root", paths.root, "stop"])
        request = eventually("the request", lambda: sorted(Path(paths.requests).glob("[0-9]*")))[0]
        assert request.read_text() == "stop\n"
        asked.kill()
        asked.wait()

    def test_enrolling_without_a_server_is_refused_by_name(self, paths: Paths) -> None:
        assert "enrol.no_server" in agent(paths, "enrol").stderr

    @pytest.mark.usefixtures("running")
    def test_diagnose_tells_everything_but_secrets(self, paths: Paths) -> None:
        Path(paths.token).write_text("a-secret-token")
        found = agent(paths, "diagnose", "-o", "json")
        facts = json.loads(found.stdout)
        assert {"status", "inventory", "settings", "slots", "launcher", "vm_log", "certificate"} <= set(facts)
        assert facts["token"] is True
        assert "a-secret-token" not in found.stdout
        assert "== inventory" in agent(paths, "diagnose").stdout

    @pytest.mark.parametrize("arguments", [(), ("nonsense",), ("install",), ("status", "-o", "yaml")])
    def test_wrong_usage_exits_with_2(self, paths: Paths, arguments: tuple[str, ...]) -> None:
        assert agent(paths, *arguments).returncode == 2

    @pytest.mark.parametrize(
        "command", ["run", "enrol", "status", "install", "commit", "rollback", "diagnose", "setup"]
    )
    def test_every_command_has_help_with_an_example(self, paths: Paths, command: str) -> None:
        helped = agent(paths, command, "--help")
        assert (helped.returncode, "example" in helped.stdout) == (0, True)


def ask(paths: Paths, question: bytes) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(paths.agent_sock)
        try:
            connection.sendall(question)
            connection.shutdown(socket.SHUT_WR)
            return [json.loads(line) for line in connection.makefile()]
        except (BrokenPipeError, ConnectionResetError):  # it hung up
            return []


def test_questions_that_make_no_sense_are_answered_and_harm_nobody(paths: Paths, running: Process) -> None:
    for question in (b"nonsense\n", b"[]\n", b'{"do": 7}\n', b'{"do": "dance"}\n', b"[" * 4000 + b"\n"):
        (answer,) = ask(paths, question)
        assert answer["error"]["code"] == "agent.question", question[:40]
    assert ask(paths, b"x" * 100_000) == []
    assert ask(paths, b"") == []
    assert ask(paths, b'{"do": "status"}\n')[0]["result"]["device"] == "gw-1"


def test_only_its_own_user_may_ask(paths: Paths, running: Process) -> None:
    assert Path(paths.agent_sock).stat().st_mode & 0o777 == 0o600


def test_without_a_launcher_an_installation_stops_before_the_swap_and_says_so(
    paths: Paths, bundle: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "NO_LAUNCHER_S", 0.5)
    phases: list[str] = []
    with pytest.raises(AgentError, match=r"staged, but no launcher.*update\.no_launcher"):
        resident.attend(
            paths.root,
            lambda agent: agent.install(str(bundle[0])),
            lambda status: phases.append(status["update"]["phase"]),
        )
    assert list(dict.fromkeys(phases)) == ["downloading", "verified", "staged", "swapping"]
    assert state_of(paths) == "swapping"
    assert len(present(paths.slots)) == 1
    assert signal.getsignal(signal.SIGTERM) is not None


def test_an_agent_that_was_killed_in_a_swap_asks_again(paths: Paths, bundle: tuple[Path, bytes]) -> None:
    process = Process(paths.root)
    asked = subprocess.Popen(
        [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, "install", str(bundle[0])],
        stderr=subprocess.DEVNULL,
    )
    request = eventually("the request", lambda: sorted(Path(paths.requests).glob("[0-9]*")))[0]
    process.process.kill()
    process.process.communicate()
    asked.wait(30)
    line = request.read_text()
    request.unlink()
    again = Process(paths.root)
    request = eventually("the request again", lambda: sorted(Path(paths.requests).glob("[0-9]*")))[0]
    assert request.read_text() == line
    again.end()


def test_asking_for_nothing_ends_at_once(paths: Paths) -> None:
    def nothing(_agent: Agent) -> None:
        """Asks for nothing."""

    assert resident.attend(paths.root, nothing, lambda _status: None)["device"] == "gw-1"


class TestASeed:
    def test_is_installed_where_there_is_no_release_and_lies_there_until_that_has_ended(
        self, paths: Paths, bundle: tuple[Path, bytes]
    ) -> None:
        seed = Path(paths.seed)
        seed.write_bytes(bundle[0].read_bytes())
        for _ in range(2):  # the second one goes on with it
            process = Process(paths.root)
            eventually("the request", lambda: state_of(paths) == "swapping")
            assert "swap" in "".join(file.read_text() for file in Path(paths.requests).iterdir())
            process.end()
            assert seed.exists()

    def test_that_cannot_be_installed_is_tried_once(self, paths: Paths) -> None:
        seed = Path(paths.seed)
        seed.write_bytes(b"no bundle")
        process = Process(paths.root)
        eventually("its end", lambda: not seed.exists())
        assert "bundle." in process.end()
        assert state_of(paths) == "failed"

    def test_of_a_device_that_has_a_release_goes_away(self, paths: Paths) -> None:
        seed = Path(paths.seed)
        seed.write_bytes(b"no bundle")
        Path(paths.boot, "state").write_text(f"format=1\nslot={'a' * 32}\nphase=committed\n")
        process = Process(paths.root)
        eventually("its end", lambda: not seed.exists())
        assert '"seed"' not in process.end()
