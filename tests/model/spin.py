"""Owns one run of spin over a model: generates the verifier, compiles it, runs it over the full state space, reads it.

Never uses bitstate or hash compaction: a verdict counts only when every reachable state was stored and compared.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MEMORY_MB, DEPTH = 4000, 1_000_000
LIMIT_S = 900
_COMPILED = ("-O2", "-w", "-DVECTORSZ=256", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}", "-DNFAIR=3")
_TRUNCATED = ("max search depth too small", "out of memory", "memory exceeds", "Search not completed", "aborting")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier said: `error` is "" when there is no violation; `unreached`: process, state and text."""

    states: int
    depth: int
    seconds: float
    error: str
    truncated: str
    unreached: frozenset[tuple[str, int, str]]
    output: str


def verify(model: str, work: Path, sizes: Mapping[str, int], claim: str = "") -> Verdict:
    """Check assertions and end states, or with `claim` that property of infinite runs under weak fairness."""
    work.mkdir(parents=True)
    (work / "launcher.pml").write_text(model)
    words = [f"-D{name}={value}" for name, value in sizes.items()]
    _run(["spin", *words, "-a", "launcher.pml"], work)
    _run(["gcc", *_COMPILED, *(() if claim else ("-DSAFETY", "-DNOCLAIM")), "-o", "pan", "pan.c"], work)
    search = ["-a", "-f", "-N", claim] if claim else []
    done = subprocess.run(
        ["./pan", f"-m{DEPTH}", "-w24", *search], cwd=work, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    return _read(done.stdout + done.stderr)


def _run(command: list[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


def _read(output: str) -> Verdict:
    found = re.search(r"depth reached (\d+), errors: (\d+)\n\s*(\d+(?:\.\d+e\+\d+)?) states, stored", output)
    assert found, f"the verifier said nothing that is known:\n{output}"
    error = re.search(r"^pan:\d+: (.*)$", output, re.MULTILINE)
    assert bool(error) == (found[2] != "0"), output
    took = re.search(r"elapsed time ([\d.e+-]+) seconds", output)
    truncated = "" if error else next((word for word in _TRUNCATED if word in output), "")
    parts = re.findall(
        r"^unreached in (?:proctype )?(\S+)\n((?:\t.*\n)*)", output.partition("unreached in claim")[0], re.MULTILINE
    )
    lines = [
        (process, int(state), f"line {number}: {text}")
        for process, part in parts
        for number, state, text in re.findall(r":(\d+), state (\d+), \"(.*)\"$", part, re.MULTILINE)
    ]
    return Verdict(
        states=int(float(found[3])),
        depth=int(found[1]),
        seconds=float(took[1]) if took else 0.0,
        error=error[1] if error else "",
        truncated=truncated,
        unreached=frozenset(line for line in lines if not line[2].endswith("-end-")),
        output=output,
    )
