"""Packaged devices with real systemd and real users: cold boots, units killed in each state, reboots in mid-trial."""

import re
from collections.abc import Callable

import pytest

from tests.boot.conftest import Releases
from tests.support.packaged import AGENT, APP, LAUNCHER, ROOT, RUN, VAR, PackagedDevice

SIGNALS = ("KILL", "TERM")
BOOTS = ("reboot", "cut")
PLANTED = "10-planted"
HOOKS = {
    PLANTED: "#!/bin/sh\ntouch /var/lib/beamfleet/planted\n",
    "20-copy": """#!/bin/sh
id -u
cp -a "$BEAMFLEET_DATA" "$BEAMFLEET_DATA/../copy" || exit 1
touch /usr/x 2>/dev/null || echo cannot write to /usr
echo "from ${BEAMFLEET_FROM##*/}"
""",
}
SideBySide = Callable[..., None]
LINES = re.findall(r"^::respawn:(.+)$", (ROOT / "systemd/README.md").read_text(), re.MULTILINE)
"""The commands that the README gives to an init without units."""

pytestmark = [pytest.mark.suite(name="boot"), pytest.mark.timeout(600)]


def overlaps(device: PackagedDevice) -> list[list[str]]:
    """What the example logged when it found a second VM at work."""
    return [line for line in device.intervals() if line[0] == "overlap"]


def settled(device: PackagedDevice, version: str, phase: str) -> dict[str, str]:
    """The state once the device runs `version` and its trial, if there was one, has ended in `phase`."""
    state = device.until_state(f"the phase {phase}", lambda state: state.get("phase") == phase, deadline_s=90)
    device.until_answers(version)
    assert overlaps(device) == []
    device.machine.until("launcher and agent", lambda: device.main_pid(LAUNCHER) and device.main_pid(AGENT))
    return state


def until_trial(device: PackagedDevice) -> dict[str, str]:
    """Until the new release is on trial and a VM runs it."""
    return device.until_state("a trial", lambda state: state["phase"] == "trial" and device.vm_pid() is not None)


def killed(device: PackagedDevice, unit: str, signal: str) -> None:
    """`systemctl kill` of everything in the unit, until its main process is another one."""
    before = device.main_pid(unit)
    device.systemctl("kill", "-s", signal, unit)
    device.machine.until(f"another {unit}", lambda: device.main_pid(unit) not in (0, before))


def booted_again(device: PackagedDevice, how: str) -> None:
    """A boot after a clean shutdown, or after none."""
    assert device.boot_state()["phase"] == "trial", "it came too late"
    if how == "reboot":
        device.machine.reboot()
    else:
        device.machine.cut()
        device.machine.boot()


# --- cold boots


def test_a_device_that_was_not_laid_down_starts_nothing(fresh: Callable[[], PackagedDevice]) -> None:
    device = fresh()
    device.machine.boot()
    for unit in (LAUNCHER, AGENT):
        assert device.systemctl("show", "-P", "ActiveState", unit) == "inactive"
        assert device.systemctl("is-enabled", unit) == "enabled"
    assert device.systemctl("list-units", "--failed", "--no-legend") == ""


def test_a_cold_boot_ends_in_the_committed_release(device: PackagedDevice) -> None:
    assert settled(device, "1.0.0", "committed")["power_losses"] == "0"
    device.machine.cut()
    device.machine.boot()
    state = settled(device, "1.0.0", "committed")
    assert (state["cause"], state["power_losses"]) == ("power", "1")


# --- users and scores


def parts(device: PackagedDevice) -> dict[str, int]:
    """The pids of launcher, agent and VM."""
    return {
        "launcher": device.main_pid(LAUNCHER),
        "agent": device.main_pid(AGENT),
        "vm": device.vm_pid() or 0,
    }


def users(device: PackagedDevice, pids: dict[str, int]) -> dict[str, str]:
    """Whose processes these are, by their names."""
    shown = device.machine.run("ps", "-o", "pid=,user:32=", "-p", ",".join(map(str, pids.values()))).stdout
    owners = {int(line.split()[0]): line.split()[1] for line in shown.splitlines()}
    return {name: owners.get(pid, "") for name, pid in pids.items()}


def test_each_part_runs_as_its_own_user(standing: PackagedDevice) -> None:
    assert users(standing, parts(standing)) == {"launcher": "root", "agent": "beamfleet", "vm": "beamfleet-app"}


def test_memory_runs_out_for_the_release_first(standing: PackagedDevice) -> None:
    if standing.machine.run("sh", "-c", "echo -1 >/proc/self/oom_score_adj", ok=(0, 1, 2)).returncode != 0:
        pytest.skip("containers here have no CAP_SYS_RESOURCE: nobody in them can lower a score")
    scores = {
        name: int(standing.machine.path(f"/proc/{pid}/oom_score_adj").read_text())
        for name, pid in parts(standing).items()
    }
    assert scores == {"launcher": -900, "agent": -500, "vm": 0}


@pytest.mark.parametrize(
    "attempt",
    [
        f"ls {VAR}/identity",
        f"ls {VAR}/trust",
        f"cat {VAR}/journal",
        f"touch {APP}/requests/9",
        f"touch {APP}/boot/state",
        f"touch {APP}/current/x",
        f"mv {APP} {VAR}/gone",
        f"mv {RUN}/main {RUN}/gone",
        f"sh -c 'echo >{RUN}/main/doorbell'",
        "kill -TERM AGENT",
        "kill -TERM LAUNCHER",
        "beamfleet-agent rollback",
    ],
)
def test_the_release_may_not(attempt: str, standing: PackagedDevice) -> None:
    refused_to(standing, "beamfleet-app", attempt)


@pytest.mark.parametrize(
    "attempt",
    [
        f"ls {APP}/data",
        f"touch {APP}/boot/state",
        f"ln -sfn x {APP}/current",
        f"mv {VAR}/apps {VAR}/gone",
        f"mv {RUN}/main {RUN}/gone",
        "touch /usr/lib/beamfleet/launcher",
        "touch /etc/beamfleet/launcher.conf",
        "kill -TERM LAUNCHER",
        "kill -TERM VM",
    ],
)
def test_the_agent_may_not(attempt: str, standing: PackagedDevice) -> None:
    refused_to(standing, "beamfleet", attempt)


def refused_to(device: PackagedDevice, user: str, attempt: str) -> None:
    """Try it as that user: it must fail, and everything must be as it was."""
    before = (device.main_pid(AGENT), device.main_pid(LAUNCHER), device.vm_pid())
    for name, pid in zip(("AGENT", "LAUNCHER", "VM"), before, strict=True):
        attempt = attempt.replace(name, str(pid))
    tried = device.machine.run("sh", "-c", attempt, user=user, ok=tuple(range(1, 128)))
    assert tried.stdout == "" or "beamfleet-agent" in attempt
    assert (device.main_pid(AGENT), device.main_pid(LAUNCHER), device.vm_pid()) == before


# --- units killed in each state


@pytest.mark.parametrize("unit", [LAUNCHER, AGENT])
def test_a_unit_of_an_idle_device_may_be_killed(unit: str, device: PackagedDevice) -> None:
    for signal in SIGNALS:
        killed(device, unit, signal)
        settled(device, "1.0.0", "committed")


@pytest.mark.parametrize("unit", [LAUNCHER, AGENT])
def test_a_unit_may_be_killed_while_a_slot_is_written(unit: str, side_by_side: SideBySide, releases: Releases) -> None:
    def case(device: PackagedDevice, signal: str) -> None:
        device.begin_install(releases.new)
        with device.worker_halted():
            killed(device, unit, signal)
        if unit == AGENT:  # whoever asked for it has heard that the agent went away
            settled(device, "1.0.0", "committed")
            device.install(releases.new)
        settled(device, "1.1.0", "committed")

    side_by_side(case, *SIGNALS)


@pytest.mark.parametrize("unit", [LAUNCHER, AGENT])
def test_a_unit_may_be_killed_in_a_trial(unit: str, side_by_side: SideBySide, releases: Releases) -> None:
    def case(device: PackagedDevice, signal: str) -> None:
        device.begin_install(releases.new)
        until_trial(device)
        assert device.boot_state()["phase"] == "trial", "it came too late"
        killed(device, unit, signal)
        settled(device, "1.1.0", "committed")

    side_by_side(case, *SIGNALS)


def test_launcher_agent_and_heart_killed_at_once_come_back(device: PackagedDevice) -> None:
    before = (device.main_pid(LAUNCHER), device.main_pid(AGENT), device.heart_pid())
    assert all(before)
    device.machine.run("kill", "-s", "KILL", *map(str, before), ok=(0, 1))  # systemd may have been faster with the last
    device.machine.until("another launcher", lambda: device.main_pid(LAUNCHER) not in (0, before[0]))
    device.machine.until("another agent", lambda: device.main_pid(AGENT) not in (0, before[1]))
    device.machine.until("another heart", lambda: device.heart_pid() not in (None, before[2]))
    settled(device, "1.0.0", "committed")


# --- trials


def test_a_good_release_survives_a_boot_in_its_trial(side_by_side: SideBySide, releases: Releases) -> None:
    def case(device: PackagedDevice, how: str) -> None:
        device.begin_install(releases.new)
        until_trial(device)
        booted_again(device, how)
        state = settled(device, "1.1.0", "committed")
        assert (state["cause"], state["power_losses"]) == (("power", "1") if how == "cut" else ("operator", "0"))
        assert device.agent("status")["update"]["phase"] == "committed"

    side_by_side(case, *BOOTS)


def test_a_dying_release_reverts_whatever_boots_come_between(side_by_side: SideBySide, releases: Releases) -> None:
    def case(device: PackagedDevice, how: str) -> None:
        device.begin_install(releases.dying)
        until_trial(device)
        booted_again(device, how)
        state = settled(device, "1.0.0", "reverted")
        assert state["failed"].startswith(f"{releases.dying.slot}:1:")

    side_by_side(case, *BOOTS)


def test_without_its_agent_a_good_release_reverts_unconfirmed(device: PackagedDevice, releases: Releases) -> None:
    device.machine.run("sed", "-i", "s/^trial_deadline_s=.*/trial_deadline_s=12/", "/etc/beamfleet/launcher.conf")
    device.systemctl("restart", LAUNCHER)
    device.until_answers("1.0.0")
    device.begin_install(releases.new)
    until_trial(device)
    device.systemctl("stop", AGENT)
    state = device.until_state("a revert", lambda state: state["phase"] == "reverted")
    assert state["failed"] == f"{releases.new.slot}:1:unconfirmed"
    device.until_answers("1.0.0")
    assert overlaps(device) == []


# --- hooks


def test_a_hook_is_root_and_may_copy_the_data_but_no_more_than_the_unit_allows(
    device: PackagedDevice, releases: Releases
) -> None:
    hooks = device.machine.path("/usr/lib/beamfleet/hooks.d/pre-swap")
    for name, text in HOOKS.items():
        (hooks / name).write_text(text)
        (hooks / name).chmod(0o755)
    device.machine.run("chown", "beamfleet-app", f"/usr/lib/beamfleet/hooks.d/pre-swap/{PLANTED}")
    device.install(releases.new)
    decided, *said = device.machine.path(f"{APP}/boot/hook.pre-swap").read_text().splitlines()
    assert decided == f"{releases.new.slot} 1 0 -"
    assert said[0].startswith(f"{PLANTED}: skipped")
    assert said[1:] == ["0", "cannot write to /usr", f"from {releases.old.slot}"]
    owner = device.machine.run("stat", "-c", "%U", f"{APP}/copy/count").stdout.strip()
    assert owner == "beamfleet-app"


# --- people


def test_root_acts_in_place_of_an_agent_that_is_stopped_and_does_not_lock_it_out(
    device: PackagedDevice, releases: Releases
) -> None:
    device.systemctl("stop", AGENT)
    device.install(releases.new)
    device.agent("stop")
    device.agent("start")
    device.systemctl("start", AGENT)
    settled(device, "1.1.0", "committed")
    foreign = device.machine.run(
        "find", VAR, "-xdev", "-user", "root", "-not", "-path", f"{APP}/*", "-not", "-name", "lost+found", "-type", "f"
    )
    assert foreign.stdout == ""
    assert device.agent("rollback")["version"] == "1.0.0"


# --- the agent's watchdog


def test_an_agent_that_hangs_is_replaced(device: PackagedDevice) -> None:
    device.machine.run("mkdir", "-p", f"/run/systemd/system/{AGENT}.d")
    device.machine.path(f"/run/systemd/system/{AGENT}.d/hasty.conf").write_text("[Service]\nWatchdogSec=4\n")
    device.systemctl("daemon-reload")
    device.systemctl("restart", AGENT)
    hung, vm = device.main_pid(AGENT), device.vm_pid()
    device.machine.run("kill", "-s", "STOP", str(hung))
    device.machine.until("another agent", lambda: device.main_pid(AGENT) not in (0, hung))
    assert "watchdog" in device.machine.run("journalctl", "-b", "-u", AGENT, "--no-pager").stdout.lower()
    settled(device, "1.0.0", "committed")
    assert device.vm_pid() == vm


# --- without units


def test_two_respawned_commands_are_all_that_an_init_without_units_needs(
    device: PackagedDevice, releases: Releases
) -> None:
    device.systemctl("disable", "--now", AGENT, LAUNCHER)
    device.machine.run("rm", "-r", RUN)  # as a boot leaves it
    for command in LINES:
        device.machine.run("systemd-run", "--quiet", "--property=Restart=always", *command.split())
    device.until_answers("1.0.0")
    device.machine.until("the agent", lambda: device.agent("status")["agent"])
    assert device.install(releases.new)["version"] == "1.1.0"
    assert users(device, {"vm": device.vm_pid() or 0, "agent": device.agent("status")["agent"]["pid"]}) == {
        "vm": "beamfleet-app", "agent": "beamfleet"
    }  # fmt: skip
