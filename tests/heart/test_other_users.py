"""A release that runs as a user of its own cannot harm what is not its own: processes without end are counted, and go
with it. On a device with one user only nothing of this can be prevented.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.heart.conftest import Make, Told
from tests.heart.device import of_user
from tests.support.fleet import wait_for
from tests.support.launcher_device import NEW, OLD, boot_clock_ms

pytestmark = [
    pytest.mark.suite(name="heart"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a release a user of its own"),
]

BOMBER, ATTACKER, CRASHER, AGENT = 61001, 61002, 61051, 61052
PROCESSES = 200
BACK_S = 15
TRIAL_S = 30
BOMBS = {
    "fills": "for i in 1 2 3 4 5; do (while :; do sleep 600 & done) & done",
    "hops": "hop() { sleep 0.02; hop & }; for i in 1 2 3; do hop & done",
}
"""Takes every process that it can get; or is never the process that was there a moment ago."""


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_a_fork_bomb_goes_with_its_release(make: Make, told: Told, kind: str, bomb: str) -> None:
    user = BOMBER + 10 * (kind == "mix") + 20 * (bomb == "hops")
    device = make(kind, app_user=user, settings={"app_max_processes": PROCESSES})
    device.serve()
    device.set(trial_deadline_s=TRIAL_S)
    light = f'spawn(fun() -> timer:sleep(500), os:cmd("touch bomb; {BOMBS[bomb]}") end).'
    device.give(NEW, "1.1.0", arguments=("-eval", light))
    starts, asked_ms = device.boot.state().starts, boot_clock_ms()
    device.boot.request(f"swap {NEW} 1")
    wait_for("the bomb", (device.app / "data/bomb").exists, deadline_s=60)
    if bomb == "fills":
        wait_for("it to be full", lambda: len(of_user(user)) > PROCESSES // 2, deadline_s=60)
    device.until("the revert", lambda s: s.phase == "reverted", TRIAL_S + 40)
    device.runs(OLD, after=starts + 1)
    away_ms = device.back_ms(asked_ms)
    assert away_ms <= (TRIAL_S + BACK_S) * 1000
    assert set(of_user(user)) <= set(device.ours())
    device.alone()
    told(f"old release back after {away_ms} ms of at most {(TRIAL_S + BACK_S) * 1000}")


def test_a_release_cannot_touch_launcher_state_or_slots(make: Make) -> None:
    device = make("relx", app_user=ATTACKER)
    before, answer = device.serve(), device.app / "data/told"
    launcher = device.launcher_pid()
    places = ["boot/state", "boot/x", "requests/0000000009", "current/x", f"slots/{OLD}/.beamfleet/launch", "slots/x"]
    attacks = [f'file:write_file("../{place}", "x")' for place in places]
    attacks += [f'file:delete("{device.run}/{name}")' for name in ("doorbell", "launcher.lock", "vm.pid")]
    attacks += [f'file:write_file("{device.run}/{name}", "x")' for name in ("asks/probe", "probe.liveness")]
    attacks += [f'file:write_file("{device.run}/doorbell", "x")', 'file:rename("../data", "../mine")']
    shell = f'os:cmd("kill -9 {launcher} && echo done || echo refused")'
    device.order(
        f'A = [{", ".join(attacks)}], S = {shell}, file:write_file("told.new", io_lib:format("~0p", [{{A, S}}])), '
        'file:rename("told.new", "told").'
    )
    wait_for("the attack", answer.exists, deadline_s=20)
    said = answer.read_text()
    assert said.count("{error,eacces}") == len(attacks), said
    assert "refused" in said
    assert device.launcher_pid() == launcher
    assert device.boot.state().starts == before
    device.alone()


def test_the_agent_reads_the_dump_and_the_log_of_a_crash_and_a_stranger_no_dump(make: Make) -> None:
    device = make("relx", app_user=CRASHER, settings={"agent_group": AGENT})
    before = device.serve()
    device.order('logger:error("the pump does not answer"), exit(whereis(sensor_gateway_sup), kill).')
    device.until("another start", lambda state: state.starts > before, 60)
    dump, logs = device.app / "dump/erl_crash.dump", [device.run / "vm.log.1", device.run / "vm.log"]
    wait_for("the dump", dump.exists, deadline_s=20)
    wait_for("the logs", lambda: all(path.exists() for path in logs), deadline_s=20)
    assert reads(AGENT, dump, *logs) == [True, True, True]
    assert reads(AGENT + 1, dump) == [False]
    assert not writes(AGENT, dump.parent)


def reads(user: int, *paths: Path) -> list[bool]:
    """Whether this user, with the group of the same number, may read these files."""
    return [as_user(user, "head", "-c", "1", str(path)) == 0 for path in paths]


def writes(user: int, folder: Path) -> bool:
    return as_user(user, "touch", str(folder / "x")) == 0


def as_user(user: int, *words: str) -> int:
    done = subprocess.run(words, user=user, group=user, extra_groups=[], capture_output=True, check=False)
    return done.returncode
