"""Owns a rollout's plan as flags: the options that `rollout start` and `push` share, and the mapping that they spell.

The mapping is the one that a file would have (`rollout_file`); the server knows what its keys mean. Pure, but for the
file that `--notes @FILE` names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from beamfleet_server.cli import completion
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.labels import parse_labels
from beamfleet_server.cli.options import Selector
from beamfleet_server.cli.quantities import parse_duration

All = Annotated[bool, typer.Option("--all", help="Every device, when nothing else chooses.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="DEVICE", help="Only this one; repeat.", autocompletion=completion.devices),
]
Facts = Annotated[
    list[str] | None,
    typer.Option(
        "--fact", metavar="KEY=VALUE", help="Only devices that say so: arch, libc, hardware, timezone, network, agent."
    ),
]
Running = Annotated[
    list[str] | None,
    typer.Option("--running", metavar="VERSIONS", help="Only devices that run such a version now: '<1.1', '1.0.5'."),
]
Percent = Annotated[
    int | None,
    typer.Option("--percent", metavar="N", min=1, max=100, help="Only N %; the same ones for every release."),
]
Canary = Annotated[
    int | None,
    typer.Option(
        "--canary", metavar="N", min=1, help="How many devices prove the release first; 1 unless there is a --phase."
    ),
]
Phases = Annotated[
    list[str] | None,
    typer.Option(
        "--phase",
        metavar="WORDS",
        help="A phase: 'name=tenth,devices=10%,soak=1h,gate,failures=2%'; repeat, in order. Everyone comes last.",
    ),
]
MaxParallel = Annotated[
    int | None, typer.Option("--max-parallel", metavar="N", min=0, help="Devices under way at once; 0: no limit.")
]
Deadline = Annotated[
    str, typer.Option("--deadline", metavar="TIME", help="How long one device may take; 24h unless given.")
]
Expires = Annotated[str, typer.Option("--expires", metavar="TIME", help="The rollout's life; 30d unless given.")]
Retries = Annotated[
    int | None, typer.Option("--retries", metavar="N", min=0, help="Of what says nothing about the release; 3.")
]
Windows = Annotated[
    list[str] | None,
    typer.Option("--window", metavar="WHEN", help="Only then, by the device's clock: 'mon-fri 02:00-04:00'; repeat."),
]
Priority = Annotated[
    int | None,
    typer.Option("--priority", metavar="N", min=-100, max=100, help="The higher one wins over other rollouts."),
]
Network = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="CLASS", help="Only over these: wired, wifi, cellular, unknown."),
]
Force = Annotated[bool, typer.Option("--force", help="Hooks of the application may not put it off.")]
Steps = Annotated[
    list[str] | None,
    typer.Option("--step", metavar="VERSION", help="Devices below this version commit it first; repeat."),
]
Notes = Annotated[str, typer.Option("--notes", metavar="TEXT|@FILE", help="Release notes.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="A word for the history.")]
FromFile = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="PLAN.yaml", help="The plan; flags win over its lines."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show who would get what, when, and who would not; change nothing.")
]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LARGEST_NOTES = 64 << 10
_PHASE_KEYS = frozenset({"name", "devices", "soak", "gate", "failures", "successes", "max_parallel"})
_COUNTS = frozenset({"devices", "failures", "max_parallel"})
_WINDOW = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(?P<start>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d)")


@dataclass(frozen=True, slots=True)
class Flags:
    """What was typed; None, "" and False where nothing was."""

    labels: Selector = None
    everyone: All = False
    devices: Devices = None
    facts: Facts = None
    running: Running = None
    percent: Percent = None
    canary: Canary = None
    phases: Phases = None
    max_parallel: MaxParallel = None
    deadline: Deadline = ""
    expires: Expires = ""
    retries: Retries = None
    windows: Windows = None
    priority: Priority = None
    network: Network = None
    force: Force = False
    steps: Steps = None
    notes: Notes = ""
    note: Note = ""

    def mapping(self) -> dict[str, Any]:
        """The plan's keys that were given; errors `usage.*`."""
        plan: dict[str, Any] = {
            "devices": self._devices(),
            "phases": self._phases(),
            "max_parallel": self.max_parallel,
            "deadline": _duration(self.deadline),
            "expires": _duration(self.expires),
            "retries": self.retries,
            "window": [parse_window(text) for text in self.windows or ()],
            "priority": self.priority,
            "network": _words(self.network),
            "force": self.force or None,
            "steps": [_step(text) for text in self.steps or ()],
            "notes": _notes(self.notes),
            "note": self.note,
        }
        return {key: value for key, value in plan.items() if value not in (None, "", [], {})}

    def _devices(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {
            "labels": parse_labels(self.labels or ()),
            "facts": _facts(self.facts or ()),
            "versions": list(self.running or ()),
            "ids": _words(self.devices),
            "percent": self.percent,
        }
        given = {key: value for key, value in chosen.items() if value}
        if self.everyone and given.keys() - {"percent"}:
            raise _unclear("labels and --all exclude each other")
        return {**given, **({"all": True} if self.everyone else {})}

    def _phases(self) -> list[dict[str, Any]]:
        if self.canary is None:
            phases = [parse_phase(text) for text in self.phases or ()]
            return [{"name": f"phase-{number}", **phase} for number, phase in enumerate(phases, 1)]
        if self.phases:
            raise CommandError(
                "usage.phase",
                "--canary and --phase exclude each other",
                "--phase 'name=canary,devices=2' says the same",
            )
        return [{"name": "canary", "devices": self.canary}]


def check_chosen(plan: Mapping[str, Any], file: str = "") -> None:
    """Refuse a plan, of a file if there is one, that chooses no devices: `usage.selector`."""
    if not plan.get("devices"):
        raise _unclear(f"{file}: no devices are chosen" if file else "no devices are chosen")


def parse_phase(text: str) -> dict[str, Any]:
    """A phase of `name=tenth,devices=10%,soak=1h,gate`; `usage.phase` for what is none."""
    phase: dict[str, Any] = {}
    for word in filter(None, (each.strip() for each in text.split(","))):
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if key not in _PHASE_KEYS or (not equals and key != "gate"):
            raise _no_phase(f"{word[:60]!r} is nothing that a phase has")
        if key in phase:
            raise _no_phase(f"{key} is given twice")
        match key, value:
            case "gate", "" | "true" | "false":
                phase[key] = value != "false"
            case "gate", _:
                raise _no_phase(f"gate is given or not; it has no value {value[:60]!r}")
            case _ if key in _COUNTS and value.isascii() and value.isdigit():
                phase[key] = int(value)
            case _:
                phase[key] = value
    if "devices" not in phase:
        raise _no_phase(f"{text[:60]!r} does not say how many devices it has")
    return phase


def parse_window(text: str) -> dict[str, Any]:
    """A window of `mon-fri 02:00-04:00`, of every day without days; `usage.window` for what is none."""
    found = _WINDOW.fullmatch(text.strip().lower())
    if not found:
        raise _no_window(text)
    times = {"from": found["start"].rjust(5, "0"), "to": found["end"].rjust(5, "0")}
    if found["days"] is None:
        return times
    days: list[str] = []
    for part in found["days"].split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise _no_window(text)
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        span = range(begin, end + 1 if end >= begin else end + 8)
        days += [DAYS[day % 7] for day in span]
    return {"days": list(dict.fromkeys(days)), **times}


def _facts(texts: Sequence[str]) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = {}
    for pair in texts:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise CommandError(
                "usage.fact", f"{pair[:60]!r} is not a fact", "facts are written key=value, as in --fact arch=aarch64"
            )
        facts.setdefault(key, []).append(value)
    return facts


def _step(text: str) -> dict[str, str]:
    below, colon, through = text.partition(":")
    return {"below": below, "through": through if colon else below}


def _notes(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        with Path(text[1:]).open(encoding="utf-8") as file:
            notes = file.read(LARGEST_NOTES + 1)
    except OSError as error:
        what = f"cannot read the notes, {text[1:] or '(no file)'}: {error.strerror}"
        raise CommandError("file.unreadable", what, "check the path; without @ it is the text itself") from error
    except UnicodeDecodeError as error:
        what = f"the notes in {text[1:]} are not UTF-8"
        raise CommandError("file.unreadable", what, "notes are text; save it as UTF-8") from error
    if len(notes) > LARGEST_NOTES:
        raise CommandError("file.unreadable", f"{text[1:]} has more than {LARGEST_NOTES} characters", "shorten it")
    return notes


def _words(texts: Sequence[str] | None) -> list[str]:
    return [word for text in texts or () for word in (each.strip() for each in text.split(",")) if word]


def _duration(text: str) -> str:
    return f"{parse_duration(text)}s" if text else ""


def _unclear(why: str) -> CommandError:
    return CommandError(
        "usage.selector", why, "-l key=value chooses devices by label, --all means every device of the fleet"
    )


def _no_phase(why: str) -> CommandError:
    return CommandError("usage.phase", why, "for example: --phase 'name=tenth,devices=10%,soak=1h,gate,failures=2%'")


def _no_window(text: str) -> CommandError:
    return CommandError("usage.window", f"{text[:60]!r} is not a window", "for example: --window 'mon-fri 02:00-04:00'")
