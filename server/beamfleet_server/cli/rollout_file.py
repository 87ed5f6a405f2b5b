"""Owns reading a rollout's plan from a YAML file, strictly: what is written is what is sent, or an error with its line.

YAML's surprises are refused or switched off: no anchors and aliases (a few lines of them can mean gigabytes), no tags,
no key twice, one document. A version `1.10` stays what is written, `22:00` is a time and `no` is a word. What the keys
mean is the server's business; `located` finds the line that one of its refusals is about.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.errors import ServerError

if TYPE_CHECKING:
    from yaml.events import Event, ScalarEvent

LARGEST = 1 << 20
DEEPEST = 8
_TEXTS = frozenset(
    {"product", "version", "name", "salt", "from", "to", "below", "through", "notes", "note"}
    | {"labels", "facts", "versions", "ids", "days", "network"}
)
"""Keys below which everything is text, however much it looks like a number."""
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_PATH = re.compile(r"[a-z_]+(?:\.[A-Za-z0-9_./-]+?|\[\d+\])*(?=: )")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a file says; `lines` has the line of each value by its path, such as `phases[1].soak`. `others`: the keys
    that flags say instead."""

    path: Path
    mapping: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    others: frozenset[str] = frozenset()

    def located(self, error: ServerError) -> ServerError:
        """The same refusal with the file, and the line that it is about, where the message begins with the path of a
        value. Keys of the plan that are not the file's own are the `others`."""
        found = _PATH.match(error.message)
        line = self._line(found[0]) if found else 0
        key = re.split(r"[.\[]", found[0])[0] if found else ""
        if key in self.others or not (line or error.code.startswith("plan.")):
            return error
        status = error.status if isinstance(error, RemoteError) else 0
        place = f"{self.path}:{line}" if line else str(self.path)
        return RemoteError(error.code, f"{place}: {error.message}", error.hint, status)

    def _line(self, path: str) -> int:
        while path:
            if line := self.lines.get(path):
                return line
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return 0


def read_plan(path: Path) -> PlanFile:
    """The plan in a file; errors `file.unreadable`, `rollout.plan_file`."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise CommandError("file.unreadable", f"{path}: {error.strerror}", "check the path") from error
    if len(content) > LARGEST:
        raise _refused(path, 1, f"a plan has at most {LARGEST} bytes")
    try:
        return _Reader(path, content.decode("utf-8")).plan()
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise _refused(path, line, "this is not UTF-8") from error


class _Reader:
    """Builds values from YAML's events, one after the other: nothing is resolved, so nothing grows."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._events = self._parsed(text)
        self._lines: dict[str, int] = {}

    def plan(self) -> PlanFile:
        from yaml import events

        mapping: Any = None
        seen = False
        for event in self._events:
            match event:
                case events.DocumentStartEvent() if seen:
                    raise self._no(event, "a plan is one document")
                case events.DocumentStartEvent():
                    seen = True
                case events.MappingStartEvent():
                    mapping = self._mapping("", 1, texts=False)
                case events.ScalarEvent() | events.SequenceStartEvent():
                    raise self._no(event, "a plan is a mapping: `product: NAME` and so on")
        if not mapping:
            raise _refused(self._path, 1, "there is no plan in it")
        return PlanFile(self._path, mapping, self._lines)

    def _parsed(self, text: str) -> "Iterator[Event]":
        import yaml
        from yaml import events

        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                if isinstance(event, events.AliasEvent) or getattr(event, "anchor", None):
                    raise self._no(event, "anchors and aliases (& and *) are not taken", "write it out")
                if getattr(event, "tag", None) not in (None, "!"):
                    raise self._no(event, f"the tag {str(getattr(event, 'tag', ''))[:60]} is not taken", "leave it out")
                yield event
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise _refused(self._path, mark.line + 1 if mark else 1, error.problem or "this is not YAML") from error
        except yaml.YAMLError as error:
            raise _refused(self._path, 1, str(error).partition("\n")[0]) from error

    def _mapping(self, path: str, depth: int, *, texts: bool) -> dict[str, Any]:
        from yaml import events

        built: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, events.MappingEndEvent):
                break
            if not isinstance(event, events.ScalarEvent):
                raise self._no(event, "a key is a word")
            key = event.value
            if key in built:
                raise self._no(event, f"{key[:60]} is given twice")
            below = f"{path}.{key}" if path else key
            self._lines[below] = _line(event)
            built[key] = self._value(next(self._events), below, depth, texts=texts or key in _TEXTS)
        return built

    def _sequence(self, path: str, depth: int, *, texts: bool) -> list[Any]:
        from yaml import events

        built: list[Any] = []
        for event in self._events:
            if isinstance(event, events.SequenceEndEvent):
                break
            below = f"{path}[{len(built)}]"
            self._lines[below] = _line(event)
            built.append(self._value(event, below, depth, texts=texts))
        return built

    def _value(self, event: "Event", path: str, depth: int, *, texts: bool) -> Any:
        from yaml import events

        if depth >= DEEPEST:
            raise self._no(event, f"nested more than {DEEPEST} levels")
        match event:
            case events.MappingStartEvent():
                return self._mapping(path, depth + 1, texts=texts)
            case events.SequenceStartEvent():
                return self._sequence(path, depth + 1, texts=texts)
            case events.ScalarEvent():
                return _scalar(event, texts=texts)
            case _:
                raise self._no(event, "a value was expected")

    def _no(self, event: "Event", why: str, hint: str = "") -> CommandError:
        return _refused(self._path, _line(event), why, hint)


def _line(event: "Event") -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _scalar(event: "ScalarEvent", *, texts: bool) -> Any:
    text: str = event.value
    if event.style is not None or (texts and text not in ("", "~", "null")):
        return text
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else text


def _refused(path: Path, line: int, why: str, hint: str = "") -> CommandError:
    return CommandError(
        "rollout.plan_file", f"{path}:{line}: {why}", hint or "server/ROLLOUTS.md shows a plan with all of its keys"
    )
