"""The agent between a real worker and a launcher that is played by the test: requests in, boot/ out."""

import base64
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beamfleet_agent import monitor
from beamfleet_agent.errors import AgentError
from beamfleet_agent.journal import Journal, Ledger
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.slots import present
from beamfleet_agent.update_state import State, Update

from tests.agent.device import Worker, lay_down, words
from tests.agent.resident import Device

Spin = Callable[[str, Callable[[], object]], None]
Bundles = tuple[list[Path], bytes]


@pytest.fixture
def paths(tmp_path: Path, bundles: Bundles) -> Paths:
    root_json = base64.b64encode(bundles[1]).decode()
    return lay_down(tmp_path / "device", words("gw-1", root_json_base64=root_json, health_interval_s=1))


@pytest.fixture
def runs(paths: Paths, bundles: Bundles) -> str:
    """The slot of the release that is staged, and committed as far as boot/state says."""
    slot = str(Worker(Path(paths.root), "stage", path=str(bundles[0][0])).lines()[-1]["result"]["manifest"][:32])
    Path(paths.boot, "state").write_text(f"format=1\nslot={slot}\nphase=committed\nattempt=1\nstarts=1\n")
    return slot


@pytest.fixture
def device(loop: Loop, paths: Paths, runs: str, tmp_path: Path) -> Iterator[Device]:
    made = Device(loop, paths, tmp_path / "log")
    yield made
    made.agent.stop()


def writes(paths: Paths, name: str, content: str) -> None:
    """As the launcher does it."""
    new = Path(paths.boot, f"{name}.new")
    new.write_text(content)
    new.rename(Path(paths.boot, name))


def takes(paths: Paths, spin: Spin) -> str:
    """The next request, which is then gone."""
    found: list[Path] = []

    def look() -> bool:
        found[:] = sorted(Path(paths.requests).glob("[0-9]*"))
        return bool(found)

    spin("a request", look)
    line = found[0].read_text().strip()
    found[0].unlink()
    return line


def test_the_owners_hooks_are_asked_before_the_download_and_before_the_swap(
    device: Device, bundles: Bundles, spin: Spin, runs: str
) -> None:
    paths = device.paths
    for point in ("pre-download", "pre-swap"):
        folder = Path(paths.lib, "hooks.d", point)
        folder.mkdir(parents=True)
        (folder / "10-window").touch()
    device.agent.install(str(bundles[0][1]))
    asked = takes(paths, spin)
    new = asked.split()[2]
    assert asked == f"hook pre-download {new} 1"
    assert present(paths.slots) == {runs}
    assert not list(Path(paths.staging).iterdir()), "nothing has been written"
    writes(paths, "hook.pre-download", f"{new} 1 21 10-window\nthe window is closed\n")
    assert takes(paths, spin) == asked, "later is later, not no"
    update = device.agent.status()["update"]
    assert update["reason"] == "update.hook"
    assert update["detail"] == "the hook 10-window of pre-download ended with 21: the window is closed"
    writes(paths, "hook.pre-download", f"{new} 1 0 -\n")
    assert takes(paths, spin) == f"hook pre-swap {new} 1"
    assert present(paths.slots) == {runs, new}
    writes(paths, "hook.pre-swap", f"{new} 1 0 -\n")
    assert takes(paths, spin) == f"swap {new} 1"


def test_a_hook_that_says_no_ends_the_attempt_with_its_words_and_the_running_release_stays(
    device: Device, bundles: Bundles, spin: Spin, runs: str
) -> None:
    paths = device.paths
    folder = Path(paths.lib, "hooks.d/pre-swap")
    folder.mkdir(parents=True)
    (folder / "10-copy").touch()
    device.agent.install(str(bundles[0][1]))
    new = takes(paths, spin).split()[2]
    writes(paths, "hook.pre-swap", f"{new} 1 1 10-copy\nno room\nfor a copy \x1b[31m\n")
    spin("its end", lambda: not device.agent.busy)
    update = device.agent.status()["update"]
    assert (update["phase"], update["reason"]) == ("failed", "update.hook")
    assert update["detail"] == "the hook 10-copy of pre-swap ended with 1: no room for a copy  [31m"
    assert (device.requests(), device.agent.status()["slot"]) == ([], runs)
    remembered = Journal(paths.journal).read()
    assert remembered is not None
    assert remembered[0].spent == ((new, 1),)


@pytest.mark.parametrize(("stale_s", "reason"), [(60.0, "health"), (-1.0, "unconfirmed")], ids=["awake", "frozen"])
def test_what_was_seen_before_the_agent_was_frozen_is_no_evidence_of_how_the_trial_ended(
    device: Device,
    bundles: Bundles,
    spin: Spin,
    runs: str,
    monkeypatch: pytest.MonkeyPatch,
    stale_s: float,
    reason: str,
) -> None:
    paths = device.paths
    device.agent.install(str(bundles[0][1]))
    new = takes(paths, spin).split()[1]
    writes(paths, "state", f"format=1\nslot={new}\nprevious={runs}\nphase=trial\nattempt=1\nstarts=2\n")
    spin("what is wrong while it starts", lambda: device.agent.state.update.reason == "health")
    monkeypatch.setattr(monitor, "STALE_S", stale_s)
    ended = f"slot={runs}\nphase=reverted\nstarts=3\nfailed={new}:1:unconfirmed\ncause=revert\n"
    writes(paths, "state", f"format=1\n{ended}")
    spin("the revert", lambda: device.agent.state.update.phase == "reverted")
    assert device.agent.state.update.reason == reason
    assert device.agent.state.spent == (((new, 1),) if reason == "health" else ())


@pytest.mark.usefixtures("runs")
def test_a_release_that_does_not_answer_makes_the_agent_ring_once_for_each_sample(
    loop: Loop, paths: Paths, spin: Spin, tmp_path: Path
) -> None:
    """A launcher that missed the end of its VM looks again."""
    Path(paths.doorbell).parent.mkdir(exist_ok=True)
    os.mkfifo(paths.doorbell)
    bell = os.open(paths.doorbell, os.O_RDWR | os.O_NONBLOCK)
    device = Device(loop, paths, tmp_path / "log")
    spin("two samples", lambda: device.samples >= 2)
    device.agent.stop()
    assert select.select([bell], [], [], 0)[0]
    assert len(os.read(bell, 100)) == device.samples
    os.close(bell)


def test_a_release_that_answers_or_was_stopped_makes_nobody_ring(
    loop: Loop, paths: Paths, runs: str, spin: Spin, tmp_path: Path
) -> None:
    Path(paths.boot, "state").write_text(f"format=1\nslot={runs}\nphase=committed\nstarts=1\nstopped=yes\n")
    Path(paths.doorbell).parent.mkdir(exist_ok=True)
    os.mkfifo(paths.doorbell)
    bell = os.open(paths.doorbell, os.O_RDWR | os.O_NONBLOCK)
    device = Device(loop, paths, tmp_path / "log")
    spin("two samples", lambda: device.samples >= 2)
    device.agent.stop()
    assert not select.select([bell], [], [], 0)[0]
    os.close(bell)


def test_a_rollback_to_a_lower_schema_of_the_data_is_refused_with_the_way_to_force_it(
    device: Device, bundles: Bundles, spin: Spin, runs: str
) -> None:
    paths = device.paths
    device.agent.install(str(bundles[0][1]))
    new = takes(paths, spin).split()[1]
    spin("both releases", lambda: len(device.agent.state.releases) == 2)
    raised = tuple(r._replace(data_schema=2 if r.slot == new else 1) for r in device.agent.state.releases)
    device.agent.state = device.agent.state._replace(releases=raised)
    writes(paths, "state", f"format=1\nslot={new}\nprevious={runs}\nphase=committed\nattempt=1\nstarts=2\n")
    spin("the commit", lambda: device.agent.status()["update"]["phase"] == "committed")
    with pytest.raises(AgentError, match=r"1\.0\.0 states data_schema 1, the running 1\.1\.0 has 2") as refused:
        device.agent.rollback()
    assert (refused.value.code, "rollback --force" in refused.value.hint) == ("update.lower_schema", True)
    device.agent.rollback(forced=True)
    assert takes(paths, spin) == "rollback"


def test_an_agent_that_starts_in_mid_trial_goes_on_with_the_trace(
    loop: Loop, paths: Paths, runs: str, tmp_path: Path, spin: Spin
) -> None:
    trial = Update("trial", runs, attempt=1, sequence=1, origin="assignment", trace=f"00-{'a' * 32}-{'b' * 16}-01")
    Journal(paths.journal).write(State(trial, sequence=1), Ledger(boot=1, starts=1))
    writes(paths, "state", f"format=1\nslot={runs}\nphase=trial\nattempt=1\nstarts=1\n")
    device = Device(loop, paths, tmp_path / "log")
    assert device.logged("agent started")[0]["trace_id"] == "a" * 32
    writes(paths, "state", f"format=1\nslot={runs}\nphase=committed\nattempt=1\nstarts=1\n")
    spin("the commit", lambda: device.agent.state.update.phase == "committed")
    device.agent.stop()
    assert device.logged("update")[-1]["trace_id"] == "a" * 32
    assert "trace_id" not in device.logged("agent stopped")[0]
