"""Bad releases with an agent that watches them, and no server to ask: it, or the launcher, takes the device back.

One server makes keys and bundles and flashes the devices; then it is gone.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.heart.device import BOOT_MS, process_started_ms, working_in
from tests.support import release_slots
from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for
from tests.support.launcher_device import boot_clock_ms

pytestmark = [pytest.mark.suite(name="heart"), pytest.mark.timeout(600)]

AGENT = str(Path(sys.executable).parent / "beamfleet-agent")
DEADLINE_S = 30
BACK_S = 15
ATTACKER = 61051
FILL = 'spawn(fun() -> timer:sleep(300), os:cmd("cat /dev/zero >junk 2>/dev/null; touch full") end).'
ATTACK = 'spawn(fun() -> timer:sleep(300), os:cmd("kill -9 $(cat {0}) >attack 2>&1 || echo refused >>attack") end).'


@pytest.fixture
def here(room: Path) -> Iterator[Fleet]:
    with fleet(room / "fleet", "sensor-gateway") as opened:
        yield opened


def bundle(here: Fleet, version: str, *words: str, evaluated: str = "") -> Path:
    """A signed bundle of the gateway; `evaluated` is what its vm.args have it do besides."""
    source = tarball("sensor_gateway", version)
    folder = here.work / f"bundle-{len(list(here.work.iterdir()))}"
    folder.mkdir()
    if evaluated:
        source = release_slots.with_arguments(source, folder / "release.tar.gz", ("-eval", evaluated))
    path = str(here.json("bundle", "build", str(source), "--out", str(folder), *words)["path"])
    here.cli("bundle", "sign", path)
    return Path(path)


def agent(device: Device, *words: str, timeout_s: float = 120) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of `beamfleet-agent WORDS`."""
    done = subprocess.run(
        [AGENT, *words, "--root", str(device.root), "-o", "json"], capture_output=True, text=True, timeout=timeout_s
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


def asking(device: Device, verb: str, file: Path) -> subprocess.Popen[str]:
    """The same for a bundle, not waited for."""
    return subprocess.Popen(
        [AGENT, verb, str(file), "--root", str(device.root), "-o", "json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def installed(here: Fleet, name: str, *more: str) -> Device:
    """A device that has 1.0.0 committed, from a file, with the server gone."""
    first = bundle(here, "1.0.0")
    device = here.flash(name, more=("--trial-deadline-s", str(DEADLINE_S), *more))
    wait_for("the agent", device.agent_pid, deadline_s=30)
    code, answer = agent(device, "install", str(first))
    assert (code, answer["phase"]) == (0, "committed"), answer
    return device


def trial_began(device: Device) -> int:
    """When the update that is under way had swapped, by the boot clock."""
    wait_for("the trial", lambda: device.boot_state()["phase"] == "trial", deadline_s=90, every_s=0.01)
    return boot_clock_ms()


def back(device: Device, began_ms: int) -> dict[str, Any]:
    """What 1.0.0 tells when it answers again, within its time."""

    def old() -> dict[str, Any] | None:
        facts = device.http()
        return facts if facts and facts["version"] == "1.0.0" and facts["started_ms"] > began_ms else None

    facts = wait_for("1.0.0 to answer again", old, deadline_s=DEADLINE_S + 6 * BACK_S)
    begun_ms = min(facts["started_ms"], process_started_ms(facts["os_pid"]) + BOOT_MS)
    assert begun_ms - began_ms <= (DEADLINE_S + BACK_S) * 1000
    return facts


def test_a_release_whose_probe_fails_is_reverted_and_remembered(here: Fleet) -> None:
    device = installed(here, "probed")
    bad = bundle(here, "1.1.0", "--probe-http", f"{device.http_port}/elsewhere", "--probe-timeout-s", "1")
    here.stop_server()
    with asking(device, "install", bad) as install:
        back(device, trial_began(device))
        answer = json.loads(install.communicate(timeout=120)[0])
    state = device.boot_state()
    assert install.returncode == 1
    assert (answer["update"]["phase"], answer["update"]["reason"]) == ("reverted", "probe"), answer
    assert (state["phase"], state["slot"]) == ("reverted", answer["slot"])
    assert "/elsewhere: 404" in answer["update"]["detail"]
    _, answer = agent(device, "status")
    assert (answer["version"], answer["session"]) == ("1.0.0", False)


def test_a_good_release_that_a_frozen_agent_does_not_confirm_may_come_again(here: Fleet) -> None:
    device, good = installed(here, "frozen"), bundle(here, "1.1.0")
    here.stop_server()
    pid = device.agent_pid()
    assert pid
    with asking(device, "install", good) as install:
        began_ms = trial_began(device)
        os.kill(pid, signal.SIGSTOP)
        try:
            back(device, began_ms)
        finally:
            os.kill(pid, signal.SIGCONT)
        answer = json.loads(install.communicate(timeout=120)[0])
    assert (answer["update"]["phase"], answer["update"]["reason"]) == ("reverted", "unconfirmed"), answer
    assert device.boot_state()["failed"].endswith(":unconfirmed")
    code, answer = agent(device, "install", str(good))
    assert (code, answer["version"], answer["phase"]) == (0, "1.1.0", "committed"), answer


def test_a_release_that_fills_the_disk_ends_clearly_and_the_device_heals(here: Fleet) -> None:
    place = here.work / "full"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=755", "beamfleet-test", str(place)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        fill_and_heal(here)
    finally:
        here.close()
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill_and_heal(here: Fleet) -> None:
    device = installed(here, "full")
    bad, good = bundle(here, "1.1.0", evaluated=FILL), bundle(here, "1.1.0")
    here.stop_server()
    with asking(device, "install", bad) as install:
        began_ms = trial_began(device)
        wait_for("the disk to be filled", device.path("data/junk").exists, deadline_s=60)
        back(device, began_ms)
        device.path("data/junk").unlink()
        answer = json.loads(install.communicate(timeout=120)[0])
    assert install.returncode == 1
    assert answer["update"]["phase"] == "reverted", answer
    assert answer["version"] == "1.0.0"
    code, answer = agent(device, "install", str(good))
    assert (code, answer["version"], answer["phase"]) == (0, "1.1.0", "committed"), answer


def test_a_release_may_not_signal_the_agent(here: Fleet) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a release a user of its own")
    device = here.flash("attacked", more=("--trial-deadline-s", str(DEADLINE_S)))
    part(device)
    first = bundle(here, "1.0.0")
    attacker = bundle(here, "1.1.0", evaluated=ATTACK.format(device.root / "var/run/beamfleet/agent.pid"))
    here.stop_server()
    assert agent(device, "install", str(first))[0] == 0
    pid, launcher = device.agent_pid(), device.launcher_pid()
    assert pid
    code, answer = agent(device, "install", str(attacker))
    assert (code, answer["version"]) == (0, "1.1.0"), answer
    said = wait_for("the attack", lambda: device.path("data/attack").read_text(), deadline_s=20)
    assert "Operation not permitted" in said
    assert said.endswith("refused\n")
    assert (device.agent_pid(), device.launcher_pid()) == (pid, launcher)
    vm = device.vm_pid()
    assert Path(f"/proc/{vm}").stat().st_uid == ATTACKER
    assert pid in working_in(Path("/")), "the agent lives"


def part(device: Device) -> None:
    """Give the release a user of its own, as `setup` does on a device with users."""
    device.stop()
    with (device.root / "etc/beamfleet/launcher.conf").open("a") as conf:
        conf.write(f"app_user={ATTACKER}\n")
    for place in (device.path("data"), device.path("dump")):
        os.chown(place, ATTACKER, ATTACKER)
    os.chown(device.root / "etc/beamfleet/app.env", 0, ATTACKER)
    device.start()
    wait_for("the agent", device.agent_pid, deadline_s=30)
