"""Commands that must be refused: what they say to people and to scripts, and that they say nothing else."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.fleet import Device, Fleet

AGENT = str(Path(sys.executable).parent / "beamfleet-agent")
_ERROR = re.compile(r"^error: (.+) \(([a-z]+\.[a-z_]+)\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Refused:
    """What was wrong, under which code, and how to mend it."""

    code: str
    message: str
    hint: str


def to_people(done: subprocess.CompletedProcess[str], exit_code: int = 1) -> Refused:
    """The one error of a command: `error: … (code)`, then `hint: …`, on stderr; nothing on stdout, no traceback."""
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == "", done.stdout
    (found,) = _ERROR.finditer(done.stderr)
    hint = done.stderr[found.end() :].lstrip("\n").splitlines()[:1]
    assert hint, done.stderr
    assert hint[0].startswith("hint: "), done.stderr
    return Refused(found[2], found[1], hint[0].removeprefix("hint: "))


def to_scripts(done: subprocess.CompletedProcess[str], exit_code: int = 1) -> Refused:
    """The one problem object of a command with -o json; no error text on stderr."""
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert not _ERROR.search(done.stderr), done.stderr
    problem = json.loads(done.stdout)
    assert set(problem) == {"type", "title", "detail", "code", "hint"}
    assert problem["hint"], problem
    return Refused(problem["code"], problem["detail"], problem["hint"])


def refused(fleet: Fleet, *words: str, exit_code: int = 1) -> Refused:
    """Run `beamfleet WORDS` for people and for scripts, which must hear the same; what they heard."""
    heard = to_people(fleet.cli(*words, ok=(exit_code,)), exit_code)
    assert heard == to_scripts(fleet.cli(*words, "-o", "json", ok=(exit_code,)), exit_code)
    return heard


def agent_refused(device: Device, *words: str) -> Refused:
    """Run `beamfleet-agent WORDS` on a device for people and for scripts (`error` in its object)."""
    done = [
        subprocess.run([AGENT, *words, "--root", str(device.root), *more], capture_output=True, text=True, timeout=120)
        for more in ((), ("-o", "json"))
    ]
    heard = to_people(done[0])
    assert done[1].returncode == 1, done[1].stdout + done[1].stderr
    assert heard == _of_agent(json.loads(done[1].stdout)["error"])
    return heard


def _of_agent(error: dict[str, str]) -> Refused:
    return Refused(error["code"], error["message"], error["hint"])
