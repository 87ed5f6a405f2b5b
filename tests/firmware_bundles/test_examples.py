"""The releases that everything else is tried with do what they promise, started by hand as the launcher starts them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import BUILD, ROOT, names, tarball
from tests.support.fleet import free_port, wait_for

DEADLINE_S = 30.0
EXAMPLES = [("sensor_gateway", "1.0.0"), ("sensor_gateway", "1.1.0"), ("edge_hub", "1.0.0"), ("edge_hub", "1.1.0")]
FOREIGN = [("foreign_relx", "0.3.0"), ("foreign_mix", "0.3.0"), ("foreign_systools", "0.3.0")]
LABS = [("lab_relx", "1.0.0"), ("lab_mix", "1.0.0")]
OURS_TO_DECIDE = re.compile(r"-(sname|name|setcookie|heart)\b")


def expanded(source: Path, environment: dict[str, str]) -> str:
    """What relx's start script makes of a *.src file: ${NAME} and ${NAME:-default}."""

    def value(found: re.Match[str]) -> str:
        return environment.get(found[1]) or found[2] or ""

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, source.read_text())


class Vm:
    """One VM of an unpacked release: erlexec itself, nothing inherited, embedded, under heart, no distribution."""

    def __init__(self, root: Path, data: Path) -> None:
        self.data, self.port = data, free_port()
        data.mkdir(exist_ok=True)
        self._releases = next(path.parent for path in sorted(root.glob("releases/*/start.boot")))
        erts = next(root.glob("erts-*"))
        self._environment = {
            "HOME": str(data),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "ROOTDIR": str(root),
            "BINDIR": str(erts / "bin"),
            "EMU": "beam",
            "PROGNAME": "erl",
            "HEART_COMMAND": "/bin/true",
            "HEART_BEAT_TIMEOUT": "11",
            "ERL_CRASH_DUMP": str(data / "erl_crash.dump"),
            "ERL_CRASH_DUMP_SECONDS": "10",
            "RELEASE_ROOT": str(root),
            "RELEASE_SYS_CONFIG": str(self._releases / "sys"),
            "BEAMFLEET_DATA": str(data),
            "SENSOR_GATEWAY_PORT": str(self.port),
            "EDGE_HUB_PORT": str(self.port),
            "FOREIGN_PORT": str(self.port),
            "FOREIGN_SITE": "test bench",
        }
        command = [str(erts / "bin/erlexec"), "-noinput", "-mode", "embedded", "-heart"]
        command += ["-boot", str(self._releases / "start"), "-boot_var", "RELEASE_LIB", str(root / "lib")]
        if config := self._prepared("sys.config"):
            command += ["-config", str(config)]
        if arguments := self._prepared("vm.args"):
            command += ["-args_file", str(arguments)]
        with (data / "vm.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=data, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _prepared(self, name: str) -> Path | None:
        source, plain = self._releases / f"{name}.src", self._releases / name
        if source.exists():
            text = expanded(source, self._environment)
        elif plain.exists():
            text = plain.read_text()
        else:
            return None
        ready = self.data / name
        ready.write_text("".join(line for line in text.splitlines(True) if not OURS_TO_DECIDE.match(line)))
        return ready

    def get(self, path: str = "/") -> tuple[int, dict[str, Any]]:
        """HTTP status and the JSON body; (0, {}) when nobody listens yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)
        except OSError:
            return 0, {}

    def answer(self) -> dict[str, Any]:
        """What it tells about itself, as soon as it does."""

        def look() -> dict[str, Any]:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log()}"
            return self.get()[1]

        return wait_for("the release's answer", look, deadline_s=DEADLINE_S)

    def counted(self, beyond: int) -> int:
        """The first count beyond this one."""
        more = wait_for("the count to move", lambda: max(int(self.answer()["count"]) - beyond, 0), deadline_s=10)
        return beyond + more

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return int(self.process.wait(DEADLINE_S))

    def intervals(self) -> list[tuple[str, int, int, str]]:
        """(event, boot clock in ms, pid, version) of every VM that worked in this data directory."""
        lines = (line.split() for line in (self.data / "intervals.log").read_text().splitlines())
        return [(event, int(clock), int(pid), version) for event, clock, pid, version in lines]

    def listening(self) -> list[str]:
        """ADDRESS:PORT of every TCP socket that this VM listens on."""
        shown = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        return [line.split()[3] for line in shown.splitlines() if f"pid={self.process.pid}," in line]

    def log(self) -> str:
        return (self.data / "vm.log").read_text(errors="replace")


Start = Callable[..., Vm]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    place = tmp_path_factory.mktemp("releases")

    def unpack(name: str, version: str) -> Path:
        root = place / f"{name}-{version}"
        if not root.exists():
            root.mkdir()
            subprocess.run(["tar", "-xzf", tarball(name, version), "-C", root], check=True)
        return root

    return unpack


@pytest.fixture
def start(unpacked: Callable[[str, str], Path], tmp_path: Path) -> Iterator[Start]:
    """Starts VMs that end with the test; all work in one data directory, like the releases of a device."""
    running: list[Vm] = []

    def begin(name: str, version: str) -> Vm:
        running.append(Vm(unpacked(name, version), tmp_path / "data"))
        return running[-1]

    yield begin
    for vm in running:
        vm.process.kill()
        vm.process.wait()


@pytest.mark.parametrize(("name", "version"), EXAMPLES + FOREIGN)
def test_a_release_answers_on_loopback_only_counts_on_after_a_restart_and_stops_cleanly(
    name: str, version: str, start: Start
) -> None:
    first = start(name, version)
    told = first.answer()
    assert (told["name"], told["version"], told["os_pid"]) == (name, version, first.process.pid)
    assert first.listening() == [f"127.0.0.1:{first.port}"]
    count = first.counted(beyond=told["count"])
    assert first.stop() == 0, first.log()
    second = start(name, version)
    restarted = second.answer()
    assert restarted["os_pid"] == second.process.pid
    assert restarted["count"] >= (count if (name, version) in EXAMPLES else 1)
    assert second.stop() == 0, second.log()


@pytest.mark.parametrize(("name", "version"), EXAMPLES)
def test_an_example_is_healthy_and_refuses_other_paths(name: str, version: str, start: Start) -> None:
    vm = start(name, version)
    assert vm.answer()["healthy"] is True
    assert vm.get("/health") == (200, {"healthy": True})
    assert vm.get("/elsewhere")[0] == 404


@pytest.mark.parametrize(("name", "new"), [("sensor_gateway", {"per_minute"}), ("edge_hub", {"load_percent"})])
def test_an_update_tells_something_new_and_keeps_the_count(name: str, new: set[str], start: Start) -> None:
    old = start(name, "1.0.0")
    old.counted(beyond=0)
    before = old.answer()
    assert old.stop() == 0
    updated = start(name, "1.1.0")
    after = updated.answer()
    assert after["count"] >= before["count"] > 0
    assert set(after) > set(before)
    assert set(after) - set(before) >= new
    assert updated.stop() == 0
    events = updated.intervals()
    assert [(event, version) for event, _, _, version in events] == [
        *(("start", "1.0.0"), ("stop", "1.0.0")),
        *(("start", "1.1.0"), ("stop", "1.1.0")),
    ]
    clocks = [clock for _, clock, _, _ in events]
    assert clocks == sorted(clocks)
    assert after["started_ms"] == pytest.approx(clocks[2], abs=50)
    assert [pid for _, _, pid, _ in events[::2]] == [old.process.pid, updated.process.pid]


def test_sensor_gateway_1_2_0_dies_at_start_and_says_why(start: Start) -> None:
    good = start("sensor_gateway", "1.1.0")
    good.answer()
    assert good.stop() == 0
    count = (good.data / "count").read_text()
    broken = start("sensor_gateway", "1.2.0")
    assert broken.process.wait(DEADLINE_S) == 1
    assert "calibration_missing" in broken.log()
    assert (broken.data / "count").read_text() == count
    assert [(event, version) for event, _, _, version in broken.intervals()[2:]] == [
        *(("start", "1.2.0"), ("stop", "1.2.0")),
    ]


@pytest.mark.parametrize("name", ["sensor_gateway", "edge_hub"])
def test_a_second_vm_on_the_same_data_is_refused_and_written_down(name: str, start: Start) -> None:
    first = start(name, "1.0.0")
    first.answer()
    second = start(name, "1.1.0")
    assert second.process.wait(DEADLINE_S) == 1
    assert "another_vm_is_running" in second.log()
    assert [event for event, _, _, _ in first.intervals()] == ["start", "overlap"]
    assert first.intervals()[1][2:] == (second.process.pid, "1.1.0")
    assert first.get("/health")[0] == 200
    assert [path.name.split(".")[1] for path in first.data.glob("lock.*")] == [str(first.process.pid)]


@pytest.mark.parametrize("name", ["sensor_gateway", "edge_hub"])
def test_the_lock_of_a_killed_vm_is_stale_and_its_count_is_kept(name: str, start: Start) -> None:
    killed = start(name, "1.0.0")
    saved = killed.data / "count"
    killed.answer()
    wait_for("a saved count", saved.exists, deadline_s=10)
    killed.process.kill()
    killed.process.wait()
    count = int(saved.read_text())
    assert count > 0
    after = start(name, "1.0.0")
    assert after.answer()["count"] >= count
    assert [path.name.split(".")[1] for path in after.data.glob("lock.*")] == [str(after.process.pid)]
    assert [event for event, _, _, _ in after.intervals()] == ["start", "start"]


def test_each_kind_of_tarball_has_what_the_readme_says(unpacked: Callable[[str, str], Path]) -> None:
    relx, mix = unpacked("sensor_gateway", "1.0.0"), unpacked("edge_hub", "1.0.0")
    foreign, systools = unpacked("foreign_relx", "0.3.0"), unpacked("foreign_systools", "0.3.0")
    for root, version in ((relx, "1.0.0"), (mix, "1.0.0"), (foreign, "0.3.0")):
        assert (root / "releases/start_erl.data").read_text().split()[1] == version
        assert (root / f"bin/{root.name.rpartition('-')[0]}").is_file()
    assert {"-sname", "-setcookie", "-heart"} <= set((relx / "releases/1.0.0/vm.args").read_text().split())
    assert {path.name for path in (foreign / "releases/0.3.0").glob("*.src")} == {"vm.args.src", "sys.config.src"}
    assert (relx / "lib/sensor_gateway-1.0.0/ebin/sensor_gateway_app.beam").read_bytes()[:2] == b"\x1f\x8b"
    assert {path.name for path in (mix / "releases").iterdir()} == {"1.0.0", "COOKIE", "start_erl.data"}
    assert (mix / "releases/1.0.0/runtime.exs").is_file()
    assert "RELEASE_NODE" in (unpacked("foreign_mix", "0.3.0") / "releases/0.3.0/env.sh").read_text()
    assert {path.name for path in (systools / "releases/0.3.0").iterdir()} == {"foreign_systools.rel", "start.boot"}
    assert not (systools / "bin").exists()


def test_the_builder_knows_every_release() -> None:
    releases = [*EXAMPLES, *FOREIGN, *LABS, ("sensor_gateway", "1.2.0")]
    assert names() == {f"{name}-{version}.tar.gz" for name, version in releases}


class Workshop:
    """A copy of the builder and the smallest project, with a home of its own."""

    def __init__(self, root: Path) -> None:
        self.home, self.root = root / "home", root / "repository"
        self.project = self.root / "tests/support/releases/foreign_systools"
        self.builder = self.root / BUILD.relative_to(ROOT)
        self.tarball = self.root / ".build/examples/foreign_systools-0.3.0.tar.gz"
        self.home.mkdir()
        self.builder.parent.mkdir(parents=True)
        shutil.copy(BUILD, self.builder)
        shutil.copytree(ROOT / self.project.relative_to(self.root), self.project)

    def build(self, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.home), "PATH": path}
        command = [str(self.builder), "foreign_systools"]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_only_what_changed_is_built_again(workshop: Workshop) -> None:
    first = workshop.build()
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("built foreign_systools-0.3.0.tar.gz")
    made = workshop.tarball.stat()
    again = workshop.build()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert workshop.tarball.stat() == made
    source = workshop.project / "src/foreign_systools.erl"
    source.write_text(source.read_text() + "\n%% changed\n")
    assert workshop.build().stdout.startswith("built")
    assert workshop.tarball.stat().st_ino != made.st_ino
    assert list(workshop.home.iterdir()) == []
    assert {path.name for path in workshop.project.iterdir()} == {"src", "release.escript"}


def test_a_failed_build_keeps_the_old_tarball_and_shows_the_compiler(workshop: Workshop) -> None:
    workshop.build()
    before = workshop.tarball.read_bytes()
    (workshop.project / "src/foreign_systools.erl").write_text("-module(foreign_systools).\nnot erlang\n")
    failed = workshop.build()
    assert failed.returncode == 1
    assert "(examples.build_failed)" in failed.stderr
    assert "foreign_systools.erl:2" in failed.stderr
    assert workshop.tarball.read_bytes() == before


def test_a_missing_tool_is_named_with_its_package(workshop: Workshop, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    refused = workshop.build(path=str(tools))
    assert refused.returncode == 1
    assert refused.stderr == "error: erl is missing (examples.tool_missing)\nhint: apt-get install erlang-base\n"
    assert not workshop.tarball.exists()


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    refused = subprocess.run([BUILD, "sensor_gateway-9.9.9"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "sensor_gateway-1.0.0" in refused.stderr
