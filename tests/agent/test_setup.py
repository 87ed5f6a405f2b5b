"""Laying a device down: complete, safe to repeat, refusing by name; and the script that stands for its init."""

import base64
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import setup as module
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.settings import Server, load
from beamfleet_agent.setup import check, set_up
from beamfleet_bundles.filesystem import Mount, mount_of

from tests.agent.device import lay_down, words
from tests.support.server import alive, eventually

SERVER = {"api": "https://fleet:8444", "enrol": "https://fleet:8445", "mqtt": "fleet:8883"}


def test_everything_a_device_needs_is_there(tmp_path: Path) -> None:
    told = set_up(str(tmp_path), words("gw-1", server=SERVER, token="secret", env={"PORT": "80"}, trial_s=20))
    paths = Paths(str(tmp_path))
    assert told["fresh"]
    assert told["run"] == f"{tmp_path}/run"
    settled = load(paths.settings)
    assert (settled.device, settled.trial_s, settled.server) == (
        "gw-1", 20, Server("https://fleet:8444", "https://fleet:8445", "fleet", 8883),
    )  # fmt: skip
    assert Path(paths.token).read_text() == "secret\n"
    assert stat.S_IMODE(Path(paths.token).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(paths.identity).stat().st_mode) == 0o700
    assert "PORT=80\n" in Path(paths.app_env).read_text()
    assert stat.S_IMODE(Path(paths.app_env).stat().st_mode) == 0o640
    assert {"launcher", "start", "beamfleet_link.beam"} <= {file.name for file in Path(paths.lib).iterdir()}
    lines = dict(line.split("=", 1) for line in Path(paths.launcher_conf).read_text().splitlines())
    assert lines["trial_deadline_s"] == "60"
    assert lines["respawned"] == "yes"
    assert lines["app_user"] == ""
    for folder in (paths.slots, paths.staging, paths.boot, paths.requests, paths.data, paths.run_app):
        assert Path(folder).is_dir()
    assert os.access(tmp_path / "run", os.X_OK)


def test_done_again_it_keeps_who_the_device_is_and_brings_the_rest_up_to_date(tmp_path: Path) -> None:
    paths = lay_down(tmp_path, words("gw-1", token="first", env={"A": "1"}))
    theirs = (paths.key, paths.cert, paths.journal, f"{paths.slots}/a", f"{paths.trust}/a", f"{paths.boot}/state")
    kept = {path: f"content of {path}" for path in (*theirs, f"{paths.data}/count")}
    for path, content in kept.items():
        Path(path).write_text(content)
    Path(paths.token).unlink()
    told = set_up(str(tmp_path), words("gw-1", token="second", trial_s=40))
    assert (told["fresh"], told["enrolled"]) == (False, True)
    assert {path: Path(path).read_text() for path in kept} == kept
    assert not Path(paths.token).exists(), "a device that has a certificate needs no token"
    assert load(paths.settings).trial_s == 40
    assert "A=1\n" in Path(paths.app_env).read_text(), "an environment that is not given stays"
    inode = Path(paths.settings).stat().st_ino
    set_up(str(tmp_path), words("gw-1", trial_s=40))
    assert Path(paths.settings).stat().st_ino == inode, "what is as it should be is not written"


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"device": None}, "setup.words", "device is missing"),
        ({"device": "GW"}, "agent.settings", "'GW' is not a device id"),
        ({"colour": "red"}, "setup.words", "no setting 'colour'"),
        ({"trial_s": "long"}, "setup.words", "trial_s is str, not int"),
        ({"trial_s": 0}, "agent.settings", "trial_s = 0"),
        ({"trial_s": 50, "trial_deadline_s": 55}, "setup.words", "trial_deadline_s = 55 is too short"),
        ({"env": {"1A": "x"}}, "setup.environment", "'1A'"),
        ({"env": {"A": "x\ny"}}, "setup.environment", "'A'"),
        ({"env": {"A": 1}}, "setup.environment", "'A'"),
        ({"ca_pem": "nonsense"}, "setup.words", "ca_pem is not a certificate"),
        ({"root_json_base64": "####"}, "setup.words", "not TUF root"),
        ({"root_json_base64": base64.b64encode(b"[]").decode()}, "setup.words", "not TUF root"),
        ({"server": {"api": "x"}}, "agent.settings", "exactly api, enrol and mqtt"),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, change: dict[str, Any], code: str, named: str
) -> None:
    with pytest.raises(AgentError) as refusal:
        set_up(str(tmp_path / "device"), {**words("gw-1"), **change})
    assert (refusal.value.code, named in refusal.value.message) == (code, True), refusal.value
    assert not (tmp_path / "device").exists()


def test_words_are_checked_without_what_the_server_knows_and_nothing_is_written(tmp_path: Path) -> None:
    known = {"ca_pem", "root_json_base64"}
    mine = {key: value for key, value in words("gw-1").items() if key not in known}
    check(str(tmp_path / "device"), mine)
    check("", {**mine, "single_user": False, "device": None, "id_from": "serial", "wifi": {"ssid": "plant"}})
    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"keepalive_s": 99_999_999}, "agent.settings", "keepalive_s = 99999999 is out of range"),
        ({"trial_s": 999_999_999}, "agent.settings", "trial_s = 999999999 is out of range"),
        ({"trial_s": 60, "trial_deadline_s": 2}, "setup.words", "trial_deadline_s = 2 is too short"),
        ({"proxy": "http://h:1/path"}, "agent.settings", "proxy is not http://HOST:PORT"),
        ({"wifi": {"ssid": "x"}}, "setup.words", "no network of its own"),
        ({"wifi": {"ssid": "x", "country": "Germany"}, "single_user": False}, "setup.words", "code of two letters"),
        ({"apn": {"apn": "a b"}, "single_user": False}, "setup.words", "no name of an access point"),
        ({"wifi": {"ssid": "plant"}, "single_user": False}, "setup.no_network", "joins a Wi-Fi network"),
        ({"certificate_pem": "text", "key_pem": "text"}, "setup.words", "the given identity is no good"),
        ({"env": {"A": "x\ny"}}, "setup.environment", "'A'"),
        ({"device": None, "id_from": "serial", "id_prefix": "A_"}, "agent.settings", "'A_0' is not a device id"),
        ({"ca_pem": "nonsense"}, "setup.words", "ca_pem is not a certificate"),
    ],
)
def test_a_check_refuses_as_setup_does(tmp_path: Path, change: dict[str, Any], code: str, named: str) -> None:
    with pytest.raises(AgentError) as refusal:
        check(str(tmp_path / "device"), {**words("gw-1"), **change})
    assert (refusal.value.code, named in refusal.value.message) == (code, True), refusal.value
    assert not (tmp_path / "device").exists()


def test_settings_that_are_no_object_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"not a JSON object.*setup\.words"):
        set_up(str(tmp_path), ["device"])


def test_a_filesystem_that_a_power_cut_may_damage_is_refused_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "mount_of", lambda _path: Mount("tmpfs", "/", "tmpfs has no journal"))
    with pytest.raises(AgentError, match=r"tmpfs has no journal.*setup\.unsafe_filesystem") as refusal:
        set_up(str(tmp_path / "device"), words("gw-1", allow_unsafe_filesystem=False))
    assert "--allow-unsafe-filesystem" in refusal.value.hint
    assert not (tmp_path / "device").exists()
    assert set_up(str(tmp_path / "device"), words("gw-1"))["unsafe_filesystem"]


def test_memory_is_known_to_be_no_place_for_slots() -> None:
    assert not mount_of("/dev/shm").safe
    assert mount_of("/dev/shm").kind == "tmpfs"
    assert mount_of("/proc").kind == "proc"


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices")
@pytest.mark.parametrize(("options", "safe"), [([], True), (["-O", "^has_journal"], False)])
def test_an_ext4_without_a_journal_is_told_from_one_with(tmp_path: Path, options: list[str], safe: bool) -> None:
    image, place = tmp_path / "disk", tmp_path / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", *options, str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    try:
        found = mount_of(str(place))
        assert (found.kind, found.safe) == ("ext4", safe)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_users_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGENT_USER", "no-such-user")
    with pytest.raises(AgentError, match=r"no-such-user.*setup\.no_user"):
        set_up(str(tmp_path / "device"), words("gw-1", single_user=False))


def agent(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "beamfleet_agent", *arguments], input=text, capture_output=True, text=True, timeout=60
    )


def test_the_command_takes_json_and_answers_with_one_object(tmp_path: Path) -> None:
    done = agent("setup", "--root", str(tmp_path), text=json.dumps(words("gw-1")))
    assert (done.returncode, json.loads(done.stdout)["device"]) == (0, "gw-1")
    refused = agent("setup", "--root", str(tmp_path), text='{"device": "GW"}')
    assert refused.returncode == 1
    assert set(json.loads(refused.stdout)["error"]) == {"code", "message", "hint"}
    assert json.loads(agent("setup", "--root", str(tmp_path), text="nonsense").stdout)["error"]["code"] == "setup.words"
    new = str(tmp_path / "new")
    checked = agent("setup", "--check", "--root", new, text='{"device": "gw-1", "allow_unsafe_filesystem": true}')
    assert (checked.returncode, json.loads(checked.stdout), Path(new).exists()) == (0, {"good": True}, False)


class TestTheRunScript:
    @pytest.fixture
    def device(self, tmp_path: Path) -> Paths:
        """Its launcher is a shell that sleeps: the real one has tests of its own."""
        paths = lay_down(tmp_path, words("gw-1"))
        launcher = "trap 'echo launcher told; exit 0' TERM\necho launcher $$\nwhile :; do sleep 0.05; done\n"
        Path(paths.lib, "launcher").write_text(launcher)
        return paths

    @pytest.fixture
    def running(self, device: Paths) -> Iterator[subprocess.Popen[str]]:
        script = subprocess.Popen(
            [f"{device.root}/run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        yield script
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()
        assert script.stdout is not None
        script.stdout.close()

    def pid(self, device: Paths) -> int:
        return int(eventually("the agent's pid", lambda: _content(device.agent_pid)))

    def test_it_is_clean_sh(self, device: Paths) -> None:
        subprocess.run(["shellcheck", f"{device.root}/run"], check=True)

    def test_it_keeps_both_running_and_ends_both_on_term(self, device: Paths, running: subprocess.Popen[str]) -> None:
        assert running.stdout is not None
        launcher = int(next(line for line in running.stdout if line.startswith("launcher ")).split()[1])
        first = self.pid(device)
        os.kill(first, signal.SIGKILL)
        os.kill(launcher, signal.SIGKILL)
        again = int(next(line for line in running.stdout if line.startswith("launcher ")).split()[1])
        second = eventually("a new agent", lambda: pid if (pid := self.pid(device)) != first else None)
        assert again != launcher
        eventually("its socket", lambda: Path(device.agent_sock).exists())
        running.terminate()
        rest, _ = running.communicate(timeout=30)
        assert "launcher told" in rest
        assert "agent stopped" in rest
        assert running.returncode == 0
        assert not alive(second)
        assert not alive(again)

    def test_a_second_one_on_the_same_directory_refuses(self, device: Paths, running: subprocess.Popen[str]) -> None:
        self.pid(device)
        second = subprocess.run([f"{device.root}/run"], capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert f"process {running.pid} runs {device.root} already (run.already_running)" in second.stderr

    def test_run_time_files_of_an_earlier_life_do_no_harm(self, device: Paths, running: subprocess.Popen[str]) -> None:
        eventually("its socket", lambda: Path(device.agent_sock).exists())
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert Path(device.agent_sock).exists()
        again = subprocess.Popen([f"{device.root}/run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually("an answer", lambda: agent("status", "--root", device.root, "-o", "json").stdout.count('"pid"'))
        again.terminate()
        assert again.wait(30) == 0


def _content(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
