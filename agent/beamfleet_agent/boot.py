"""The agent's side of the launcher: reads `boot/state`, files requests, rings the doorbell, notices changes.

The launcher alone writes `boot/`; what stands there is the truth about which release runs. The agent asks through
`requests/` (temporary file, fsync, rename, fsync of the directory), rings, and learns the outcome from `boot/state`.
Nothing here polls: `watch` has the kernel signal a change of the directory.
"""

import fcntl
import os
import signal
from typing import Any

from beamfleet_agent import plain_file
from beamfleet_agent.errors import AgentError
from beamfleet_agent.update_state import Ground

FIELDS = (
    "format", "slot", "previous", "phase", "attempt", "boots", "power_losses", "starts",
    "stopped", "cause", "detail", "failed", "due", "last_request", "result", "boot_id",
)  # fmt: skip
NUMBERS = frozenset({"attempt", "boots", "power_losses", "starts", "last_request"})
PHASES = frozenset({"none", "trial", "committed", "reverted", "fallback"})


class BootState:
    """One reading of `boot/state`. Counts are ints, `stopped` is a bool, everything else is text ("" = not set).

    `failed_slot`, `failed_attempt`, `failed_cause` are the parts of `failed`: the newest release that did not stay.
    """

    __slots__ = (*FIELDS, "failed_slot", "failed_attempt", "failed_cause")

    format: str
    slot: str
    previous: str
    phase: str
    attempt: int
    boots: int
    power_losses: int
    starts: int
    stopped: bool
    cause: str
    detail: str
    failed: str
    due: str
    last_request: int
    result: str
    boot_id: str
    failed_slot: str
    failed_attempt: int
    failed_cause: str

    def __init__(self, values: dict[str, str]) -> None:
        for name in FIELDS:
            text = values.get(name, "")
            if name in NUMBERS:
                setattr(self, name, int(text) if text.isdecimal() else 0)
            elif name == "stopped":
                self.stopped = text == "yes"
            elif name == "detail" and ", " in text:  # a slogan: the release's own words
                self.detail = _redacted(text)
            else:
                setattr(self, name, text)
        if self.phase not in PHASES:
            self.phase = "none"
        slot, _, rest = self.failed.partition(":")
        attempt, _, cause = rest.partition(":")
        self.failed_slot, self.failed_cause = slot, cause
        self.failed_attempt = int(attempt) if attempt.isdecimal() else 0

    def shown(self) -> dict[str, Any]:
        """As `status` shows it."""
        names = ("slot", "previous", "phase", "attempt", "stopped", "starts", "cause", "detail", "failed")
        return {name: getattr(self, name) for name in (*names, "power_losses")}

    def ground(self) -> Ground:
        """What updates care about."""
        return Ground(
            self.slot, self.previous, self.phase, self.attempt, self.cause,
            self.failed_slot, self.failed_attempt, self.failed_cause, self.detail,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BootState) and all(getattr(self, f) == getattr(other, f) for f in FIELDS)

    def __hash__(self) -> int:
        return hash((self.starts, self.last_request, self.phase, self.slot))

    def __repr__(self) -> str:
        return f"BootState({self.phase} {self.slot} attempt {self.attempt}, start {self.starts}: {self.cause})"


def parse(data: bytes) -> BootState:
    """The state in these bytes; a damaged line is left out, an empty file is phase `none`."""
    values: dict[str, str] = {}
    for line in data.decode("ascii", "replace").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values[key] = value
    return BootState(values)


class Boot:
    """`boot/`, `requests/` and the doorbell of one application.

    `app_dir` is `.../apps/main`, `run_dir` is `.../run/beamfleet/main`.
    """

    def __init__(self, app_dir: str, run_dir: str) -> None:
        self._state = f"{app_dir}/boot/state"
        self._directory = f"{app_dir}/boot"
        self._requests = f"{app_dir}/requests"
        self._run = run_dir
        self._watched = False
        self._answers: int | None = None
        """Whether the caller takes SIGIO; the descriptor that tells of answers to `ask_probe`, once that was called."""

    def state(self) -> BootState:
        """What the launcher wrote last; phase `none` when it has not written anything yet."""
        return parse(_read(self._state))

    def ask_probe(self, kind: str, slot: str, attempt: int) -> None:
        """Have the launcher run a command probe of what runs; `kind` "" is the gate of a trial. Raises OSError.

        In memory only: such questions come again and again.
        """
        if self._watched and self._answers is None:
            self._answers = self._notify(self._run)
        name = f"probe.{kind}" if kind else "probe"
        temporary = f"{self._run}/asks/.{name}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            os.write(descriptor, f"{slot} {attempt} {kind}\n".encode("ascii"))
        finally:
            os.close(descriptor)
        os.rename(temporary, f"{self._run}/asks/{name}")
        self.ring()

    def probe_file(self, kind: str) -> tuple[int, int]:
        """Which file the newest answer is: the launcher writes a new one for each."""
        try:
            found = os.lstat(self._answer(kind))
        except OSError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

    def probe(self, kind: str) -> tuple[str, int, int] | None:
        """Slot, attempt and exit status of the newest command probe of this kind, or None."""
        words = _read(self._answer(kind)).decode("ascii", "replace").split()
        if len(words) != 3 or not words[1].isdecimal() or not words[2].isdecimal():
            return None
        return words[0], int(words[1]), int(words[2])

    def _answer(self, kind: str) -> str:
        return f"{self._run}/probe.{kind}" if kind else f"{self._run}/probe"

    def started(self, starts: int) -> bool:
        """Whether VM start number `starts` has run its boot script to the end."""
        return os.path.exists(f"{self._run}/app/started.{starts}")

    def request(self, line: str) -> int:
        """File one request durably and ring; its sequence number. Raises AgentError `boot.request` when it cannot."""
        try:
            directory = os.open(self._requests, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._not_filed(line, error) from error
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)  # agent and command line may ask at once
            pending = [int(name) for name in os.listdir(self._requests) if name.isdecimal()]
            sequence = max([self.state().last_request, *pending]) + 1
            temporary = f"{self._requests}/.{sequence:010d}"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            try:
                os.write(descriptor, line.encode("ascii") + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, f"{self._requests}/{sequence:010d}")
            os.fsync(directory)
        except OSError as error:
            raise self._not_filed(line, error) from error
        finally:
            os.close(directory)
        self.ring()
        return sequence

    def _not_filed(self, line: str, error: OSError) -> AgentError:
        text = f"cannot ask the launcher to {line.split()[0]}: {error}"
        return AgentError("boot.request", text, f"check {self._requests}")

    def ring(self) -> bool:
        """Wake the launcher; False when none is listening (it reads `requests/` when it starts)."""
        try:
            descriptor = os.open(f"{self._run}/doorbell", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(descriptor, b"\n")
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def watch(self) -> int | None:
        """Have the kernel send SIGIO at each change in `boot/`; the descriptor to keep open.

        None when this kernel has no directory notification: then the caller looks at its own pace. From now on the
        answers to `ask_probe` are told of in the same way.
        """
        self._watched = True
        return self._notify(self._directory)

    @staticmethod
    def _notify(directory: str) -> int | None:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGIO)
            fcntl.fcntl(descriptor, fcntl.F_NOTIFY, fcntl.DN_RENAME | fcntl.DN_CREATE | fcntl.DN_MULTISHOT)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor


def _redacted(text: str) -> str:
    from beamfleet_agent.redaction import redact  # rarely needed, and large

    return redact(text)


def _read(path: str) -> bytes:
    try:
        descriptor, _ = plain_file.opened(path)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
