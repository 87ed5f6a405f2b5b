"""Owns what must be true of a disk after any power cut. Pure: it compares what was found with what had been promised.

While a subject is recorded, a `Witness` says what happens: a new version of a file is about to come or was seen, and
somebody now relies on one. Afterwards, `promises` gathers what was said before the cut, and `broken` holds the disk
against it. A promise is never about the future: what is on disk may always be newer than what was promised.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

STATE, JOURNAL, TRUST = "boot/state", "journal", "trust"


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on a disk after a power cut, with the means of the shipped code."""

    versions: Mapping[str, str]
    """Content of what has versions; not in it what is not there or cannot be believed."""
    starts: int
    last_request: int
    requests: Mapping[int, str]
    slots: Mapping[str, str]
    """Those that have their name: empty when whole, else what is wrong."""
    current: str
    """Where the link leads; empty when there is none."""
    troubles: tuple[str, ...] = ()
    """What the recovery could not do."""


@dataclass(slots=True)
class Promises:
    """What somebody relied on when the power went."""

    newest: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The oldest version that may be there, by number, and who relies on it."""
    starts: int = 0
    answered: int = 0
    filed: dict[int, str] = field(default_factory=dict)
    slots: set[str] = field(default_factory=set)


class Witness:
    """Says what happens; `say` takes one line and must have it in the log before it returns."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def version(self, what: str, value: str) -> None:
        """`what` has, or will have, this content next."""
        self._say(json.dumps({"version": what, "value": value}))

    def relied(self, what: str, why: str) -> None:
        """Somebody relies on the newest version of `what`."""
        self._say(json.dumps({"relied": what, "why": why}))

    def started(self, starts: int) -> None:
        """A VM runs: it has been counted."""
        self._say(json.dumps({"started": starts}))

    def filed(self, number: int, line: str) -> None:
        """The launcher was asked: it will be done, or refused."""
        self._say(json.dumps({"filed": number, "line": line}))

    def answered(self, number: int) -> None:
        """The request is deleted: its outcome is known."""
        self._say(json.dumps({"answered": number}))

    def whole(self, slot: str) -> None:
        """The slot was reported, or is in use."""
        self._say(json.dumps({"whole": slot}))


class History:
    """What a witness said, taken in order. `versions` is all of it; `promises` what has been taken so far."""

    def __init__(self, marks: Iterable[str]) -> None:
        self.versions: dict[str, list[str]] = {}
        self.lines: set[str] = set()
        self.promises = Promises()
        self._seen: dict[str, int] = {}
        for mark in marks:
            match json.loads(mark):
                case {"version": str(what), "value": str(value)}:
                    self.versions.setdefault(what, []).append(value)
                case {"filed": int(_), "line": str(line)}:
                    self.lines.add(line)

    def take(self, mark: str) -> None:
        """This was said next."""
        said = self.promises
        match json.loads(mark):
            case {"version": str(what), "value": str(_)}:
                self._seen[what] = self._seen.get(what, -1) + 1
            case {"relied": str(what), "why": str(why)}:
                said.newest[what] = (self._seen[what], why)
            case {"started": int(starts)}:
                said.starts = max(said.starts, starts)
            case {"filed": int(number), "line": str(line)}:
                said.filed[number] = line
            case {"answered": int(number)}:
                said.answered = max(said.answered, number)
            case {"whole": str(slot)}:
                said.slots.add(slot)
            case other:
                raise ValueError(f"a witness says {other}")


def broken(facts: Facts, history: History, links: frozenset[str]) -> Iterator[str]:
    """Which promises the disk breaks, in words. `links`: where `current` may lead."""
    yield from facts.troubles
    yield from _gone_back(facts, history)
    yield from _requests(facts, history)
    for slot, damage in facts.slots.items():
        if damage:
            yield f"slot {slot} is not whole: {damage}"
    for slot in history.promises.slots - set(facts.slots):
        yield f"slot {slot} is gone"
    if facts.current not in links:
        yield f"current leads to {facts.current!r}"


def _gone_back(facts: Facts, history: History) -> Iterator[str]:
    for what, values in history.versions.items():
        number, why = history.promises.newest.get(what, (-1, ""))
        found = facts.versions.get(what)
        if found is None:
            if number >= 0:
                yield f"{what} is gone or damaged: {why}"
        elif found not in values:
            yield f"{what} is neither old nor new: {found!r}"
        elif (is_now := _last(values, found)) < number:
            yield f"{what} went back from version {number} to {is_now}: {why}"
    if facts.starts < history.promises.starts:
        yield f"start {history.promises.starts} is not counted, only {facts.starts}"


def _requests(facts: Facts, history: History) -> Iterator[str]:
    promised = history.promises
    if facts.last_request < promised.answered:
        yield f"request {promised.answered} is deleted without its outcome"
    for number, line in promised.filed.items():
        if number > facts.last_request and facts.requests.get(number) != line:
            yield f"request {number} {line!r} is lost"
    for number, line in facts.requests.items():
        if line not in history.lines:
            yield f"request {number} is {line!r}"


def _last(values: list[str], value: str) -> int:
    return len(values) - 1 - values[::-1].index(value)
