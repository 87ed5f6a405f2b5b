"""The command line as a test runs it: in this process with captured streams, or as the child process of a shell."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.cli import main

from tests.support.fleet import Fleet

COMMAND = Path(sys.executable).parent / "beamfleet"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Operator:
    """One person's configuration directory."""

    directory: Path

    def run(self, *words: str, capsys: pytest.CaptureFixture[str]) -> Ended:
        """Run `beamfleet WORDS` in this process."""
        capsys.readouterr()
        code = main(["--config-dir", str(self.directory), *words])
        return Ended(code, *capsys.readouterr())

    def answer(self, *words: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
        """Run `beamfleet WORDS` at a terminal where a person answers; its exit code, and what the terminal shows."""
        screen = Screen()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", screen)
            patched.setattr(sys, "stdin", io.StringIO(f"{answer}\n"))
            code = main(["--config-dir", str(self.directory), *words])
        return code, screen.getvalue()

    def log_in(self, fleet: Fleet) -> None:
        """Log in to a fleet's server as its first operator."""
        token, ca = fleet.data / "admin.token", fleet.data / "ca.pem"
        words = ["login", fleet.address("operators"), "--token-file", str(token), "--ca", str(ca)]
        assert main(["--config-dir", str(self.directory), *words]) == 0

    def child(self, *words: str, stdin: str = "", timeout_s: float = 120) -> Ended:
        """Run `beamfleet WORDS` as a child process."""
        return child(
            *words, stdin=stdin, timeout_s=timeout_s, environment={"BEAMFLEET_CONFIG_DIR": str(self.directory)}
        )


def child(*words: str, stdin: str = "", timeout_s: float = 120, environment: dict[str, str] | None = None) -> Ended:
    """Run `beamfleet WORDS` as a child process, with none of this shell's own BEAMFLEET_ variables."""
    done = subprocess.run(
        [str(COMMAND), *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**clean_environment(), **(environment or {})},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("BEAMFLEET_")}


def lines(stream: io.StringIO) -> Sequence[str]:
    return stream.getvalue().splitlines()
