"""A machine with real systemd in a systemd-nspawn container: boots in about a second, is cut, rebooted, looked into.

Knows nothing of beamfleet. A machine is a directory `base`, a root file system that is never written to, and a `room`
where what the machine writes lies: an overlay, and a small ext4 with a journal for `disk`, a mount point inside.
It shares neither mounts nor cgroups with the host, and its network only if it is to. Everything that it mounts lives in
a mount namespace of its own, so that nothing is left when its processes are gone. Those are found by its own cgroups
and ended there.

boot -> (run, path, until)* -> reboot | power_off | cut -> boot ... -> close
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.fleet import FleetError, T, wait_for

DISK_MIB = 192
NSPAWN_PLACE = Path("/run/systemd/nspawn")
_TOOLS = {
    "systemd-nspawn": "systemd-container", "unshare": "util-linux", "nsenter": "util-linux", "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
}  # fmt: skip
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START = """
for cgroup in $CGROUPS; do echo $$ >"$cgroup/cgroup.procs"; done
mount -t tmpfs none "$PLACE"
mount -t overlay -o "lowerdir=$BASE,upperdir=$ROOM/upper,workdir=$ROOM/work" none "$ROOM/root"
mount -o loop "$ROOM/disk" "$ROOM/mounted"
exec systemd-nspawn --quiet --boot --register=no --keep-unit $NETWORK --notify-ready=yes --console=pipe \
  --link-journal=no --resolv-conf=off --timezone=off --machine="$NAME" --directory="$ROOM/root" \
  --bind="$ROOM/mounted:$DISK"
"""


class MachineError(Exception):
    """The machine did not do what it had to; the text says what, with its console or the command's output."""


def missing() -> str:
    """Why no machine can be had here; "" when one can."""
    if os.geteuid() != 0:
        return "only root can start a container"
    if lacking := sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None}):
        return f"missing Debian packages: {' '.join(lacking)}"
    try:
        NSPAWN_PLACE.mkdir(parents=True, exist_ok=True)
        with _cgroups(f"beamfleet-probe-{os.getpid()}"):
            pass
    except (OSError, MachineError) as error:
        return f"no cgroup of its own: {error}"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    overlay = "mkdir l u w r && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none r"
    tried = f"mount -t tmpfs none /mnt && cd /mnt && {overlay}"
    probe = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", tried],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if probe.returncode == 0 else f"no mounts of its own: {probe.stderr.strip()}"


class Machine:
    """One container. `disk` is the directory inside that is an ext4 of DISK_MIB.

    With `network` it has the host's. With `like`, the room of a machine of the same base that is off, it begins as that
    one ended.
    """

    def __init__(
        self, base: Path, room: Path, name: str, disk: str, like: Path | None = None, network: bool = False
    ) -> None:
        self.name = name
        self._room, self._base, self._disk = room, base, disk
        self._network = "" if network else "--private-network"
        for part in ("work", "root", "mounted"):
            (room / part).mkdir(parents=True)
        if like:
            subprocess.run(["cp", "-a", "--sparse=always", like / "upper", like / "disk", room], check=True)
        else:
            (room / "upper").mkdir()
            with (room / "disk").open("wb") as image:
                image.truncate(DISK_MIB << 20)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", room / "disk"], check=True, stdin=subprocess.DEVNULL)
        self.unified = False
        """Whether the next boot finds nothing but a cgroup2, as systemd 256 and newer want."""
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._stack = contextlib.ExitStack()
        self._groups = self._stack.enter_context(_cgroups(f"beamfleet-{os.getpid()}-{secrets.token_hex(4)}"))

    # --- power

    def boot(self, deadline_s: float = 240) -> None:
        """Start it, and wait until its systemd says that it has started everything."""
        assert self._process is None, "it is on"
        wait_for("the disk to be free", lambda: not self._loops(), deadline_s=90)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind("")  # an abstract address of the kernel's choice
            environment = {
                "PATH": _PATH,
                "NOTIFY_SOCKET": "@" + listener.getsockname()[1:].decode(),
                "CGROUPS": " ".join(map(str, self._groups)),
                "PLACE": str(NSPAWN_PLACE),
                "BASE": str(self._base),
                "ROOM": str(self._room),
                "DISK": self._disk,
                "NETWORK": self._network,
                "NAME": self.name,
            }
            with (self._room / "console.log").open("ab") as console:
                self._process = subprocess.Popen(
                    ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _START],
                    env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                )  # fmt: skip
            try:
                self._leader = self._until_ready(listener, deadline_s)
            except MachineError:
                self.cut()
                raise

    def _until_ready(self, listener: socket.socket, deadline_s: float) -> int:
        assert self._process is not None
        leader, end = 0, time.monotonic() + deadline_s
        listener.settimeout(0.5)
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise MachineError(f"{self.name} ended with {self._process.returncode}\n{self.console()}")
            with contextlib.suppress(TimeoutError):
                for line in listener.recv(4096).decode().splitlines():
                    key, _, value = line.partition("=")
                    if key == "X_NSPAWN_LEADER_PID":
                        leader = int(value)
                    elif key == "READY" and leader:
                        return leader
        raise MachineError(f"{self.name} was not ready in {deadline_s:.0f} s\n{self.console()}")

    def reboot(self, deadline_s: float = 120) -> None:
        """`systemctl reboot` inside: units are stopped in order, and it boots again."""
        self._shut_down("reboot", deadline_s)
        self.boot()

    def power_off(self, deadline_s: float = 120) -> None:
        """`systemctl poweroff` inside."""
        self._shut_down("poweroff", deadline_s)

    def _shut_down(self, verb: str, deadline_s: float) -> None:
        assert self._process is not None
        self.run("systemctl", "--no-block", verb)
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise MachineError(f"{self.name} did not {verb} in {deadline_s:.0f} s\n{self.console()}") from None
        self.cut()

    def cut(self) -> None:
        """SIGKILL to every process of the machine at once. Its page cache survives: this is no test of a disk."""
        if self._process is None:
            return
        wait_for("the machine's processes to be gone", lambda: not self._kill(), deadline_s=90, every_s=0.02)
        self._process.wait()
        self._process, self._leader = None, 0

    def close(self) -> None:
        """Off, and nothing of it left but the room."""
        self.cut()
        self._stack.close()
        wait_for("the disk to be free", lambda: not self._loops(), deadline_s=90)

    @property
    def on(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    # --- looking and acting inside

    def run(
        self, *command: str, user: str = "", stdin: str = "", ok: Sequence[int] = (0,), timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root or `user`, inheriting nothing; MachineError unless it exits with one of `ok`."""
        if user:
            command = ("setpriv", "--reuid", user, "--regid", user, "--init-groups", *command)
        done = subprocess.run(
            ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C",
             "env", "-i", f"PATH={_PATH}", "HOME=/root", "LC_ALL=C.UTF-8", *command],
            input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        if done.returncode not in ok:
            said = f"{done.stdout}{done.stderr}"
            raise MachineError(f"{shlex.join(command)}: exit {done.returncode}, not {list(ok)}\n{said}")
        return done

    def pids(self) -> set[int]:
        """The processes of the machine, as the host counts them."""
        return {int(pid) for group in self._groups for pid in _members(group)}

    def path(self, inside: str) -> Path:
        """A path inside as the host reaches it while the machine is on; never follow an absolute link there."""
        return Path(f"/proc/{self._leader}/root", inside.lstrip("/"))

    def until(self, what: str, look: Callable[[], T | None], deadline_s: float = 240) -> T:
        """The first true answer of `look`; MachineError with the end of the journal when there is none in time."""
        try:
            return wait_for(what, look, deadline_s=deadline_s, every_s=0.1)
        except FleetError as error:
            raise MachineError(f"{self.name}: {error}\n{self.journal()}") from None

    def journal(self, lines: int = 80) -> str:
        """The newest lines of the journal of this boot, or of the console when there is none to be had."""
        if self.on:
            with contextlib.suppress(MachineError, subprocess.TimeoutExpired):
                return self.run("journalctl", "-b", "-n", str(lines), "--no-pager", timeout_s=20).stdout
        return self.console(lines)

    def console(self, lines: int = 60) -> str:
        """The newest lines of the console, over all boots."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join((self._room / "console.log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _kill(self) -> bool:
        """Whether there still was something to kill."""
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.poll()
        return bool(pids)

    def _loops(self) -> str:
        listed = subprocess.run(
            ["losetup", "-j", str(self._room / "disk")], capture_output=True, text=True, check=False
        )  # fmt: skip
        return listed.stdout


@contextlib.contextmanager
def _cgroups(name: str) -> Iterator[list[Path]]:
    """A cgroup `name` in each hierarchy that systemd keeps its processes in, removed at the end."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(maxsplit=2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            mounts.append(Path(fields.split()[4]))
    if not mounts:
        raise MachineError("no hierarchy of cgroups is mounted that systemd could use")
    groups = [mount / name for mount in mounts]
    try:
        for group in groups:
            group.mkdir()
        yield groups
    finally:
        for group in groups:
            for directory, _, _ in os.walk(group, topdown=False):
                _remove(Path(directory))


def _remove(group: Path) -> None:
    """A cgroup stays busy for a moment after its last process."""

    def removed() -> bool:
        try:
            group.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    wait_for(f"{group.name} to be empty", removed, deadline_s=60, every_s=0.02)


def _members(group: Path) -> Iterator[str]:
    for directory, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            yield from (Path(directory) / "cgroup.procs").read_text().split()
