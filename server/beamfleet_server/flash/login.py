"""Owns one login to a running device by the system's own ssh: a master connection, and commands over it.

Everything that the user has set for ssh counts: keys, jump hosts, and which host keys are known. Nothing is ever asked,
and no host key is ever accepted here. What the device prints is bounded. Knows nothing of beamfleet.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from beamfleet_server.flash.errors import FlashError

COMMAND = "BEAMFLEET_SSH_COMMAND"
"""The variable with the ssh to run and its options, words as a shell splits them."""
CONNECT_S = 60
MOST_BYTES = 4 << 20
_LOST = 255
_LAST_PORT = 65_535
_OPTIONS = (
    "BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=4", "Compression=yes",
    "ControlPersist=no", "ForwardAgent=no", "ClearAllForwardings=yes", "RequestTTY=no", "RemoteCommand=none",
    "PermitLocalCommand=no", "LogLevel=ERROR",
)  # fmt: skip
_ADDRESS = re.compile(
    r"(?:(?P<user>[^@\s-][^@\s]*)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^@:\s\[\]-][^@:\s\[\]]*)(?::(?P<port>\d+))?"
)
_BARE_V6 = re.compile(r"(?:(?P<user>[^@\s-][^@\s]*)@)?(?P<host>[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)")
_WORD = re.compile(r"[A-Za-z0-9_./=+-]+")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command on the device ended, and what it said."""

    code: int
    out: bytes
    err: str


class Login:
    """`open`, then `run` and `start`, then `close`."""

    def __init__(self, destination: str) -> None:
        match = _BARE_V6.fullmatch(destination) or _ADDRESS.fullmatch(destination)
        if match is None:
            text = f"{destination!r} is no place to log in to"
            raise FlashError("flash.ssh_address", text, "give [USER@]HOST[:PORT]; an IPv6 address in brackets")
        found = match.groupdict()
        self._port = int(found.get("port") or 0)
        if found.get("port") and not 0 < self._port <= _LAST_PORT:
            raise FlashError("flash.ssh_address", f"{found['port']} is no port", f"give one of 1 to {_LAST_PORT}")
        self.user, self.host = found["user"] or "", str(found["host"]).strip("[]")
        self._destination = [
            *(["-l", self.user] if self.user else []),
            *(["-p", str(self._port)] if self._port else []),
        ]
        self._place: Path | None = None
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Log in. `flash.ssh_unreachable`, `flash.ssh_host_key`, `flash.ssh_denied`, `flash.tool`."""
        self._place = Path(tempfile.mkdtemp(prefix="beamfleet-ssh-", dir=_short_directory()))
        try:
            self._master = self._ssh(["-M"], ["cat"])
        except FlashError:
            self.close()
            raise
        heard = bytearray()
        errors = _Reader(self._master.stderr, self._master)
        giving_up = threading.Timer(CONNECT_S, self._master.kill)
        giving_up.start()
        try:
            into, out = pipes(self._master)
            with contextlib.suppress(BrokenPipeError):
                into.write(b"\nbeamfleet\n")
                into.flush()
            while line := out.readline(4096):
                heard += line
                if line == b"beamfleet\n":
                    return
                if len(heard) > MOST_BYTES:
                    break
        finally:
            giving_up.cancel()
        self._master.kill()
        self._master.wait()
        said = errors.text()
        self.close()
        raise _refusal(self.host, self.user, self._port, said)

    def run(self, words: Sequence[str], given: bytes | IO[bytes] = b"", timeout_s: float = 120) -> Done:
        """Run a command of simple words, with standard input. `flash.ssh_lost` when the connection is no more."""
        process = self._ssh(["-o", "ControlMaster=no", "-o", "ProxyCommand=false"], words)
        out, err = _Reader(process.stdout, process), _Reader(process.stderr, process)
        giving_up = threading.Timer(timeout_s, process.kill)
        giving_up.start()
        try:
            into, _ = pipes(process)
            with contextlib.suppress(BrokenPipeError), into:
                if isinstance(given, bytes):
                    into.write(given)
                else:
                    shutil.copyfileobj(given, into, 1 << 18)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            giving_up.cancel()
        said = Done(code, out.content(), err.text())
        if code == _LOST or code < 0:
            raise self.lost()
        return said

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """The same, not waited for: its input and output are the caller's."""
        return self._ssh(["-o", "ControlMaster=no", "-o", "ProxyCommand=false"], words, errors=subprocess.DEVNULL)

    def lost(self) -> FlashError:
        """That the connection has ended."""
        hint = "the device takes back by itself, within two minutes, what was begun; then flash again"
        return FlashError("flash.ssh_lost", f"the connection to {self.host} is lost", hint)

    def close(self) -> None:
        """End the connection and everything over it."""
        if self._master is not None:
            for stream in (self._master.stdin, self._master.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()
            try:
                self._master.wait(10)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
            self._master = None
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)
            self._place = None

    def _ssh(
        self, options: Sequence[str], words: Sequence[str], errors: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        if self._place is None or not all(_WORD.fullmatch(word) for word in words):
            raise ValueError(words)
        settings = [part for each in _OPTIONS for part in ("-o", each)]
        program = _program()
        command = [*program, "-T", "-S", str(self._place / "s"), *settings, *options, *self._destination]
        try:
            return subprocess.Popen(
                [*command, "--", self.host, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                start_new_session=True,  # what interrupts us does not end the connection by which we take back
            )  # fmt: skip
        except OSError as error:
            text = f"{program[0]} cannot be run: {error.strerror}"
            raise FlashError("flash.tool", text, f"install openssh-client, or set {COMMAND}") from None


def _program() -> list[str]:
    """The ssh to run and its options."""
    try:
        return shlex.split(os.environ.get(COMMAND, "")) or ["ssh"]
    except ValueError as error:
        hint = f"set {COMMAND} as a shell would read it, such as: ssh -F FILE"
        raise FlashError("flash.tool", f"{COMMAND} makes no words: {str(error).lower()}", hint) from None


def pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output of a process that was started with both."""
    if process.stdin is None or process.stdout is None:
        raise ValueError(process.args)
    return process.stdin, process.stdout


class _Reader:
    """Reads all that a process says, and ends it when that is too much."""

    def __init__(self, stream: Any, process: subprocess.Popen[bytes]) -> None:
        self._stream, self._process, self._kept = stream, process, bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._stream:
            while piece := self._stream.read1(1 << 16):
                self._kept += piece
                if len(self._kept) > MOST_BYTES:
                    self._process.kill()
                    return

    def content(self) -> bytes:
        self._thread.join(10)
        return bytes(self._kept)

    def text(self) -> str:
        return clean(self.content().decode("utf-8", "replace"))


def clean(text: str, most: int = 2000) -> str:
    """Text of a device for a terminal: nothing that moves the cursor, and its end when it is long."""
    lines = (
        "".join(each if each.isprintable() or each == "\t" else " " for each in line) for line in text.splitlines()
    )
    return "\n".join(lines)[-most:]


def _short_directory() -> str | None:
    """Sockets have short names: /tmp where the usual place is deep."""
    return "/tmp" if len(tempfile.gettempdir()) > 48 else None  # noqa: S108 (mkdtemp makes a private one)


def _refusal(host: str, user: str, port: int, said: str) -> FlashError:
    """Why ssh ended before there was a connection, from its words in English."""
    words = f"{f'-p {port} ' if port else ''}{f'{user}@' if user else ''}{host}"
    last = said.strip().rpartition("\n")[2] or "ssh ended without a word, or after a minute"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        known = f"'[{host}]:{port}'" if port not in (0, 22) else host
        hint = f"if the device was installed anew: ssh-keygen -R {known}, then log in once and compare its fingerprint"
        return FlashError("flash.ssh_host_key", f"{host} has another host key than it had", hint)
    if "Host key verification failed" in said or "host key is known for" in said:
        hint = f"log in once with `ssh {words}` and compare the fingerprint with the device's, or add it to known_hosts"
        return FlashError("flash.ssh_host_key", f"the host key of {host} is not known here", hint)
    if "Permission denied" in said or "Too many authentication failures" in said:
        words = words if user else f"{f'-p {port} ' if port else ''}USER@{host}"
        hint = f"nothing is asked here: lay down a key with ssh-copy-id {words}, or load it with ssh-add"
        return FlashError("flash.ssh_denied", f"{host} lets nobody in: {last}", hint)
    return FlashError("flash.ssh_unreachable", f"{host} cannot be reached by ssh: {last}", f"does `ssh {words}` work?")
