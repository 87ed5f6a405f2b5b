"""One device directory with a launcher and no agent, for tests that play the agent's part and murder what they like.

The directory is laid down by the agent's own `setup`; requests go through the agent's own `Boot`. Slots are laid by
`tests.support.release_slots`. A slot that was laid with the arguments `ORDERS` runs what `order` asks of it.
"""

import base64
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from beamfleet_agent.boot import Boot, BootState
from beamfleet_agent.setup import set_up

from tests.support.fleet import APP, Device, FleetError, free_port, wait_for

OLD, NEW = "a" * 32, "b" * 32
_WATCH = """F=fun(F)->case file:rename("order","taken") of ok->spawn(fun()->file:eval("taken") end);_->ok end,\
timer:sleep(50),F(F) end,spawn(fun()->F(F) end)."""
ORDERS = ("-eval", _WATCH)
"""VM arguments with which the VM evaluates the Erlang expressions that it finds as `order` in its data directory."""
_WORDS = {
    "device": "bench", "ca_pem": "BEGIN CERTIFICATE", "single_user": True, "allow_unsafe_filesystem": True,
    "root_json_base64": base64.b64encode(b'{"signed":{"_type":"root"}}').decode(),
}  # fmt: skip


class LauncherDevice(Device):
    """A device whose init runs the launcher alone, and does not restart it.

    `settings` go to launcher.conf over what `setup` writes there; `command` is what runs the launcher's command line.
    """

    def __init__(
        self, root: Path, settings: Mapping[str, str | int] | None = None, command: tuple[str, ...] = ()
    ) -> None:
        super().__init__(root.name, root, free_port())
        ports = {name: str(self.http_port) for name in ("SENSOR_GATEWAY_PORT", "EDGE_HUB_PORT", "LAB_PORT")}
        set_up(str(root), _WORDS | {"env": ports})
        with (root / "etc/beamfleet/launcher.conf").open("a") as conf:
            for key, value in {"trial_deadline_s": 15, **(settings or {})}.items():
                conf.write(f"{key}={value}\n")
        self.app, self.run = root / APP, root / "var/run/beamfleet/main"
        self.boot = Boot(str(self.app), str(self.run))
        self._command = (*command, "sh", str(root / "usr/lib/beamfleet/launcher"), str(root))

    def slot(self, name: str) -> Path:
        """Where a slot lies."""
        return self.app / "slots" / name

    # --- what an init does

    def start(self, *, new_group: bool = False) -> None:
        """Start the launcher."""
        with (self.root / "console.log").open("ab") as log:
            self._init = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=new_group
            )

    def kill(self) -> None:
        """SIGKILL to the launcher."""
        assert self._init is not None
        self._init.kill()
        self._init.wait()

    def stop(self) -> None:
        """TERM to the launcher; it ends cleanly, and nothing of the release stays."""
        super().stop()
        self.until_gone()

    def until_gone(self) -> None:
        """Until nothing runs from the slots; heart takes up to a second to see that its VM has gone."""
        wait_for("the release to be gone", lambda: not self.ours(), deadline_s=5)

    # --- what an agent does

    def until(self, what: str, look: Callable[[BootState], bool], deadline_s: float = 30) -> BootState:
        """The first state that fits."""

        def fits() -> BootState | None:
            state = self.boot.state()
            return state if look(state) else None

        try:
            return wait_for(what, fits, deadline_s=deadline_s)
        except FleetError as error:
            raise FleetError(f"{error}\n{self.boot.state()!r} {self.boot.state().result}\n{self.console()}") from None

    def runs(self, name: str, *, after: int, deadline_s: float = 30) -> BootState:
        """Until a VM start newer than `after` of this slot has run its boot script."""
        return self.until(
            f"{name[0]} to run",
            lambda s: s.slot == name and s.starts > after and self.boot.started(s.starts),
            deadline_s,
        )

    def install(self, name: str = OLD, attempt: int = 1) -> BootState:
        """Swap to a slot and confirm it."""
        after = self.boot.state().starts
        self.boot.request(f"swap {name} {attempt}")
        self.runs(name, after=after)
        self.boot.request(f"confirm {name} {attempt}")
        return self.until("the commit", lambda s: s.phase == "committed" and s.slot == name)

    def outcome(self, line: str) -> str:
        """What the launcher answers to a request."""
        number = self.boot.request(line)
        return self.until(f"an answer to {line}", lambda s: s.last_request == number).result

    def probe(self, kind: str, slot: str, attempt: int) -> tuple[str, int, int]:
        """Ask for a command probe; slot, attempt and exit status in the launcher's answer."""
        before = self.boot.probe_file(kind)
        self.boot.ask_probe(kind, slot, attempt)
        wait_for("an answer", lambda: self.boot.probe_file(kind) != before, deadline_s=20)
        found = self.boot.probe(kind)
        assert found is not None
        return found

    # --- what goes on

    def vm(self) -> int:
        """The pid of the BEAM."""
        pid = self.vm_pid()
        assert pid is not None
        return pid

    def ours(self, program: str = "") -> list[int]:
        """Every process that runs from our slots, or those that run this program of them."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                executable = str((entry / "exe").readlink())
            except OSError:
                continue
            if executable.startswith(f"{self.app}/slots/") and executable.endswith(program):
                found.append(int(entry.name))
        return found

    def inside(self, program: str = "") -> list[int]:
        """Every process that works in the application's directory, the launcher included; or those of a program."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                here, name = (entry / "cwd").readlink(), (entry / "comm").read_text().strip()
            except OSError:
                continue
            if here.is_relative_to(self.app) and program in ("", name):
                found.append(int(entry.name))
        return found

    def order(self, expressions: str) -> None:
        """Have the running VM evaluate Erlang expressions, each with its full stop."""
        made = self.app / "data/order.new"
        made.write_text(expressions)
        made.rename(self.app / "data/order")

    def answers(self, since_ms: int, *, deadline_s: float = 30) -> dict[str, object]:
        """What the service tells, as soon as one answers that began after this time of the boot clock."""

        def young() -> dict[str, object] | None:
            facts = self.http()
            return facts if facts and facts["started_ms"] > since_ms else None

        try:
            return wait_for("the service to answer", young, deadline_s=deadline_s)
        except FleetError as error:
            log = (self.run / "vm.log").read_text(errors="replace")[-2000:]
            raise FleetError(f"{error}\n{self.boot.state()!r}\n{self.console()}\n{log}") from None

    def intervals(self) -> list[tuple[str, int, int, str]]:
        """(event, boot clock in ms, pid, version) of every VM that worked in the data directory."""
        try:
            lines = (line.split() for line in (self.app / "data/intervals.log").read_text().splitlines())
        except FileNotFoundError:
            return []
        return [(event, int(clock), int(pid), version) for event, clock, pid, version in lines]


def boot_clock_ms() -> int:
    """The clock of `intervals.log`: milliseconds since the machine booted."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
