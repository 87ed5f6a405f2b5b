"""The shipped launcher on a device in a directory, traced or not, with a stand-in for the VM and one for the agent.

The VM's says "started" and sleeps; the real VM is the affair of the suite `heart` and of tests/system. It runs from the
slot, so that a launcher finds the VM of a dead one as it would find a BEAM.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from beamfleet_agent.boot import Boot, BootState
from beamfleet_agent.paths import Paths

from tests.crash import tracer
from tests.crash.lint import Claim, Rules
from tests.crash.tracer import Call, Fault, Trace
from tests.support.fleet import FleetError, wait_for

OLD, NEW = "a" * 32, "b" * 32
APP = "var/lib/beamfleet/apps/main"
RUN = "var/run/beamfleet/main"
GIVE_UP_S, DEADLINE_S = 3.0, 60.0
START = """#!/bin/sh
: >"$1/var/run/beamfleet/main/app/started.$3"
exec "$2/erts/bin/beam.smp" 600
"""
_SLEEP = shutil.which("sleep") or "/bin/sleep"


def furnish(paths: Paths) -> None:
    """Give a device that was laid down two slots and the stand-in."""
    for name in (OLD, NEW):
        slot = Path(paths.slot(name))
        (slot / "erts/bin").mkdir(parents=True)
        (slot / ".beamfleet").mkdir()
        (slot / ".beamfleet/launch").write_text("kind=systools\n")
        shutil.copy(_SLEEP, slot / "erts/bin/beam.smp")
    Path(paths.lib, "start").write_text(START)


class Bootloader:
    """One device. `goal` is the phase that its update ends in: `committed` or `reverted`."""

    def __init__(self, root: Path, goal: str) -> None:
        self.root, self.goal, self.app = root, goal, root / APP
        self.boot = Boot(str(self.app), str(root / RUN))
        with (root / "etc/beamfleet/launcher.conf").open("a") as conf:
            conf.write("trial_deadline_s=60\nstop_timeout_s=2\n")
        self._command = ["sh", str(root / "usr/lib/beamfleet/launcher"), str(root)]
        self._last_word = f"confirm {NEW} 1" if goal == "committed" else "rollback"
        self._launcher: subprocess.Popen[bytes] | None = None
        self.seen = self.boot.state()
        """The newest state that the agent saw while the launcher was traced."""

    # --- traced

    def traced(
        self,
        fault: Fault | None = None,
        seen: Callable[[Call | None], None] = lambda _call: None,
        filed: Callable[[int, str], None] = lambda _number, _line: None,
        patience_s: float = GIVE_UP_S,
    ) -> Trace:
        """One update up to its goal, or until the fault stopped it; then the launcher is gone, the VM perhaps not.

        `seen` hears of each call before it is made, `filed` of each request that is durable.
        """
        over, launcher = threading.Event(), list[int]()
        agent = threading.Thread(target=self._play, args=(over, launcher, filed, patience_s))

        def heard(pid: int, call: Call | None) -> None:
            if call is None:
                launcher.append(pid)
                agent.start()
            seen(call)

        def become() -> None:
            null, log = (
                os.open(os.devnull, os.O_RDONLY),
                os.open(f"{self.root}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            )
            os.dup2(null, 0), os.dup2(log, 1), os.dup2(log, 2)
            os.closerange(3, 64)
            os.execvp(self._command[0], self._command)  # noqa: S606 - nothing lies between

        trace = tracer.run(become, self.root, fault, heard)
        over.set()
        agent.join()
        return trace

    def _play(
        self, over: threading.Event, launcher: list[int], filed: Callable[[int, str], None], patience_s: float
    ) -> None:
        try:
            self._update(over, filed, patience_s)
            os.kill(launcher[0], signal.SIGTERM)
            if not over.wait(2 * patience_s):
                os.kill(launcher[0], signal.SIGKILL)
        except (FleetError, ProcessLookupError):
            if not over.is_set():
                os.kill(launcher[0], signal.SIGKILL)

    def _update(self, over: threading.Event, filed: Callable[[int, str], None], patience_s: float) -> None:
        def fits(look: Callable[[BootState], bool]) -> bool:
            self.seen = self.boot.state()
            return over.is_set() or look(self.seen)

        def until(look: Callable[[BootState], bool]) -> None:
            wait_for("the launcher", lambda: fits(look), deadline_s=patience_s, every_s=0.005)
            if over.is_set():
                raise FleetError("the launcher is gone")

        def ask(line: str) -> None:
            filed(self.boot.request(line), line)

        until(lambda s: s.slot == OLD and self._up(s) and s.boot_id != "")
        ask(f"swap {NEW} 1")
        until(lambda s: s.slot == NEW and self._up(s))
        ask(self._last_word)
        until(lambda s: s.phase == self.goal and self._up(s))

    # --- not traced

    def install(self) -> None:
        """The first release, on trial and confirmed."""
        self._start()
        try:
            self._until(lambda s: s.slot == OLD and self.boot.started(s.starts))
            self.boot.request(f"confirm {OLD} 1")
            self._until(lambda s: s.phase == "committed" and not self._asked())
        finally:
            self._stop()

    def recover(self) -> BootState:
        """What a new launcher, and an agent that knows what it wanted, make of it. FleetError if they cannot."""
        before = self.boot.state().starts  # a VM may have outlived the launcher: what it left is not the new one's work
        self._start()
        try:
            first = self._settled(before)
            if self.seen.phase == "committed" and self.seen.slot == NEW and first.slot != NEW:
                raise FleetError(f"a commit was lost: {first!r}")
            if first.phase != "reverted":
                self.boot.request(f"swap {NEW} 1")
                self._until(lambda s: s.slot == NEW and self._up(s))
                self.boot.request(self._last_word)
            self._until(lambda s: s.phase == self.goal)
            return self._settled(before)
        finally:
            self._stop()

    def _start(self) -> None:
        with open(f"{self.root}.log", "ab") as log:
            self._launcher = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _stop(self) -> None:
        """FleetError when it does not end, unless something else went wrong before that."""
        assert self._launcher is not None
        first = sys.exception()
        self._launcher.terminate()
        try:
            self._launcher.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
            self._launcher.wait()
            if first is None:
                log = Path(f"{self.root}.log").read_text()
                raise FleetError(
                    f"the launcher did not end in {DEADLINE_S:.0f} s: {self.boot.state()!r}\n{log}"
                ) from None

    def _settled(self, before: int) -> BootState:
        return self._until(lambda s: s.starts > before and self._up(s) and not self._asked())

    def _up(self, state: BootState) -> bool:
        """Whether the VM of this state runs, and not still the one before it."""
        if not self.boot.started(state.starts):
            return False
        current = str((self.app / "current").readlink())
        return current == f"slots/{state.slot}" and self.running() == [state.slot]

    def _asked(self) -> bool:
        return any(path.name.isdecimal() for path in (self.app / "requests").iterdir())

    def _until(self, look: Callable[[BootState], bool]) -> BootState:
        def fits() -> BootState | None:
            state = self.boot.state()
            return state if look(state) else None

        try:
            return wait_for("the launcher", fits, deadline_s=DEADLINE_S, every_s=0.01)
        except FleetError as error:
            log = Path(f"{self.root}.log").read_text()
            raise FleetError(f"{error}: {self.boot.state()!r}, these run: {self.running()}\n{log}") from None

    def running(self) -> list[str]:
        """The slots of the VMs that run."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                executable = str((entry / "exe").readlink())
            except OSError:
                continue
            if executable.startswith(f"{self.app}/slots/"):
                found.append(executable.split("/slots/")[1][:32])
        return found

    def half(self) -> str:
        """What on disk is neither old nor new; empty when all is whole."""
        try:
            whole_state(self.app)
        except ValueError as error:
            return str(error)
        if self.boot.state().slot not in {OLD, NEW}:
            return f"boot/state names {self.boot.state().slot}"
        current = str((self.app / "current").readlink())
        return "" if current in {f"slots/{OLD}", f"slots/{NEW}"} else f"current leads to {current}"


def whole_state(app: Path) -> str:
    """What boot/state says; ValueError when its checksum does not. Error: OSError."""
    data = (app / "boot/state").read_bytes()
    body, _, checksum = data.rpartition(b"checksum=")
    if hashlib.sha256(body).hexdigest().encode() != checksum.strip():
        raise ValueError(f"boot/state is torn: {data!r}")
    return data.decode()


def rules() -> Rules:
    """The state is durable and says so before a VM starts, and before a request is deleted."""
    pointers = {f"{APP}/boot/state", f"{APP}/current"}

    def claims(call: Call) -> list[Claim] | None:
        folder, _, name = call.paths[-1].rpartition("/")
        if call.name == "open" and name.startswith("started."):
            return [Claim(f"{APP}/boot/state", f"\nstarts={name.partition('.')[2]}\n".encode())]
        if call.name == "unlink" and folder == f"{APP}/requests":
            return [Claim(f"{APP}/boot/state", f"\nlast_request={int(name)}\n".encode())]
        return None

    return Rules(
        lasting=lambda path: path in pointers | {f"{APP}/boot", APP},
        pointer=lambda path: path in pointers,
        claims=claims,
    )
