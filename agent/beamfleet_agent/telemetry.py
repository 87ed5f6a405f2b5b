"""Owns what is told of the samples of health, and when: rules over sections, at times that the caller gives. No I/O.

    sample -> is it due? -> a session: full, or what is another than in the full one -> report
                         -> no session: kept, at most KEPT, the oldest dropped and counted -> told late, for the history

A report is due when the interval is over, and when something material has changed. For the latter there is a credit:
what flaps costs a metered line at most twice of what it costs anyway. A report names all that has changed since the
full one, not since the one before: those are lost that wait for the server too long, and the next one mends it.
"""

from collections import deque
from typing import Any, NamedTuple

KEPT = 64
CREDIT = 8
LONGEST_SAMPLE_S = 60
CROWDED = 1_000
"""A message queue from here on is told at each power of ten."""
HOT = 80_000

Line = dict[str, Any]
"""A sample as the message has it: time, verdict, detail, starts, beam or None, applications, probes, host."""


Place = tuple[str, str]
"""A section and a field of it, or one that has none and nothing."""
HEAD = ("time", "verdict", "detail", "starts")
SECTIONS = ("beam", "probes", "host")
STARTS: Place = ("starts", "")


class Rhythm(NamedTuple):
    """How often a device of this profile speaks, in seconds."""

    profile: str
    interval_s: int
    full_s: int
    ping_s: int = 0
    """Of the owner's own choice, where a network forgets who says nothing."""

    @property
    def sample_s(self) -> int:
        """Between samples."""
        return min(self.interval_s, LONGEST_SAMPLE_S)

    @property
    def keepalive_s(self) -> int:
        """Of the MQTT session: so long that a report takes the place of each ping, unless it was chosen."""
        return self.ping_s or self.interval_s + min(30, max(1, self.interval_s // 2))

    @property
    def expiry_s(self) -> int:
        """How long a report is of use that is not full."""
        return 2 * self.interval_s


PROFILES = {"wired": Rhythm("wired", 60, 3_600), "metered": Rhythm("metered", 900, 86_400)}


def rhythm(profile: str, interval_s: int = 0, keepalive_s: int = 0) -> Rhythm:
    """The rhythm of a profile; with another interval and keepalive if there are some."""
    usual = PROFILES[profile]
    return usual._replace(interval_s=interval_s or usual.interval_s, ping_s=keepalive_s)


class Telemetry:
    """Remembers what the server knows in this session, and what it has not heard."""

    def __init__(self, rhythm: Rhythm) -> None:
        self._rhythm = rhythm
        self._full: dict[Place, Any] | None = None
        self._full_at = self._said_at = self._credited_at = 0.0
        self._touched: set[Place] = set()
        """What has been told since the full report."""
        self._said: Line | None = None
        self._credit = float(CREDIT)
        self._kept: deque[tuple[float, Line]] = deque()
        self._dropped = 0

    @property
    def waiting(self) -> int:
        """Samples that the server has not heard."""
        return len(self._kept)

    def session_began(self, now: float) -> None:
        """The next sample is told at once, and in full: one that has just been kept says no more than that."""
        self._full = None
        if self._kept and now - self._kept[-1][0] < self._rhythm.interval_s:
            self._kept.pop()

    def observe(self, now: float, sample: Line, *, online: bool) -> Line | None:
        """The report that goes out now, if one does."""
        if not self._is_due(now, sample, online):
            return None
        self._said, self._said_at = sample, now
        if online:
            return self._report(now, sample)
        if len(self._kept) == KEPT:
            self._kept.popleft()
            self._dropped += 1
        self._kept.append((now, headlines(sample)))
        return None

    def oldest(self, now: float) -> Line | None:
        """The oldest of the kept samples, as a report; `told` says that it has gone out."""
        if not self._kept:
            return None
        at, sample = self._kept[0]
        return {**sample, "late_s": max(1, round(now - at))}

    def told(self) -> None:
        """The oldest has gone out."""
        self._kept.popleft()

    def _is_due(self, now: float, sample: Line, online: bool) -> bool:
        if self._said is None or (online and self._full is None):
            return True
        if now - self._said_at >= self._rhythm.interval_s - self._rhythm.sample_s / 2:
            return True
        self._credit = min(CREDIT, self._credit + (now - self._credited_at) / self._rhythm.interval_s)
        self._credited_at = now
        if self._credit < 1 or not is_material(self._said, sample):
            return False
        self._credit -= 1
        return True

    def _report(self, now: float, sample: Line) -> Line:
        more: Line = {"dropped": self._dropped} if self._dropped else {}
        self._dropped = 0
        facts, full = _facts(sample), self._full
        gone = not (self._touched | set(full or ())) <= set(facts)
        if full is None or gone or now - self._full_at >= self._rhythm.full_s or full[STARTS] != facts[STARTS]:
            self._full, self._full_at = facts, now
            self._touched.clear()
            return {**sample, **more, "full": True}
        self._touched |= {place for place, value in facts.items() if value != full.get(place)}
        for section, field in sorted(self._touched):
            if field:
                more.setdefault(section, {})[field] = facts[section, field]
            else:
                more[section] = facts[section, field]
        return {**{name: sample[name] for name in HEAD if name in sample}, **more}


def _facts(sample: Line) -> dict[Place, Any]:
    """What a sample says but for its head; where the release does not answer nothing stands for it."""
    facts = {(name, field): value for name in SECTIONS for field, value in (sample[name] or {}).items()}
    return {**facts, STARTS: sample["starts"], ("applications", ""): sample["applications"]}


def headlines(sample: Line) -> Line:
    """What the history keeps of a sample."""
    line: Line = {name: sample[name] for name in HEAD if name in sample}
    if (beam := sample["beam"]) is not None:
        names = ("uptime_ms", "processes", "atoms", "run_queue", "schedulers", "restarts")
        line["beam"] = {name: beam[name] for name in names if name in beam}
        if "total" in beam.get("memory", {}):
            line["beam"]["memory"] = {"total": beam["memory"]["total"]}
        if beam.get("queues"):
            line["beam"]["queues"] = beam["queues"][:1]
    told = ("load", "memory", "disk", "temperature")
    line["host"] = {name: sample["host"][name] for name in told if name in sample["host"]}
    return line


def is_material(before: Line, now: Line) -> bool:
    """Whether somebody should hear of the change between two samples before the interval is over."""
    if _mark(before) != _mark(now):
        return True
    was, is_now = (((line["beam"] or {}).get("memory") or {}).get("total", 0) for line in (before, now))
    return bool(10 * abs(is_now - was) > was)


def _mark(line: Line) -> tuple[Any, ...]:
    beam, host = line["beam"] or {}, line["host"]
    longest = max((length for _, length in beam.get("queues", ())), default=0)
    return (
        line["verdict"],
        line.get("detail"),
        line["starts"],
        line["beam"] is None,
        line["applications"],
        [(kind, outcome[0]) for kind, outcome in line["probes"].items()],
        (beam.get("said") or ("",))[0],
        beam.get("restarts"),
        len(str(longest)) if longest >= CROWDED else 0,
        [_fullness(beam[name]) for name in ("processes", "ports", "atoms", "ets") if name in beam],
        [_scarcity(host[name]) for name in ("memory", "disk", "inodes") if name in host],
        max(HOT, host.get("temperature", 0)) // 10_000,
        host.get("network"),
    )


def _fullness(pair: list[int]) -> int:
    """Tenths of a limit that are used, from the half on."""
    used, limit = pair
    return max(5, 10 * used // limit) if limit else 0


def _scarcity(pair: list[int]) -> int:
    """How little is left: 0 for enough, then below 20, 10 and 5 percent."""
    free, total = pair
    return sum(100 * free < percent * total for percent in (20, 10, 5))
