"""One device with a real release under heart, a launcher and no agent: murdered in every way, timed by the boot clock.

`give` lays a slot, `serve` brings the device up with a committed release, `absence` tells how long the service was away
after something happened to it, `alone` is the proof that no two VMs overlapped. `clear` ends whatever is left, by pid.
"""

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from beamfleet_agent.boot import BootState

from tests.support import release_slots
from tests.support.fleet import Device, FleetError, wait_for
from tests.support.launcher_device import OLD, ORDERS, LauncherDevice, boot_clock_ms
from tests.support.release_slots import Releases

PRODUCTS = {"relx": "sensor_gateway", "mix": "edge_hub"}
SUPERVISORS = {"relx": "sensor_gateway_sup", "mix": "'Elixir.EdgeHub.Supervisor'"}
APPLICATION_BEAMS = {
    "relx": "lib/sensor_gateway-{0}/ebin/sensor_gateway_app.beam",
    "mix": "lib/edge_hub-{0}/ebin/Elixir.EdgeHub.Application.beam",
}
_MODULES = {"relx": "sensor_gateway_app", "mix": "'Elixir.EdgeHub.Application'"}
TRIAL_S = 60
"""Long enough for a boot on a machine that has other things to do."""
BOOT_MS = 3000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Absence:
    """From what happened to the next answer, in milliseconds: until the VM had ended, from then until the next one was
    started, from then until the service had begun."""

    noticed_ms: int
    down_ms: int
    boot_ms: int

    def __str__(self) -> str:
        total = self.noticed_ms + self.down_ms + self.boot_ms
        return f"away {total} ms (VM ended after {self.noticed_ms}, started after {self.down_ms}, up in {self.boot_ms})"


class HeartDevice(LauncherDevice):
    """A device in a directory whose slots hold releases of one kind, `relx` or `mix`.

    `app_user` is the number of the user that the release runs as, 0 for the only user there is.
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        releases: Releases,
        settings: Mapping[str, str | int] | None = None,
        command: tuple[str, ...] = (),
        app_user: int = 0,
    ) -> None:
        more: dict[str, str | int] = {"app_user": app_user} if app_user else {}
        super().__init__(root, {"trial_deadline_s": TRIAL_S, **(settings or {}), **more}, command)
        self.kind, self.product, self.app_user = kind, PRODUCTS[kind], app_user
        self._releases = releases
        if app_user:
            self._part(app_user)

    def _part(self, user: int) -> None:
        """Give the release's user what `setup` gives it on a device with users."""
        for place in (self.app / "data", self.app / "dump", self.run / "app"):
            place.mkdir(parents=True, exist_ok=True)
            os.chown(place, user, user)
        os.chown(self.root / "etc/beamfleet/app.env", 0, user)

    def give(
        self,
        name: str,
        version: str = "1.0.0",
        *,
        arguments: Sequence[str] = ORDERS,
        replaced: Mapping[str, bytes] | None = None,
    ) -> Path:
        """Lay the slot `name`: this version of the example, with further VM arguments and replaced files."""
        release_slots.lay(
            self._releases.slot(self.product, version), self.slot(name), arguments=arguments, replaced=replaced
        )
        return self.slot(name)

    def written(self, version: str) -> Path:
        """The slot that `give` copies from; read-only."""
        return self._releases.slot(self.product, version)

    def serve(self) -> int:
        """Start the launcher, and have 1.0.0 committed and answering; the number of its start."""
        self.give(OLD)
        self.start()
        self.boot.request(f"swap {OLD} 1")
        self.runs(OLD, after=0, deadline_s=TRIAL_S)
        assert self.outcome(f"confirm {OLD} 1") == "ok"
        self.answers(0)
        return self.boot.state().starts

    def set(self, **settings: str | int) -> None:
        """Give the launcher other settings; it is stopped and started for them."""
        before = self.boot.state().starts
        self.stop()
        with (self.root / "etc/beamfleet/launcher.conf").open("a") as conf:
            conf.writelines(f"{key}={value}\n" for key, value in settings.items())
        self.start()
        self.runs(OLD, after=before, deadline_s=60)
        self.answers(0)

    def start_all(self) -> None:
        """Start launcher and agent, and have them restarted, by the script that stands for the init."""
        Device.start(self)

    # --- what is looked at

    def until(self, what: str, look: Callable[[BootState], bool], deadline_s: float = 60) -> BootState:
        """The first state that fits; a failure shows what the release said last."""
        try:
            return super().until(what, look, deadline_s)
        except FleetError as error:
            with contextlib.suppress(FileNotFoundError):
                raise FleetError(f"{error}\n{(self.run / 'vm.log').read_text(errors='replace')[-2000:]}") from None
            raise

    def runs(self, name: str, *, after: int, deadline_s: float = 60) -> BootState:
        """Until a VM start newer than `after` of this slot has run its boot script."""
        return super().runs(name, after=after, deadline_s=deadline_s)

    def answers(self, since_ms: int, *, deadline_s: float = 90) -> dict[str, object]:
        """What the service tells, as soon as one answers that began after this time of the boot clock."""
        return super().answers(since_ms, deadline_s=deadline_s)

    def back_ms(self, since_ms: int) -> int:
        """How long it took until a service had begun that answers. A boot counts as BOOT_MS at most: how much longer it
        takes is the affair of the machine and of what else it does."""
        facts = self.answers(since_ms)
        pid, begun_ms = facts["os_pid"], facts["started_ms"]
        assert isinstance(pid, int)
        assert isinstance(begun_ms, int)
        return min(begun_ms, process_started_ms(pid) + BOOT_MS) - since_ms

    def absence(self, happen: Callable[[], None], deadline_s: float = 90) -> Absence:
        """Have something happen to the running VM, and see the service back."""
        before, happened_ms = self.vm(), boot_clock_ms()
        happen()
        wait_for(f"VM {before} to end", lambda: ended(before), deadline_s=deadline_s, every_s=0.01)
        ended_ms = boot_clock_ms()
        facts = self.answers(happened_ms, deadline_s=deadline_s)
        pid, begun_ms = facts["os_pid"], facts["started_ms"]
        assert isinstance(pid, int)
        assert isinstance(begun_ms, int)
        started_ms = process_started_ms(pid)
        return Absence(ended_ms - happened_ms, max(0, started_ms - ended_ms), begun_ms - started_ms)

    def alone(self) -> None:
        """No VM ever found another at work, each had ended when the next began, and one runs now."""
        working = 0
        for event, clock, pid, version in self.intervals():
            told = f"{event} {clock} {pid} {version}"
            if event == "start":
                assert pid == working or ended_before(working, clock), f"{told}: {working} was still there"
                working = pid
            else:
                assert event == "stop", f"two VMs at the same time: {told}"
                assert pid == working, f"{told}: but {working} has the lock"
        assert self.ours("/beam.smp") == [self.vm()]

    def heart(self) -> int:
        """The pid of the heart of the running VM."""
        (pid,) = self.ours("/heart")
        return pid

    def keepers(self) -> list[int]:
        """The launcher and every process of it between itself and the VM: those that would reap it."""
        pid, chain, launcher = parent(self.vm()), list[int](), self.launcher_pid()
        while pid != launcher:
            assert pid > 1, f"the VM does not descend from the launcher {launcher}, but from {chain}"
            chain.append(pid)
            pid = parent(pid)
        return [pid, *chain]

    def names(self) -> list[str]:
        """The names of the programs that work in the application's directory."""
        found = []
        for pid in working_in(self.app):
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/comm").read_text().strip())
        return found

    # --- the end

    def left(self) -> list[int]:
        """Every process that runs from the slots, works in the device's directory or belongs to the release's user."""
        return sorted({*self.ours(), *working_in(self.root), *of_user(self.app_user)})

    def clear(self) -> None:
        """End launcher and release, whoever started them; FleetError when that had to be forced."""
        Device.stop(self)
        if foster := self.launcher_pid():  # heart may have started it
            os.kill(foster, signal.SIGTERM)
            wait_for("the launcher to end", lambda: ended(foster), deadline_s=30)
        with contextlib.suppress(FleetError):
            wait_for("everything of it to be gone", lambda: not self.left(), deadline_s=20)
        left = self.left()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            raise FleetError(f"these outlived their launcher: {left}\n{self.console()}")


def ended(pid: int) -> bool:
    """Whether a process is gone; a zombie is."""
    return _stat(pid)[:1] in ([], ["Z"], ["X"])


def ended_before(pid: int, clock_ms: int) -> bool:
    """Whether no process that was there at this time of the boot clock has the pid now."""
    fields = _stat(pid)
    return not fields or fields[0] in "ZX" or process_started_ms(pid) > clock_ms


def process_started_ms(pid: int) -> int:
    """When a process was forked, by the boot clock."""
    return int(_stat(pid)[19]) * 1000 // _TICKS_PER_S


def parent(pid: int) -> int:
    """The pid of a process's parent."""
    return int(_stat(pid)[1])


def descendants(pid: int) -> list[int]:
    """Every child of a process, their children, and so on."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def of_user(user: int) -> list[int]:
    """Every process of this user; none for 0."""
    found = []
    for entry in Path("/proc").glob("[0-9]*") if user else ():
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == user and not ended(int(entry.name)):
                found.append(int(entry.name))
    return found


def working_in(root: Path) -> list[int]:
    """Every process whose working directory is `root` or below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(root):
                found.append(int(entry.name))
    return found


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on (field 3); [] when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def application(kind: str, version: str, start: str) -> dict[str, bytes]:
    """Replaced files: an application whose start/2 does this Erlang body."""
    return {APPLICATION_BEAMS[kind].format(version): _compiled(_MODULES[kind], start)}


@functools.cache
def _compiled(module: str, start: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"{module.strip(chr(39))}.erl")
        source.write_text(f"-module({module}).\n-export([start/2, stop/1]).\nstart(_, _) -> {start}.\nstop(_) -> ok.\n")
        subprocess.run(["erlc", "-o", folder, source], check=True, capture_output=True)
        return source.with_suffix(".beam").read_bytes()
