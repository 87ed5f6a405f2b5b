"""Owns what the simulator counts, and how that looks: a line while it runs, an object at the end. Never a socket."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from beamfleet_server.simulator.memory import Memory


class Tally:
    """What happened since the start of the run."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._ends: Counter[tuple[str, str]] = Counter()

    def __getitem__(self, what: str) -> int:
        return self._counts[what]

    def count(self, what: str, by: int = 1) -> None:
        """This happened."""
        self._counts[what] += by

    def installed(self, *, again: bool) -> None:
        """A device swapped; `again`: to what it had swapped to before, in the same attempt."""
        self._counts["installs"] += 1
        self._counts["duplicate_installs"] += again

    def ended(self, phase: str, reason: str) -> None:
        """An update came to its end."""
        self._ends[phase, reason] += 1

    def summary(self, memories: Iterable[Memory], up: int, waiting: int, seconds: float) -> dict[str, Any]:
        """The whole, as `-o json` prints it. up: sessions that stand; waiting: devices that wait for the server."""
        kept = list(memories)
        running: Counter[str] = Counter()
        for memory in kept:
            release = memory.running()
            running[f"{release.product} {release.version}" if release else "nothing"] += 1
        refused = {key.removeprefix("refused "): count for key, count in self._counts.items() if " " in key}
        counts = {
            key: self._counts[key]
            for key in (
                "connects", "refused_connects", "lost_sessions", "sent", "reports", "reports_taken", "reports_unsure",
                "acks", "commands", "assignments", "held", "downloads", "bytes", "installs", "duplicate_installs",
            )
        }  # fmt: skip
        return {
            "devices": len(kept),
            "online": up,
            "waiting_for_server": waiting,
            "seconds": round(seconds, 1),
            **counts,
            "ended": dict(sorted((" ".join(filter(None, key)), count) for key, count in self._ends.items())),
            "refused_assignments": dict(sorted(refused.items())),
            "updates": dict(sorted(Counter(memory.update.phase for memory in kept).items())),
            "phases": dict(sorted(Counter(memory.phase for memory in kept).items())),
            "running": dict(sorted(running.items())),
        }


def line(summary: dict[str, Any]) -> str:
    """The same in one line, for whoever watches."""
    updates = "  ".join(f"{phase} {count}" for phase, count in summary["updates"].items())
    return (
        f"{summary['online']}/{summary['devices']} online  {updates}  installs {summary['installs']}"
        f"  unacknowledged {summary['waiting_for_server']}"
    )
