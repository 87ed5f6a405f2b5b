"""A running Debian 12 to be flashed over ssh: a container with sshd, a network of two, and users who may and may not.

`SshBase` makes the root once, with users and the key that all of them let in. `SshDevice` is one machine of it,
reachable at `address` from here and from nowhere else. The device reaches this host at `gateway`.
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from beamfleet_server.flash.login import COMMAND

from tests.support import nspawn, rootfs
from tests.support.nspawn import Machine

PACKAGES = ("openssh-server", "sudo")
ROOT, SUDOER, ASKED = "root", "pi", "clerk"
"""root; a user whose sudo asks for nothing; one whose sudo asks for a password."""
_SUDO = f"{SUDOER} ALL=(ALL) NOPASSWD: ALL\n{ASKED} ALL=(ALL) ALL\n"


def missing() -> str:
    """Why there can be no such device here; "" when there can."""
    tools = {"ssh": "openssh-client", "ssh-keygen": "openssh-client", "ip": "iproute2"}
    if lacking := sorted({package for tool, package in tools.items() if shutil.which(tool) is None}):
        return f"missing Debian packages: {' '.join(lacking)}"
    return rootfs.missing() or nspawn.missing()


class SshBase:
    """The root that all machines share, and what is needed to log in to them."""

    def __init__(self, work: Path) -> None:
        self.work, self.root = work, work / "base"
        rootfs.unpack(self.root, PACKAGES)
        self.key = work / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        for user in (SUDOER, ASKED):
            self._chroot("useradd", "--create-home", "--shell", "/bin/bash", user)
            self._chroot("usermod", "--password", "*", user)
        for user, place in ((ROOT, "/root"), (SUDOER, f"/home/{SUDOER}"), (ASKED, f"/home/{ASKED}")):
            keys = self.root / place.lstrip("/") / ".ssh"
            keys.mkdir(mode=0o700, exist_ok=True)
            (keys / "authorized_keys").write_bytes(self.key.with_suffix(".pub").read_bytes())
            self._chroot("chown", "-R", f"{user}:{user}", f"{place}/.ssh")
        (self.root / "etc/sudoers.d/test").write_text(_SUDO)
        (self.root / "etc/sudoers.d/test").chmod(0o440)
        self._bashrc()

    def _bashrc(self) -> None:
        """A login that is talkative, as some are."""
        bashrc = self.root / f"home/{SUDOER}/.bashrc"
        bashrc.write_text('echo "arch=toaster"; echo "welcome back" >&2\n')

    def host_key(self) -> str:
        """The public key of sshd."""
        kind, key, *_ = (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        return f"{kind} {key}"

    def _chroot(self, *command: str) -> None:
        subprocess.run(["chroot", self.root, *command], check=True, capture_output=True, stdin=subprocess.DEVNULL)


class SshDevice:
    """A machine that is on, with sshd at `address`."""

    def __init__(self, machine: Machine, base: SshBase, place: Path, number: int, port: int = 0) -> None:
        self.machine = machine
        self.gateway, self.address = f"10.213.{number}.1", "127.0.0.1" if port else f"10.213.{number}.2"
        self._port = port
        self._base, self._place, self._link = base, place, f"bfssh{number}"
        self.known_hosts, self._settings = place / "known_hosts", place / "ssh_config"

    def connect(self) -> None:
        """Lay the cable, and know the device's key."""
        place = f"[{self.address}]:{self._port}" if self._port else self.address
        self.known_hosts.write_text(f"{place} {self._base.host_key()}\n")
        self._settings.write_text(
            f"Host *\n IdentityFile {self._base.key}\n IdentitiesOnly yes\n UserKnownHostsFile {self.known_hosts}\n"
            " GlobalKnownHostsFile /dev/null\n"
        )
        if self._port:
            return
        leader = str(self.machine._leader)
        for command in (
            ["ip", "link", "add", self._link, "type", "veth", "peer", "name", "host0", "netns", leader],
            ["ip", "address", "add", f"{self.gateway}/30", "dev", self._link],
            ["ip", "link", "set", self._link, "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        self.machine.run("ip", "address", "add", f"{self.address}/30", "dev", "host0")
        self.machine.run("ip", "link", "set", "host0", "up")
        self.machine.run("ip", "link", "set", "lo", "up")

    def unplug(self) -> None:
        """Take the cable away: from now on not a packet passes, and nobody is told."""
        subprocess.run(["ip", "link", "set", self._link, "down"], check=True, capture_output=True)

    def plug_in(self) -> None:
        """Lay it again."""
        subprocess.run(["ip", "link", "set", self._link, "up"], check=True, capture_output=True)

    def close(self) -> None:
        """Take the cable away for good, before the machine ends."""
        subprocess.run(["ip", "link", "delete", self._link], check=False, capture_output=True)

    def at(self, user: str) -> str:
        """What --ssh takes."""
        return f"{user}@{self.address}{f':{self._port}' if self._port else ''}"

    def environment(self, *, identity: bool = True) -> Mapping[str, str]:
        """With which `beamfleet` finds this device's key and its own."""
        more = ["-F", str(self._settings), *([] if identity else ["-o", "PubkeyAuthentication=no"])]
        return {COMMAND: shlex.join(["ssh", *more])}


@contextmanager
def ssh_device(base: SshBase, place: Path, number: int, port: int = 0) -> Iterator[SshDevice]:
    """A device that is on; off and gone at the end. With `port` it has this host's network, and sshd there."""
    place.mkdir(parents=True)
    machine = Machine(base.root, place / "machine", "device", "/var/lib/beamfleet", network=bool(port))
    if port:
        settings = place / "machine/upper/etc/ssh/sshd_config.d/port.conf"
        settings.parent.mkdir(parents=True)
        settings.write_text(f"ListenAddress 127.0.0.1:{port}\n")
    device = SshDevice(machine, base, place, number, port)
    try:
        machine.boot()
        device.connect()
        yield device
    finally:
        device.close()
        machine.close()
