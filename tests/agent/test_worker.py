"""The worker's jobs, as the processes they are, against the real server."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent.paths import Paths
from beamfleet_agent.slots import present
from beamfleet_bundles import pki
from beamfleet_bundles.bundle import Bundle

from tests.agent.device import Worker, lay_down, words_for, work
from tests.support.author import Author
from tests.support.server import Server, eventually, running_server

PRODUCT = "sensor-gateway"


class Centre:
    """A server with a product, and an author for it."""

    def __init__(self, server: Server, work: Path) -> None:
        self.server, self.author = server, Author(server, work)
        assert self.author.initialise().status_code == 200
        assert self.author.create_product(PRODUCT).status_code == 201

    def device(self, root: Path, name: str, **more: Any) -> Paths:
        """A device that has enrolled."""
        paths = lay_down(root, words_for(self.server, name, token=self.server.new_token(name), **more))
        assert "result" in work(root, "enrol")
        return paths

    def assign(self, name: str, version: str) -> None:
        """A rollout of this version to this device alone."""
        self.server.api("PATCH", f"/devices/{name}", json={"labels": {"one": name}})
        self.server.post("/rollouts", {"product": PRODUCT, "version": version, "selector": f"one={name}"})


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    folder = tmp_path_factory.mktemp("centre")
    with running_server(folder / "server") as server:
        yield Centre(server, folder / "author")


def assigned(centre: Centre, root: Path, name: str, version: str, **more: Any) -> str:
    """The assignment of a version to a device that has just enrolled; the version is published."""
    centre.author.publish(PRODUCT, version, **more)
    device = centre.server.get(f"/devices/{name}")
    assert device["id"] == name
    report(centre, root, name)
    centre.assign(name, version)
    return str(eventually("an assignment", lambda: work(root, "poll")["result"]["document"]))


def names(folder: str) -> list[str]:
    """What lies in a directory."""
    return sorted(path.name for path in Path(folder).iterdir())


def report(centre: Centre, root: Path, name: str) -> None:
    """Let the server know what the device is, as the agent does; rollouts need it."""
    agent = subprocess.Popen(
        [sys.executable, "-I", "-m", "beamfleet_agent", "run", "--root", str(root)], stderr=subprocess.DEVNULL
    )
    eventually("an inventory", lambda: centre.server.get(f"/devices/{name}").get("inventory"))
    agent.terminate()
    agent.wait(30)


class TestEnrolment:
    def test_a_token_becomes_a_key_and_a_certificate(self, centre: Centre, tmp_path: Path) -> None:
        paths = lay_down(tmp_path, words_for(centre.server, "enrol-1", token=centre.server.new_token("enrol-1")))
        result = work(tmp_path, "enrol")["result"]
        certificate, _ = pki.load_pair(Path(paths.pair))
        assert result["name"] == "enrol-1"
        assert result["serial"] == pki.read_certificate(certificate).serial
        assert stat.S_IMODE(Path(paths.pair).stat().st_mode) == 0o600
        assert names(paths.identity) == ["pair.pem"]

    def test_done_again_it_changes_nothing(self, centre: Centre, tmp_path: Path) -> None:
        paths = centre.device(tmp_path, "enrol-2")
        before = Path(paths.pair).read_bytes()
        assert work(tmp_path, "enrol")["result"]["name"] == "enrol-2"
        assert Path(paths.pair).read_bytes() == before

    @pytest.mark.parametrize("left", ["key", "key and certificate"])
    def test_what_was_done_before_a_kill_is_used(self, centre: Centre, tmp_path: Path, left: str) -> None:
        name = f"enrol-3-{len(left)}"
        token = centre.server.new_token(name)
        paths = lay_down(tmp_path, words_for(centre.server, name, token=token))
        key = pki.create_key(Path(paths.key))
        if left != "key":
            assert "result" in work(tmp_path, "enrol")
            Path(paths.token).write_text(token)  # killed before the token went
        assert "result" in work(tmp_path, "enrol")
        certificate, _ = pki.load_pair(Path(paths.pair))
        assert certificate.public_key() == key.public_key()
        assert not Path(paths.token).exists()

    def test_an_answer_that_was_lost_is_asked_for_again(self, centre: Centre, tmp_path: Path) -> None:
        """Killed between the server's commit and our fsync: the token is used, the key is ours."""
        token = centre.server.new_token("enrol-4")
        paths = lay_down(tmp_path, words_for(centre.server, "enrol-4", token=token))
        assert "result" in work(tmp_path, "enrol")
        Path(paths.pair).rename(paths.key)
        Path(paths.token).write_text(token)
        assert work(tmp_path, "enrol")["result"]["name"] == "enrol-4"

    @pytest.mark.parametrize("token", ["wrong", "of another device", "used"])
    def test_a_token_that_is_no_good_is_refused_by_name(self, centre: Centre, tmp_path: Path, token: str) -> None:
        name, other = f"enrol-5-{len(token)}", f"enrol-6-{len(token)}"
        given = {"wrong": "nonsense", "of another device": centre.server.new_token(other)}.get(token)
        if given is None:
            given = centre.server.new_token(name)
            key = pki.create_key(tmp_path / "stranger.key")
            assert centre.server.simpleenroll(name, given, pki.make_request(key, name)).status_code == 200
        paths = lay_down(tmp_path / "device", words_for(centre.server, name, token=given))
        error = work(tmp_path / "device", "enrol")["error"]
        assert error["code"].startswith("token."), error
        assert error["patience"] == 0
        assert not Path(paths.pair).exists()

    def test_without_a_token_it_says_how_to_get_one(self, centre: Centre, tmp_path: Path) -> None:
        lay_down(tmp_path, words_for(centre.server, "enrol-7"))
        error = work(tmp_path, "enrol")["error"]
        assert error["code"] == "enrol.no_token"
        assert "beamfleet token create enrol-7" in error["hint"]

    def test_a_server_that_is_away_is_waited_for(self, centre: Centre, tmp_path: Path) -> None:
        given = words_for(centre.server, "enrol-8", token="any")
        given["server"]["enrol"] = "https://127.0.0.1:9"
        lay_down(tmp_path, given)
        error = work(tmp_path, "enrol")["error"]
        assert (error["code"], error["patience"] > 1000) == ("worker.network", True)

    def test_a_server_of_another_fleet_gets_no_token(self, centre: Centre, tmp_path: Path) -> None:
        from tests.support.certificates import self_signed

        given = words_for(centre.server, "enrol-9", token="any")
        given["ca_pem"] = self_signed(tmp_path)[0].read_text()
        lay_down(tmp_path / "device", given)
        error = work(tmp_path / "device", "enrol")["error"]
        assert error["code"] == "worker.network"
        assert "certificate verify failed" in error["message"]


class TestFetching:
    def test_an_assignment_becomes_a_whole_slot(self, centre: Centre, tmp_path: Path) -> None:
        paths = centre.device(tmp_path, "fetch-1")
        document = assigned(centre, tmp_path, "fetch-1", "1.0.0")
        checked, *_, verified, result = Worker(tmp_path, "fetch", document=document).lines()
        slot = checked["checked"]["release"]["manifest"][:32]
        assert checked["checked"]["attempt"] == 1
        assert checked["checked"]["release"]["version"] == "1.0.0"
        assert verified["verified"] == result["result"]
        assert set(result["result"]["permanent"]) >= {"kernel", "stdlib", "my_app"}
        assert present(paths.slots) == {slot}
        assert names(paths.staging) == []
        assert work(tmp_path, "verify", slot=slot)["result"]["manifest"] == result["result"]["manifest"]

        again = Worker(tmp_path, "fetch", document=document).lines()
        assert [*again[0], *again[-1]] == ["checked", "result"]
        assert not [line for line in again if "progress" in line], "a slot that is whole is not fetched again"

        replayed = work(tmp_path, "fetch", document=document, sequence=checked["checked"]["sequence"] + 1)["error"]
        assert (replayed["code"], replayed["patience"]) == ("assignment.replayed", 0)
        altered = document.replace('"attempt":1', '"attempt":2').replace('"attempt": 1', '"attempt": 2')
        assert altered != document
        assert work(tmp_path, "fetch", document=altered)["error"]["code"] == "assignment.signature"
        below = work(tmp_path, "fetch", document=document, floors={PRODUCT: 99})["error"]
        assert below["code"] == "assignment.below_floor"
        other = Worker(tmp_path, "fetch", document=document, floors={"another": 99}).lines()[-1]
        assert "result" in other, "the floor of another product binds nobody"

    def test_it_waits_for_the_word_and_ends_without_it(self, centre: Centre, tmp_path: Path) -> None:
        paths = centre.device(tmp_path, "fetch-2")
        document = assigned(centre, tmp_path, "fetch-2", "1.1.0")
        worker = Worker(tmp_path, "fetch", document=document)
        assert worker.process.stdout is not None
        worker.process.stdout.readline()
        worker.process.communicate()
        assert worker.process.returncode == 0
        assert present(paths.slots) == frozenset()

    def test_an_assignment_of_another_device_is_refused(self, centre: Centre, tmp_path: Path) -> None:
        centre.device(tmp_path / "a", "fetch-3")
        centre.device(tmp_path / "b", "fetch-4")
        document = assigned(centre, tmp_path / "a", "fetch-3", "1.2.0")
        assert work(tmp_path / "b", "fetch", document=document)["error"]["code"] == "assignment.wrong_device"

    def test_a_kill_in_the_middle_leaves_no_slot_and_the_next_worker_cleans_up(
        self, centre: Centre, tmp_path: Path
    ) -> None:
        paths = centre.device(tmp_path, "fetch-5")
        document = assigned(centre, tmp_path, "fetch-5", "1.3.0", note=os.urandom(2 << 20))
        worker = Worker(tmp_path, "fetch", document=document)
        assert worker.process.stdout is not None
        worker.process.stdout.readline()
        worker.tell({"proceed": True})
        worker.process.stdout.readline()  # the first progress: something lies in staging/
        worker.process.kill()
        worker.process.communicate()
        assert present(paths.slots) == frozenset()
        assert names(paths.staging) != []
        assert work(tmp_path, "clean") == {"result": {}}
        assert names(paths.staging) == []
        assert "result" in work(tmp_path, "fetch", document=document)
        assert len(present(paths.slots)) == 1

    def test_a_server_that_goes_away_is_waited_for(self, centre: Centre, tmp_path: Path) -> None:
        centre.device(tmp_path, "fetch-6")
        toml = Path(Paths(str(tmp_path)).settings)
        toml.write_text(toml.read_text().replace(centre.server.facts["devices"], "https://127.0.0.1:9"))
        error = work(tmp_path, "poll")["error"]
        assert (error["code"], error["patience"] > 1000) == ("worker.network", True)

    def test_garbage_is_refused(self, centre: Centre, tmp_path: Path) -> None:
        centre.device(tmp_path, "fetch-7")
        for garbage in ("", "{}", "[" * 5000, "x" * 9000):
            error = work(tmp_path, "fetch", document=garbage)["error"]
            assert error["code"].startswith("assignment."), error
            assert error["patience"] == 0


class TestFiles:
    @pytest.fixture
    def bundle(self, centre: Centre) -> Path:
        version = f"2.{time.monotonic_ns() % 10**9}.0"
        return centre.author.sign(centre.author.build(PRODUCT, version))

    @pytest.fixture
    def root(self, centre: Centre, tmp_path: Path) -> Path:
        """A device that knows the fleet's root, and never saw the server."""
        lay_down(tmp_path / "device", words_for(centre.server, "offline"))
        return tmp_path / "device"

    def test_a_signed_bundle_becomes_a_whole_slot(self, root: Path, bundle: Path) -> None:
        *_, verified, result = Worker(root, "stage", path=str(bundle)).lines()
        assert verified["verified"] == result["result"]
        assert present(Paths(str(root)).slots) == {result["result"]["manifest"][:32]}

    def test_a_truncated_bundle_is_refused(self, root: Path, bundle: Path) -> None:
        os.truncate(bundle, bundle.stat().st_size - 100)
        assert work(root, "stage", path=str(bundle))["error"]["code"] == "bundle.truncated"

    def test_a_bundle_with_another_pack_is_refused_and_leaves_nothing(self, root: Path, bundle: Path) -> None:
        opened = Bundle.open(bundle)
        data = bytearray(bundle.read_bytes())
        place = bytes(data).index(b"\x28\xb5\x2f\xfd") + opened.pack_size // 2
        data[place] ^= 0xFF
        bundle.write_bytes(bytes(data))
        error = work(root, "stage", path=str(bundle))["error"]
        assert error["code"] in ("pack.frame", "slot.altered", "bundle.altered", "pack.truncated"), error
        assert error["patience"] == 0
        paths = Paths(str(root))
        assert names(paths.staging) == names(paths.slots) == []

    def test_an_unsigned_bundle_is_refused(self, centre: Centre, root: Path) -> None:
        unsigned = centre.author.build(PRODUCT, f"3.{time.monotonic_ns() % 10**9}.0")
        assert work(root, "stage", path=str(unsigned))["error"]["code"] == "trust.incomplete"

    def test_a_bundle_for_another_board_is_refused_before_anything_is_written(self, centre: Centre, root: Path) -> None:
        other = centre.author.sign(centre.author.build(PRODUCT, f"4.{time.monotonic_ns() % 10**9}.0", hardware="rpi4"))
        assert work(root, "stage", path=str(other))["error"]["code"] == "assignment.wrong_hardware"

    def test_a_file_that_is_not_there_or_no_bundle_is_refused(self, root: Path, tmp_path: Path) -> None:
        assert work(root, "stage", path=str(tmp_path / "none"))["error"]["code"] == "bundle.not_found"
        (tmp_path / "text").write_text("hello")
        assert work(root, "stage", path=str(tmp_path / "text"))["error"]["code"] == "bundle.not_a_bundle"


def test_the_worker_dies_with_its_agent(tmp_path: Path) -> None:
    """The agent here is a shell that ends: its worker may not live on."""
    lay_down(tmp_path, {**_offline("orphan")})
    script = f"{sys.executable} -I -m beamfleet_agent.worker $$ <{tmp_path}/fifo >/dev/null 2>&1 & echo $!; read _"
    os.mkfifo(tmp_path / "fifo")
    agent = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder = os.open(tmp_path / "fifo", os.O_RDWR)  # its input never ends
    assert agent.stdout is not None
    worker = int(agent.stdout.readline())
    eventually("the worker to be confined", lambda: b"beamfleet_agent.worker" in _command_line(worker))
    eventually("its limits", lambda: "Max core file size        0" in Path(f"/proc/{worker}/limits").read_text())
    os.kill(agent.pid, signal.SIGKILL)
    agent.communicate()
    eventually("the worker's death", lambda: not Path(f"/proc/{worker}").exists())
    os.close(holder)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _offline(name: str) -> dict[str, Any]:
    from tests.agent.device import words

    return words(name)
