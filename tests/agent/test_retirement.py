"""Decommissioning: nothing of who the device was, what it ran and what it was told remains; asked for twice if cut."""

import base64
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from beamfleet_agent.claim import claim
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.retirement import Retirement
from beamfleet_agent.setup import set_up

from tests.agent.device import lay_down, words
from tests.agent.machine import write

SECRET = "correct horse battery staple"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A device with a secret in every corner."""
    file = {"path": "/etc/sensor/key", "mode": 0o600, "content_base64": base64.b64encode(SECRET.encode()).decode()}
    paths = lay_down(tmp_path / "device", words("gw-1", token=SECRET, env={"PASSWORD": SECRET}, files=[file]))
    places = (
        paths.pair, paths.next_key, f"{paths.identity}.gw-0/pair.pem", paths.provision, f"{paths.etc}/app.d/10-more",
        f"{paths.etc}/.provision.json.new", paths.journal, paths.seed, f"{paths.data}/db", f"{paths.dump}/erl_crash",
        f"{paths.slots}/a/lib/x.beam", f"{paths.app_dir}/vm.log", f"{paths.trust}/bearings", f"{paths.run_app}/vm.env",
    )  # fmt: skip
    for place in places:
        write(Path(place), SECRET)
    return paths


def holding_the_secret(root: str) -> list[str]:
    return [
        str(file) for file in Path(root).rglob("*") if file.is_file() and SECRET in file.read_text(errors="replace")
    ]


def decommission(paths: Paths, *more: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "beamfleet_agent", "--root", paths.root, "decommission", *more]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def test_no_secret_stays(paths: Paths) -> None:
    assert holding_the_secret(paths.root)
    done = decommission(paths, "--yes", "-o", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["device"]) == (0, "gw-1")
    assert {"/var/lib/beamfleet/identity", "/etc/beamfleet/app.env", "/etc/sensor/key"} <= set(told["removed"])
    assert holding_the_secret(paths.root) == []
    assert [*Path(paths.etc).iterdir(), *Path(paths.var).iterdir()] == []


def test_it_can_become_another_device(paths: Paths) -> None:
    Retirement(paths.root).carry_out()
    assert set_up(paths.root, words("gw-2", token="new"))["fresh"]
    assert Path(paths.token).read_text() == "new\n"


@pytest.mark.parametrize("left", [3, 9])
def test_cut_short_it_is_asked_for_again(paths: Paths, left: int) -> None:
    going = Retirement(paths.root).removing()
    for _ in range(left):
        next(going)
    assert Path(paths.settings).exists()
    Retirement(paths.root).carry_out()
    assert holding_the_secret(paths.root) == []
    with pytest.raises(AgentError, match=r"agent\.not_set_up"):
        Retirement(paths.root)


def test_a_script_without_a_word_is_asked_for_one(paths: Paths) -> None:
    done = decommission(paths, text="gw-1\n")
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    assert Path(paths.pair).exists()


@pytest.mark.parametrize("who", ["agent", "launcher"])
def test_what_runs_is_not_cut_from_under_it(paths: Paths, who: str) -> None:
    if who == "agent":
        descriptor = claim(paths)
    else:
        descriptor = os.open(f"{paths.run_app}/launcher.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(AgentError, match=rf"the {who}, process .*setup\.running"):
            Retirement(paths.root).carry_out()
    finally:
        os.close(descriptor)
    assert Path(paths.pair).exists()


def test_a_note_of_files_that_leads_out_of_the_root_leads_nowhere(paths: Paths, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("theirs")
    (Path(paths.root) / "srv").symlink_to(outside)
    Path(paths.given).write_text("/srv/x\n/../outside/x\n")
    with pytest.raises(AgentError, match=r"setup\.directory"):
        Retirement(paths.root).carry_out()
    assert (outside / "x").exists()
