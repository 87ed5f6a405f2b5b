"""Owns flashing a running device over ssh: what it says it is, and a transaction on it that a failure takes back.

The scripts in `remote/` do the work over there. The connection that holds the transaction is the device's sign that we
are there: when it ends without a good-bye, or is silent for a minute, the device takes everything back by itself.
"""

import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from beamfleet_server.flash import agent_setup, ssh_facts, units
from beamfleet_server.flash.checks import TOOLS
from beamfleet_server.flash.contents import contents
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import Problem, TargetFacts
from beamfleet_server.flash.login import Done, Login, clean, pipes
from beamfleet_server.flash.target import Progress

HOME = "/var/lib/beamfleet-flash"
SCRIPT = f"{HOME}/transaction.sh"
LEASE_S = 60
STEP_S = 600
RECOVERY_S = 700
HOLDING_S = 60
_BUSY = 75
_END_OF_SCRIPT = "END-OF-TRANSACTION"
_CODES = {"install": "flash.package_failed"}
_STARTED_BY = {"systemd": "its systemd runs it"}


class SshTarget:
    """A running device, by [USER@]HOST[:PORT]. It takes back what was begun after `lease_s` without a sign of us."""

    def __init__(self, destination: str, lease_s: int = LEASE_S) -> None:
        self._lease_s = lease_s
        self._login = Login(destination)
        self.name = destination
        self._elevated: list[str] | None = None
        self._found: ssh_facts.Found | None = None
        self._holder: subprocess.Popen[bytes] | None = None
        self._beating: threading.Thread | None = None
        self._ended = threading.Event()
        self._begun = self._wiped = False

    def __enter__(self) -> Self:
        self._login.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            if self._holder is not None:
                self._end(error)
        finally:
            self._ended.set()
            if self._holder is not None:
                for stream in (self._holder.stdin, self._holder.stdout):
                    with contextlib.suppress(OSError):
                        if stream:
                            stream.close()
            self._login.close()
            if self._holder is not None:
                self._holder.wait()
            if self._beating is not None:
                self._beating.join()

    # --- looking

    def facts(self) -> TargetFacts:
        """What it says it is, tried out by root where that takes root."""
        script = _script("facts.sh")
        done = self._login.run([*self._root(), "sh", "-s", *sorted(TOOLS)], script)
        self._found = ssh_facts.parse(done.out)
        return self._found.facts

    def problems(self) -> Sequence[Problem]:
        """Nothing that only this kind of target has; a login or sudo that fails is an error."""
        return ()

    def intentions(self) -> Sequence[str]:
        """That what an interrupted flash has left is taken back first."""
        found = self._found
        return ["take back what an interrupted flash has left"] if found and found.unfinished else []

    # --- acting

    def prepare(self, progress: Progress) -> None:  # noqa: ARG002 (nothing takes long here)
        """Take back what an interrupted flash has left, and begin to hold the connection."""
        self._hold()

    def install(self, package: Path) -> None:
        """By the device's packager; where it has none that we know, by unpacking what is in the package."""
        self._hold()
        self._put("init", self._known().init.encode())
        if package.suffix == ".rpm":
            self._put_file("package.rpm", package)
        else:
            held = contents(package)
            self._put("paths", "".join(f"{path}\n" for path in held.paths).encode())
            if package.suffix == ".deb" and self._known().packager == "dpkg":
                self._put_file("package.deb", package)
            else:
                for name, text in units.texts(self._known().init).items():
                    self._put(name, text.encode())
                with tempfile.TemporaryFile() as tar:
                    held.write_tar(tar)
                    self._put("files.tar", tar)
        self._begin()
        self._step("install")

    def set_up(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """`beamfleet-agent setup` over there, its words on standard input."""
        self._begin()
        laid = [str(each.get("path", "")) for each in words.get("files", ())]
        self._put("given", "".join(f"{path}\n" for path in laid if path.isprintable()).encode())
        done = self._run("setup", given=json.dumps(words).encode())
        said = done.out.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return agent_setup.answer(done.code, said, done.err)

    def provision(self, words: Mapping[str, Any]) -> None:
        """Lay down provision.json."""
        self._begin()
        self._put("provision.json", json.dumps(words).encode())
        self._step("provision")

    def seed(self, bundle: Path) -> None:
        """Lay down the first bundle."""
        self._begin()
        self._put_file("seed.bundle", bundle)
        self._step("seed")

    def start(self) -> str:
        """Start agent and launcher, and wait until the agent answers."""
        self._begin()
        self._step("start")
        return _STARTED_BY.get(self._known().init, "its init runs it")

    # --- undoing

    def remove(self, wipe: bool) -> list[str]:
        """Take the agent away; what is wiped goes when all else has been done."""
        self._hold()
        self._begin()
        self._step("remove")
        self._wiped = wipe
        if wipe:
            return ["removed agent, launcher and units", "wiped /etc/beamfleet and /var/lib/beamfleet"]
        return ["removed agent, launcher and units", "kept /etc/beamfleet and /var/lib/beamfleet"]

    # --- the transaction

    def _hold(self) -> None:
        """Lay down the script, wait for the end of what was interrupted, and stay connected."""
        if self._holder is not None:
            return
        laid = f"umask 077\nmkdir -p {HOME} && cat >{SCRIPT}.new <<'{_END_OF_SCRIPT}' && mv -f {SCRIPT}.new {SCRIPT}\n"
        script = laid.encode() + _script("transaction.sh") + f"{_END_OF_SCRIPT}\n".encode()
        done = self._login.run([*self._root(), "sh", "-s"], script)
        if done.code:
            raise FlashError(
                "flash.remote_failed", f"{self.name}: {clean(done.err, 200)}", "can /var/lib be written to?"
            )
        self._step("recover", timeout_s=RECOVERY_S)
        holder = self._login.start([*self._root(), "sh", SCRIPT, "hold", str(self._lease_s)])
        _, out = pipes(holder)
        giving_up = threading.Timer(HOLDING_S, holder.kill)
        giving_up.start()
        held = any(line == b"holding\n" for line in iter(lambda: out.readline(4096), b""))
        giving_up.cancel()
        if not held:
            holder.kill()
            holder.wait()
            raise FlashError("flash.running", f"another flash works on {self.name}", "let it end first")
        self._holder = holder
        self._beating = threading.Thread(target=self._beat, args=(holder,), daemon=True)
        self._beating.start()

    def _beat(self, holder: subprocess.Popen[bytes]) -> None:
        into, _ = pipes(holder)
        with contextlib.suppress(OSError, ValueError):
            while not self._ended.wait(self._lease_s / 6):
                into.write(b"\n")
                into.flush()

    def _begin(self) -> None:
        self._hold()
        if not self._begun:
            self._step("begin")
            self._begun = True

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self._step("wipe" if self._wiped else "keep")
            return
        if isinstance(error, FlashError) and error.code == "flash.ssh_lost":
            return
        try:
            self._step("undo")
        except FlashError as failed:
            text = f"{error}; and it could not be taken back from here: {failed.message}"
            raise FlashError("flash.not_undone", text, failed.hint) from error

    def _step(self, name: str, *words: str, given: bytes | IO[bytes] = b"", timeout_s: float = STEP_S) -> None:
        done = self._run(name, *words, given=given, timeout_s=timeout_s)
        if done.code:
            why, _, hint = done.err.strip().rpartition("\n")[2].partition("\t")
            code = "flash.running" if done.code == _BUSY else _CODES.get(name, "flash.remote_failed")
            raise FlashError(code, f"{self.name}: {why or f'{name} ended with {done.code}'}", hint or "flash again")

    def _run(self, name: str, *words: str, given: bytes | IO[bytes] = b"", timeout_s: float = STEP_S) -> Done:
        return self._login.run([*self._root(), "sh", SCRIPT, name, *words], given, timeout_s)

    def _put(self, name: str, content: bytes | IO[bytes]) -> None:
        if isinstance(content, bytes):
            size = len(content)
        else:
            size = content.seek(0, 2)
            content.seek(0)
        self._step("put", name, str(size), given=content, timeout_s=3600)

    def _put_file(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            self._put(name, file)

    def _known(self) -> TargetFacts:
        return self._found.facts if self._found else self.facts()

    def _root(self) -> list[str]:
        """The words that make a command root's: none, or sudo's. `flash.sudo` when that asks for a password."""
        if self._elevated is None:
            if self._login.run(["id", "-u"]).out.split()[-1:] == [b"0"]:
                self._elevated = []
            else:
                done = self._login.run(["sudo", "-n", "true"])
                if done.code:
                    raise _no_sudo(self.name, done.err)
                self._elevated = ["sudo", "-n"]
        return self._elevated


def _no_sudo(name: str, said: str) -> FlashError:
    line = "USER ALL=(ALL) NOPASSWD: ALL"
    hint = (
        f"log in as root, or put `{line}` into /etc/sudoers.d/beamfleet for as long as it takes (visudo -f checks it)"
    )
    if "password" in said:
        return FlashError("flash.sudo", f"sudo on {name} asks for a password, and nothing is asked here", hint)
    last = said.strip().rpartition("\n")[2] or "it said nothing"
    return FlashError("flash.sudo", f"there is no way to become root on {name}: {last}", hint)


def _script(name: str) -> bytes:
    return (resources.files("beamfleet_server.flash") / "remote" / name).read_bytes()
