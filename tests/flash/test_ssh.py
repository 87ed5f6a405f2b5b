"""`beamfleet flash --ssh`: a running Debian becomes a device; whatever goes wrong leaves it as it was to the byte."""

import base64
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.flash.errors import FlashError, SetupError
from beamfleet_server.flash.ssh import SshTarget

from tests.support import examples, ssh_device
from tests.support.author import now
from tests.support.fleet import Fleet, free_port, key_values, wait_for
from tests.support.repository import Repository
from tests.support.ssh_device import ASKED, ROOT, SUDOER, SshBase, SshDevice

pytestmark = [pytest.mark.suite(name="flash")]
HOME = "/var/lib/beamfleet-flash"
LISTED = r"""
set --
for each in proc sys dev run tmp var/log var/tmp root/.cache; do set -- "$@" -path "/$each" -prune -o; done
find / "$@" -name lost+found -prune -o -printf '%p|%y|%m|%U:%G|%l\n'
find / "$@" -type f -print0 | xargs -0 sha256sum
"""
"""Every path outside logs with kind, mode, owner and target, and every file's hash."""
KILLED_AT_S = 8.0
BUSY = 75


@pytest.fixture(scope="module")
def base(room: Path) -> SshBase:
    if reason := ssh_device.missing():
        pytest.skip(f"no device with sshd: {reason}")
    (room / "ssh").mkdir()
    return SshBase(room / "ssh")


@contextmanager
def switched_on(base: SshBase, number: int) -> Iterator[SshDevice]:
    place = base.work / f"device-{number}"
    try:
        with ssh_device.ssh_device(base, place, number) as device, pytest.MonkeyPatch.context() as patch:
            for name, value in device.environment().items():
                patch.setenv(name, value)
            yield device
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def device(base: SshBase) -> Iterator[SshDevice]:
    """A Debian 12 that is on, and no device of ours yet."""
    with switched_on(base, 1 + os.getpid() % 200) as made:
        yield made


@pytest.fixture(scope="module")
def words() -> dict[str, Any]:
    """What setup takes, for a device that has no server."""
    root = Repository(now(), releases=()).root
    authority = "-----BEGIN CERTIFICATE-----\n"
    return {"device": "gw-1", "ca_pem": authority, "root_json_base64": base64.b64encode(root).decode(), "trial_s": 3}


def deb(packages: Path) -> Path:
    (found,) = packages.glob("*.deb")
    return found


def state(device: SshDevice) -> list[str]:
    return sorted(device.machine.run("sh", "-c", LISTED).stdout.splitlines())


def difference(before: list[str], after: list[str]) -> dict[str, list[str]]:
    return {"gone": sorted(set(before) - set(after)), "new": sorted(set(after) - set(before))}


def under_way(device: SshDevice) -> bool:
    """Whether a flash holds the device, or has left something to take back. A script that never began is neither."""
    return any(device.machine.path(f"{HOME}/{name}").exists() for name in ("claim", "phase"))


def holders(device: SshDevice) -> list[str]:
    return device.machine.run("pgrep", "-f", "^sh .*transaction.sh hold", ok=(0, 1)).stdout.split()


NONE: dict[str, list[str]] = {"gone": [], "new": []}


def flash(target: SshTarget, package: Path, words: dict[str, Any]) -> str:
    target.facts()
    target.prepare(lambda *_: None)
    target.install(package)
    target.set_up(words)
    return target.start()


# --- a real fleet


def test_a_running_device_is_flashed_enrols_gets_a_release_commits_it_and_is_let_go(
    fleet: Fleet, packages: Path, base: SshBase
) -> None:
    place, port = base.work / "whole", free_port()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        device = stack.enter_context(ssh_device.ssh_device(base, place, 0, port=port))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in device.environment().items():
            patch.setitem(fleet._environment, name, value)
        words = ("flash", "--packages", str(packages), "--yes")
        planned = fleet.json(*words, "--ssh", device.at(SUDOER), "--id", "ssh-1", "--dry-run")
        assert planned["facts"]["running"]
        assert not device.machine.path(HOME).exists()
        assert not device.machine.path("/usr/lib/beamfleet").exists()

        more = ("--env", f"SENSOR_GATEWAY_PORT={free_port()}", "--trial-s", "2", "-l", "site=ssh")
        done = fleet.json(*words, "--ssh", device.at(SUDOER), "--id", "ssh-1", *more)
        assert (done["device"], done["kind"], done["start"]) == ("ssh-1", "ssh", "its systemd runs it")
        assert not device.machine.path(HOME).exists()
        fleet.wait_online("ssh-1")
        fleet.cli("push", str(examples.tarball("sensor_gateway", "1.0.0")), "--device", "ssh-1", timeout_s=280)
        boot_state = device.machine.path("/var/lib/beamfleet/apps/main/boot/state")
        assert key_values(boot_state)["phase"] == "committed"

        vm = device.machine.path("/run/beamfleet/main/vm.pid").read_text()
        again = fleet.json(*words, "--ssh", device.at(ROOT), "--id", "ssh-1")
        assert again["enrolled"]
        assert device.machine.path("/run/beamfleet/main/vm.pid").read_text() == vm  # the release has run on
        pair = device.machine.path("/var/lib/beamfleet/identity/pair.pem")
        fleet.json(*words[:1], "--yes", "--ssh", device.at(SUDOER), "--remove")
        assert pair.exists()
        assert not device.machine.path("/usr/lib/beamfleet/launcher").exists()
        fleet.json(*words[:1], "--yes", "--ssh", device.at(SUDOER), "--remove", "--wipe")
        assert not pair.exists()
        assert not device.machine.path("/etc/beamfleet").exists()


# --- what goes wrong


def test_each_step_that_fails_leaves_the_device_as_it_was(
    device: SshDevice, packages: Path, words: dict[str, Any]
) -> None:
    before = state(device)
    lock = "import fcntl, sys; file = open('/var/lib/dpkg/lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
    lock += "print('locked'); sys.stdin.read()"
    locking = f"nsenter -t {device.machine._leader} -m -p python3 -uIc".split()
    with subprocess.Popen([*locking, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(FlashError, match="lock") as refused, SshTarget(device.at(SUDOER)) as target:
            flash(target, deb(packages), words)
        holder.communicate()
    assert refused.value.code == "flash.package_failed"
    assert difference(before, state(device)) == NONE

    with pytest.raises(SetupError, match="trial_deadline_s"), SshTarget(device.at(ROOT)) as target:
        flash(target, deb(packages), words | {"trial_deadline_s": 2})
    assert difference(before, state(device)) == NONE

    files = [
        {"path": path, "mode": "0644", "content_base64": base64.b64encode(b"ours").decode()}
        for path in ("/etc/motd", "/srv/new/deep/file")
    ]
    device.machine.path("/etc/motd").write_text("theirs")
    before = state(device)
    with pytest.raises(KeyError), SshTarget(device.at(SUDOER)) as target:  # noqa: PT012
        flash(target, deb(packages), words | {"files": files})
        assert device.machine.path("/etc/motd").read_text() == "ours"
        assert device.machine.path("/srv/new/deep").stat().st_mode & 0o777 == 0o755
        raise KeyError
    assert difference(before, state(device)) == NONE

    drop_in = device.machine.path("/etc/systemd/system/beamfleet-agent.service.d")
    drop_in.mkdir()
    (drop_in / "x.conf").write_text("[Service]\nExecStartPre=/bin/false\n")
    before = state(device)
    with (
        pytest.raises(FlashError, match=r"beamfleet-agent\.service does not start"),
        SshTarget(device.at(SUDOER)) as target,
    ):
        flash(target, deb(packages), words)
    assert difference(before, state(device)) == NONE
    assert device.machine.run("systemctl", "is-active", "beamfleet-launcher", ok=(3, 4)).stdout.strip() == "inactive"


def test_a_failed_flash_of_a_device_of_ours_leaves_its_package_settings_and_release_alone(
    device: SshDevice, packages: Path, words: dict[str, Any]
) -> None:
    with SshTarget(device.at(SUDOER)) as target:
        assert flash(target, deb(packages), words) == "its systemd runs it"
    launcher = device.machine.run("systemctl", "show", "-P", "MainPID", "beamfleet-launcher").stdout
    device.machine.run("systemctl", "stop", "beamfleet-agent")  # it writes, and would differ by what it writes
    before = state(device)
    with pytest.raises(SetupError, match="trial_deadline_s"), SshTarget(device.at(SUDOER)) as target:
        flash(target, deb(packages), words | {"trial_deadline_s": 2})
    assert difference(before, state(device)) == NONE
    assert device.machine.run("systemctl", "show", "-P", "MainPID", "beamfleet-launcher").stdout == launcher
    with SshTarget(device.at(SUDOER)) as one, SshTarget(device.at(ROOT)) as two:
        one.prepare(lambda *_: None)
        assert two._run("hold", "60").code == BUSY


def test_a_device_that_lost_its_network_takes_everything_back_by_itself(
    device: SshDevice, packages: Path, words: dict[str, Any]
) -> None:
    before = state(device)
    with pytest.raises(FlashError) as lost, SshTarget(device.at(SUDOER), lease_s=15) as target:  # noqa: PT012
        target.facts()
        target.install(deb(packages))
        assert device.machine.path("/usr/lib/beamfleet/launcher").exists()
        assert len(holders(device)) == 2, "who counts the seconds, and who hears us"
        device.unplug()
        target.set_up(words)
    assert lost.value.code == "flash.ssh_lost"
    wait_for("the device to take it back", lambda: not device.machine.path(HOME).exists(), deadline_s=300)
    wait_for("nobody to be left who could disturb the next flash", lambda: not holders(device), deadline_s=60)
    assert difference(before, state(device)) == NONE


def test_killed_at_any_point_it_is_taken_back_or_whole_and_the_next_flash_is_right(
    device: SshDevice, packages: Path, words: dict[str, Any]
) -> None:
    before, seed = state(device), secrets.randbits(32)
    program = (
        "import json, pathlib, sys\n"
        "from beamfleet_server.flash.ssh import SshTarget\n"
        "from tests.flash.test_ssh import flash\n"
        "with SshTarget(sys.argv[1]) as target:\n"
        "    flash(target, pathlib.Path(sys.argv[2]), json.load(sys.stdin))\n"
    )
    points = random.Random(seed)  # noqa: S311 (not for secrets)
    for _ in range(3):
        flashing = subprocess.Popen(
            [sys.executable, "-c", program, device.at(SUDOER), str(deb(packages))],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert flashing.stdin
        flashing.stdin.write(json.dumps(words).encode())
        flashing.stdin.close()
        try:
            flashing.wait(points.uniform(0.5, KILLED_AT_S))
        except subprocess.TimeoutExpired:
            flashing.send_signal(signal.SIGKILL)
            flashing.wait()
        wait_for("the device to be done", lambda: not under_way(device), deadline_s=300)
        if not device.machine.path("/etc/beamfleet/agent.toml").exists():
            left = difference(before, state(device))
            assert [line for line in left["gone"] + left["new"] if HOME not in line] == [], f"seed {seed}"
    with SshTarget(device.at(SUDOER)) as target:
        flash(target, deb(packages), words)
    answer = json.loads(device.machine.run("beamfleet-agent", "status", "-o", "json").stdout)
    assert answer["agent"]["version"]
    assert not device.machine.path(HOME).exists()


def test_what_a_power_cut_leaves_half_done_is_taken_back_by_the_next_flash(
    device: SshDevice, packages: Path, words: dict[str, Any]
) -> None:
    before = state(device)
    target = SshTarget(device.at(SUDOER))
    with pytest.raises(FlashError), target:  # noqa: PT012
        target.facts()
        target.install(deb(packages))
        device.close()
        device.machine.cut()
        device.machine.boot()
        device.connect()
        target.set_up(words)
    assert device.machine.path(f"{HOME}/phase").exists()
    with SshTarget(device.at(SUDOER)) as again:
        again.facts()
        assert again.intentions() == ["take back what an interrupted flash has left"]
        again.prepare(lambda *_: None)
        remains = [line for line in difference(before, state(device))["new"] if HOME not in line]
        assert remains == []
        flash(again, deb(packages), words)
    assert not device.machine.path(HOME).exists()


# --- who is not let in


def test_whoever_cannot_become_root_or_does_not_know_the_host_is_refused_with_the_remedy(
    device: SshDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(device)

    def refused(user: str) -> FlashError:
        with pytest.raises(FlashError) as caught, SshTarget(device.at(user)) as target:
            target.facts()
        return caught.value

    asked = refused(ASKED)
    assert (asked.code, "NOPASSWD" in asked.hint) == ("flash.sudo", True)
    for name, value in device.environment(identity=False).items():
        monkeypatch.setenv(name, value)
    denied = refused(SUDOER)
    assert (denied.code, "ssh-copy-id" in denied.hint) == ("flash.ssh_denied", True)
    for name, value in device.environment().items():
        monkeypatch.setenv(name, value)
    known = device.known_hosts.read_text()
    device.known_hosts.write_text("")
    unknown = refused(SUDOER)
    assert (unknown.code, "fingerprint" in unknown.hint) == ("flash.ssh_host_key", True)
    assert device.known_hosts.read_text() == ""
    kind, _ = known.split()[1:]
    other = (device.known_hosts.parent / "other").with_suffix(".key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    device.known_hosts.write_text(f"{device.address} {kind} {other.with_suffix('.key.pub').read_text().split()[1]}\n")
    changed = refused(SUDOER)
    assert (changed.code, "another host key" in changed.message) == ("flash.ssh_host_key", True)
    with pytest.raises(FlashError) as nobody, SshTarget(f"root@127.0.0.1:{free_port()}"):
        pass
    assert nobody.value.code == "flash.ssh_unreachable"
    assert difference(before, state(device)) == NONE


# --- a device without a packager, whose tools are BusyBox's


def test_a_device_without_dpkg_and_with_the_tools_of_busybox_gets_the_files_unpacked(
    device: SshDevice, packages: Path, words: dict[str, Any]
) -> None:
    machine = device.machine
    machine.run("mv", "/var/lib/dpkg", "/var/lib/dpkg.away")
    shutil.copy(str(shutil.which("busybox")), machine.path("/usr/local/bin/busybox"))
    for applet in machine.run("/usr/local/bin/busybox", "--list").stdout.split():
        if applet not in {"busybox", "flock", "setpriv", "login", "su", "adduser", "addgroup"}:
            machine.path(f"/usr/local/bin/{applet}").symlink_to("busybox")
    before = state(device)
    assert machine.run("sh", "-c", "readlink /proc/$$/exe").stdout.strip() == "/usr/local/bin/busybox"

    with pytest.raises(SetupError, match="trial_deadline_s"), SshTarget(device.at(ROOT)) as target:
        flash(target, deb(packages), words | {"trial_deadline_s": 2})
    assert difference(before, state(device)) == NONE
    with SshTarget(device.at(ROOT)) as target:
        assert target.facts().packager == ""
        flash(target, deb(packages), words)
    installed = machine.path("/usr/lib/beamfleet/installed").read_text().splitlines()
    assert "/usr/bin/beamfleet-agent" in installed
    assert machine.run("systemctl", "is-enabled", "beamfleet-agent").stdout.strip() == "enabled"
    with SshTarget(device.at(ROOT)) as target:
        target.facts()
        assert "wiped" in target.remove(wipe=True)[-1]
    remains = difference(before, state(device))["new"]
    assert [line for line in remains if "beamfleet" in line] == []
