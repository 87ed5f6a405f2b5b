"""How the health of devices looks to people: verdicts, reasons, figures, a line of blocks. Pure.

It prints nothing: what a device says is made harmless where all else is, in `output`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.output import Item
from beamfleet_server.cli.quantities import parse_time, show_bytes, show_duration, show_share, show_times

VERDICTS = ("failing", "degraded", "unknown", "offline", "healthy")
"""The worst first."""
UNWELL = VERDICTS[:-1]
STYLES = {"failing": "bold red", "degraded": "yellow", "unknown": "magenta", "offline": "red", "healthy": "green"}
SPARK_WIDTH = 48
_BLOCKS = "▁▂▃▄▅▆▇█"


def parse_verdicts(texts: Sequence[str]) -> list[str]:
    """The verdicts in texts like `failing,degraded`; error `usage.verdict`."""
    wanted = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in VERDICTS:
            raise CommandError("usage.verdict", f"{word!r} is no verdict", f"verdicts are {', '.join(VERDICTS)}")
    return wanted


def style(verdict: str) -> str:
    """How a verdict stands out on a terminal."""
    return STYLES.get(verdict, "")


def show_verdicts(counts: Mapping[str, int]) -> str:
    """`1 failing, 2 degraded, 97 healthy`."""
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts.get(verdict)) or "none"


def show_reasons(reasons: Iterable[Item]) -> str:
    """`queues: 104233 messages wait for logger; disk: 1 % of the disk are free`."""
    return "; ".join(map(show_reason, reasons))


def show_reason(reason: Item) -> str:
    """`queues: 104233 messages wait for logger`."""
    return f"{reason['check']}: {show_times(reason['detail'])}" if reason["detail"] else str(reason["check"])


def spark(values: Sequence[float | None], width: int = SPARK_WIDTH) -> str:
    """The values as a line of blocks, lowest to highest; several of them in one block where there are more than
    `width`, of which the largest counts; a space where there is none."""
    if len(values) > width:
        cuts = [number * len(values) // width for number in range(width + 1)]
        values = [
            max((value for value in values[low:high] if value is not None), default=None)
            for low, high in pairwise(cuts)
        ]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0), max(known, default=0)
    top = len(_BLOCKS) - 1
    return "".join(
        " " if value is None else _BLOCKS[round(top * (value - low) / (high - low)) if high > low else 0]
        for value in values
    )


def show_memory(samples: Item) -> str:
    """How much memory the release used over time: `▁▂▅█ 31.0 MB to 88.0 MB in 2d`; nothing where nobody knows."""
    step_s = samples["resolution_s"]
    largest: dict[int, int] = {}
    for item in samples["items"]:
        time = parse_time(item["time"])
        if time is not None and item.get("memory"):
            largest[int(time.timestamp()) // step_s] = item["memory"][1]
    if not largest:
        return ""
    first, last = min(largest), max(largest)
    line = spark([largest.get(slot) for slot in range(first, last + 1)])
    low, high = show_bytes(min(largest.values())), show_bytes(max(largest.values()))
    return f"{line} {low} to {high} in {show_duration((last + 1 - first) * step_s)}"


def sections(health: Item) -> list[tuple[str, object]]:
    """What a device said of its health last, as facts; those it never said are left out."""
    said = health.get("sections") or {}
    beam, host = said.get("beam") or {}, said.get("host") or {}
    facts = [
        ("says", _joined(" ", beam.get("said"))),
        ("probes", ", ".join(_joined(" ", [kind, *said["probes"][kind]]) for kind in sorted(said.get("probes") or ()))),
        ("beam", _beam(beam)),
        ("beam memory", _memory(beam.get("memory") or {})),
        ("queues", ", ".join(f"{name} {length}" for name, length in beam.get("queues") or ())),
        ("metrics", ", ".join(f"{name} {value}" for name, value in sorted((beam.get("metrics") or {}).items()))),
        ("applications", ", ".join(said.get("applications") or ())),
        ("host", _host(host)),
    ]
    return [fact for fact in facts if fact[1]]


def _beam(beam: Item) -> str:
    parts = [f"OTP {beam['otp']}" if beam.get("otp") else ""]
    if "uptime_ms" in beam:
        parts.append(f"up {show_duration(beam['uptime_ms'] / 1000)}")
    for name in ("processes", "ports", "atoms", "ets"):
        if name in beam:
            used, limit = beam[name]
            parts.append(f"{used} {name} ({show_share(used, limit)})")
    if "run_queue" in beam:
        parts.append(f"run queue {beam['run_queue']}")
    if "schedulers" in beam:
        parts.append(f"schedulers {show_share(beam['schedulers'], 1000)}")
    if beam.get("restarts"):
        parts.append(f"{beam['restarts']} restarts by supervisors")
    return ", ".join(filter(None, parts))


def _memory(memory: Mapping[str, int]) -> str:
    total = [show_bytes(memory["total"])] if "total" in memory else []
    parts = sorted((kind for kind in memory if kind != "total"), key=lambda kind: -memory[kind])
    return ", ".join([*total, *(f"{kind} {show_bytes(memory[kind])}" for kind in parts)])


def _host(host: Item) -> str:
    parts = []
    if "load" in host:
        parts.append("load " + " ".join(f"{each / 100:.2f}" for each in host["load"]))
    for name, unit in (("memory", show_bytes), ("disk", show_bytes), ("inodes", str)):
        if name in host:
            free, total = host[name]
            parts.append(f"{name} {show_share(total - free, total)} of {unit(total)} used")
    if "temperature" in host:
        parts.append(f"{host['temperature'] / 1000:.1f} °C")
    if "wear" in host:
        parts.append(f"flash {host['wear']} % worn")
    if "uptime_s" in host:
        parts.append(f"up {show_duration(host['uptime_s'])}")
    if host.get("network"):
        parts.append(str(host["network"]))
    return ", ".join(parts)


def _joined(by: str, words: Sequence[Any] | None) -> str:
    return by.join(str(word) for word in words or () if word not in (None, ""))
