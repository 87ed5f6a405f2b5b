"""One writer for each thing: agents, workers and command lines that run at once never damage what another wrote."""

import base64
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from beamfleet_agent.boot import Boot
from beamfleet_agent.journal import Journal
from beamfleet_agent.paths import Paths
from beamfleet_agent.slots import Slots, present

from tests.agent.device import Worker, lay_down, words
from tests.support.server import eventually


@pytest.fixture
def paths(tmp_path: Path, bundles: tuple[list[Path], bytes]) -> Paths:
    return lay_down(tmp_path / "device", words("gw-1", root_json_base64=base64.b64encode(bundles[1]).decode()))


def command(paths: Paths, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and everything it said."""
    out, said = process.communicate(timeout=120)
    return process.returncode, out + said


def everything_is_whole(paths: Paths, at_least: int = 1) -> None:
    """What must be true after any race: the journal is believed, every slot is as it was signed."""
    assert Journal(paths.journal).read() is not None
    slots = present(paths.slots)
    assert len(slots) >= at_least
    for slot in slots:
        Slots(paths.slots, paths.staging).verify(slot)
    assert list(Path(paths.staging).iterdir()) == []


def lines(paths: Paths) -> list[str]:
    return [path.read_text() for path in sorted(Path(paths.requests).glob("[0-9]*"))]


def test_of_agents_that_start_at_once_one_lives_and_the_others_name_it(paths: Paths) -> None:
    agents = [command(paths, "run") for _ in range(4)]
    eventually("all but one to end", lambda: sum(agent.poll() is None for agent in agents) == 1)
    (living,) = (agent for agent in agents if agent.poll() is None)
    eventually("its socket", lambda: Path(paths.agent_sock).exists())
    for agent in agents:
        if agent is not living:
            code, said = ends(agent)
            assert (code, f"agent {living.pid} serves" in said) == (1, True), said
    status = json.loads(ends(command(paths, "status", "-o", "json"))[1])
    assert status["agent"]["pid"] == living.pid
    living.terminate()
    assert ends(living)[0] == 0


def test_two_people_who_install_without_an_agent_do_it_one_after_the_other(
    paths: Paths, bundles: tuple[list[Path], bytes]
) -> None:
    """Nobody takes the request to swap here: the first waits for that, and holds the device meanwhile."""
    first = command(paths, "install", str(bundles[0][0]))
    eventually("its request", lambda: lines(paths))
    code, said = ends(command(paths, "install", str(bundles[0][1])))
    assert (code, f"agent {first.pid} serves" in said, "agent.already_running" in said) == (1, True, True), said
    code, said = ends(command(paths, "run"))
    assert (code, f"agent {first.pid} serves" in said) == (1, True)
    code, said = ends(first)
    assert (code, "update.no_launcher" in said) == (1, True)
    everything_is_whole(paths)
    assert len(lines(paths)) == 1


def test_two_people_who_ask_one_agent_are_both_answered(paths: Paths, bundles: tuple[list[Path], bytes]) -> None:
    agent = command(paths, "run")
    eventually("its socket", lambda: Path(paths.agent_sock).exists())
    asked = [command(paths, "install", str(bundle)) for bundle in bundles[0]]
    eventually("the request", lambda: lines(paths))
    (line,) = lines(paths)
    assert line.split()[0] == "swap"
    agent.terminate()
    ends(agent)
    for process in asked:
        code, said = ends(process)
        assert code == 1
        assert "agent.gone" in said or "update.busy" in said, said
    everything_is_whole(paths)


@pytest.mark.parametrize("with_agent", [True, False])
def test_requests_that_are_filed_at_once_all_arrive(paths: Paths, with_agent: bool) -> None:
    agent = command(paths, "run") if with_agent else None
    if agent is not None:
        eventually("its socket", lambda: Path(paths.agent_sock).exists())
    asked = [command(paths, verb) for verb in ("stop", "start") * 2]
    eventually("four requests", lambda: len(lines(paths)) == 4)
    assert sorted(lines(paths)) == ["start\n"] * 2 + ["stop\n"] * 2
    for process in asked:
        process.kill()
        ends(process)
    if agent is not None:
        agent.terminate()
        assert ends(agent)[0] == 0


def test_requests_of_many_have_numbers_of_their_own(paths: Paths) -> None:
    boot = Boot(paths.app_dir, paths.run_app)
    with ThreadPoolExecutor(8) as people:
        numbers = list(people.map(lambda n: boot.request(f"swap {n:032x} 1"), range(64)))
    assert sorted(numbers) == list(range(1, 65))
    assert sorted(lines(paths)) == sorted(f"swap {n:032x} 1\n" for n in range(64))


def test_of_two_workers_at_once_one_writes_and_the_other_says_that_it_is_busy(
    paths: Paths, bundles: tuple[list[Path], bytes]
) -> None:
    root = Path(paths.root)
    workers = [Worker(root, "stage", path=str(bundle)) for bundle in bundles[0]]
    with ThreadPoolExecutor(2) as readers:
        last = [said[-1] for said in readers.map(Worker.lines, workers)]
    errors = [line["error"] for line in last if "error" in line]
    assert [(error["code"], error["patience"] > 0) for error in errors] in ([], [("slot.busy", True)])
    assert any("result" in line for line in last)
    for slot in present(paths.slots):
        Slots(paths.slots, paths.staging).verify(slot)


def test_a_worker_that_finds_another_at_work_touches_nothing(paths: Paths, bundles: tuple[list[Path], bytes]) -> None:
    (Path(paths.staging) / "somebody's").write_text("work")
    held = os.open(paths.staging, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    for job, more in (("stage", {"path": str(bundles[0][0])}), ("clean", {})):
        last = Worker(Path(paths.root), job, **more).lines()[-1]
        assert last["error"]["code"] == "slot.busy"
    assert (Path(paths.staging) / "somebody's").read_text() == "work"
    assert present(paths.slots) == frozenset()
    os.close(held)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_root_does_without_an_agent_is_done_as_the_agents_user() -> None:
    """Root's files would lock the agent out for ever."""
    somebody = 64_321
    with tempfile.TemporaryDirectory(prefix="beamfleet-") as folder:
        Path(folder).chmod(0o755)
        paths = lay_down(Path(folder, "device"), words("gw-1"))
        for place in (paths.var, paths.identity, paths.trust, paths.slots, paths.staging, paths.requests):
            os.chown(place, somebody, somebody)
        asked = command(paths, "stop")
        request = eventually("the request", lambda: sorted(Path(paths.requests).glob("[0-9]*")))[0]
        asked.kill()
        ends(asked)
        assert request.stat().st_uid == somebody
        script = "import sys; from beamfleet_agent import claim, paths; claim.claim(paths.Paths(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", script, paths.root], check=True)
        assert {Path(path).stat().st_uid for path in (paths.lock, paths.agent_pid)} == {somebody}
