"""Owns how a simulated device is: figures that drift as those of a real one, and what ails it. Pure.

    sample     what stands at a time, a function of device, nature and time alone: who asks again gets the same
    Telling    what of it goes out: all of it first and each hour, then what is another than in the full report

Memory, processes and load go up and down over hours and minutes, disk and atoms grow, a day has its busy time. A device
that ails has one illness for ever, of those that the server's checks know at their default thresholds.
"""

import math
from typing import Any

from beamfleet_server.simulator.fate import Nature, draw

FULL_S = {"wired": 3_600, "metered": 86_400}
ILLNESSES = {
    "degraded": ("queue", "atoms", "disk", "said", "unready"),
    "failing": ("silent", "said", "dead", "queue"),
}
DAY_S = 86_400
MIB = 1 << 20

Line = dict[str, Any]


def sample(name: str, nature: Nature, release: str, starts: int, age_s: int, now: int) -> Line:
    """How the device is. release: `PRODUCT VERSION`, or empty where nothing runs; age_s: since the release started."""
    body = _Body(name, nature, age_s, now)
    line: Line = {"time": now, "verdict": "healthy" if release else "unknown", "starts": starts}
    line |= {"beam": body.beam() if release else None, "host": body.host()}
    if release:
        product, _, version = release.partition(" ")
        line["applications"] = ["kernel 8.5", "stdlib 4.3", f"{product.replace('-', '_')} {version}"]
        line["probes"] = {"liveness": ["ok", ""]}
        body.ail(line)
    return line


class Telling:
    """What the server knows in this session of one device."""

    def __init__(self, profile: str) -> None:
        self._full_s = FULL_S[profile]
        self._full: Line | None = None
        self._told: set[tuple[str, str]] = set()
        """Sections and fields that were told since the full report: what is as it was before is told again."""

    def session_began(self) -> None:
        """The next report is a full one."""
        self._full = None

    def report(self, line: Line) -> Line:
        """The report of this sample."""
        full = self._full
        begun = full is None or (full["beam"] is None) != (line["beam"] is None) or full["starts"] != line["starts"]
        if full is None or begun or line["time"] - full["time"] >= self._full_s:
            self._full = line
            self._told.clear()
            return {**line, "full": True}
        told: Line = {key: line[key] for key in ("time", "verdict", "detail", "starts") if key in line}
        now, then = _fields(line), _fields(full)
        self._told |= {place for place, value in now.items() if value != then.get(place)}
        for section, field in sorted(self._told & now.keys()):
            if field:
                told.setdefault(section, {})[field] = now[section, field]
            else:
                told[section] = now[section, field]
        return told


def _fields(line: Line) -> dict[tuple[str, str], Any]:
    """What a report may leave out, by section and field."""
    inner = {(name, field): value for name in ("beam", "host") for field, value in (line[name] or {}).items()}
    return inner | {(name, ""): line[name] for name in ("applications", "probes") if name in line}


class _Body:
    """One device at one time."""

    def __init__(self, name: str, nature: Nature, age_s: int, now: int) -> None:
        self._name, self._nature, self._age_s, self._now = name, nature, age_s, now

    def beam(self) -> Line:
        """The release."""
        swell = 1 + 0.06 * self._wave("memory", 5_400) + 0.02 * self._noise("memory")
        total = int(self._between("memory", 28, 140) * MIB * swell)
        processes = int(self._between("processes", 80, 900) * (1 + 0.1 * self._wave("processes", 2_700)))
        busy = self._between("busy", 5, 180) * (1.2 + self._wave("busy", DAY_S))
        atoms = int(self._between("atoms", 11_000, 24_000) + 400 * math.log1p(self._age_s / 60))
        queue = int(30 * self._noise("queue"))
        found: Line = {
            "uptime_ms": self._age_s * 1000,
            "memory": {
                "total": total, "processes": int(0.36 * total), "system": int(0.64 * total), "code": int(0.2 * total),
                "binary": int(0.09 * total * swell), "ets": int(0.05 * total), "atom": 40 * atoms,
            },
            "processes": [processes, 262_144],
            "ports": [8 + processes // 60, 65_536],
            "atoms": [atoms, 1_048_576],
            "ets": [int(self._between("ets", 25, 160)), 8_192],
            "run_queue": int(2.2 * self._noise("run_queue") ** 4),
            "schedulers": min(1000, int(busy * (1 + 0.3 * self._noise("busy")))),
            "restarts": int(self._age_s / self._between("restarts", 20_000, 900_000)),
            "gc": int(self._age_s * self._between("gc", 2, 60)),
            "queues": [["logger", queue]] if queue >= 10 else [],
            "otp": "25",
        }  # fmt: skip
        if self._lot("metrics") < 0.5:
            found["metrics"] = {"requests_per_s": round(busy / 4, 1), "sessions": processes // 4}
        return found

    def host(self) -> Line:
        """The machine."""
        memory, disk = (int(2 ** int(self._between(what, 0, 3)) * 512 * MIB) for what in ("ram", "flash"))
        load = 100 * self._between("load", 0.02, 0.6) * (1.3 + self._wave("busy", DAY_S))
        full = min(0.8, self._between("disk", 0.15, 0.6) + 0.1 * (self._now % (20 * DAY_S)) / (20 * DAY_S))
        found: Line = {
            "load": [int(load * (1 + 0.4 * self._noise(f"load{number}") / (number + 1))) for number in range(3)],
            "memory": [int(memory * (0.55 + 0.1 * self._wave("ram", 7_200))), memory],
            "disk": [int(8 * disk * (1 - full)) & ~4095, 8 * disk],
            "inodes": [int(disk / 2048 * (1 - full / 2)), disk // 2048],
            "uptime_s": self._age_s + int(self._between("boot", 30, 900)),
            "network": self._nature.network,
        }
        if self._lot("thermometer") < 0.8:
            warmth = self._between("warmth", 34, 52) + 5 * self._wave("busy", DAY_S)
            found["temperature"] = int(10 * warmth) * 100
        if self._lot("flash") < 0.5:
            found["wear"] = int(self._between("wear", 0, 30))
        return found

    def ail(self, line: Line) -> None:
        """Give a sample what the device has."""
        nature, beam = self._nature, line["beam"]
        if not nature.ails:
            return
        illnesses = ILLNESSES[nature.ails]
        failing = nature.ails == "failing"
        match illnesses[int(self._lot("illness") * len(illnesses))]:
            case "queue":
                length = int((110_000 if failing else 12_000) + 5_000 * self._noise("stuck"))
                beam["queues"] = [["upstream_writer", length], *beam["queues"]]
                beam["memory"]["total"] += 300 * length
            case "atoms":
                beam["atoms"] = [int(1_048_576 * 0.85), 1_048_576]
            case "disk":
                line["host"]["disk"][0] = int(0.07 * line["host"]["disk"][1]) & ~4095
            case "said":
                beam["said"] = [nature.ails, "the upstream does not answer"]
            case "unready":
                line["probes"]["readiness"] = ["failed", "503 Service Unavailable"]
            case "dead":
                line["probes"]["liveness"] = ["failed", "no answer within 1 s"]
                line |= {"verdict": "failing", "detail": "liveness: no answer within 1 s"}
            case "silent":
                line |= {"verdict": "failing", "detail": "the release does not answer", "beam": None}

    def _lot(self, what: str) -> float:
        return draw(self._name, "telemetry", what)

    def _between(self, what: str, low: float, high: float) -> float:
        """What a device has for ever."""
        return low + (high - low) * self._lot(what)

    def _wave(self, what: str, period_s: float) -> float:
        """Up and down between -1 and 1, each device at its own time."""
        return math.sin(2 * math.pi * (self._now / period_s + self._lot(f"{what} phase")))

    def _noise(self, what: str) -> float:
        """0 to below 1, another in each minute."""
        return draw(self._name, "noise", what, self._now // 60)
