"""What a benchmark prints at its end: the machine it ran on, and with --json one object. Measures nothing."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path


def machine() -> str:
    """One line about this machine: processor, cores, memory, kernel, system, interpreter."""
    processor = _value("/proc/cpuinfo", "model name", ":") or os.uname().machine
    system = _value("/etc/os-release", "PRETTY_NAME", "=").strip('"') or os.uname().sysname
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{processor}, {cores} cores, {memory:.0f} GiB, Linux {os.uname().release}, {system}, Python {python}"


def as_json(bench: str, figures: Mapping[str, float | None]) -> str:
    """The one line that --json ends with; None is a peer that could not be had."""
    when = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    rounded = {key: None if value is None else round(value, 3) for key, value in figures.items()}
    return json.dumps({"bench": bench, "machine": machine(), "when": when, "figures": rounded})


def _value(path: str, key: str, separator: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, found, value = line.partition(separator)
        if found and name.strip() == key:
            return value.strip()
    return ""
