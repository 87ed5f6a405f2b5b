"""What commands print: lists and objects as a table, JSON, YAML or names; errors; notes.

Answers go to stdout, everything else to stderr. A table is drawn by rich on a terminal and is plain aligned text
elsewhere. Devices say much of what is shown here, so no text reaches a terminal before its control characters, escape
sequences and direction marks are written out as escapes; JSON and YAML are written in ASCII for the same reason.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from beamfleet_bundles.errors import BeamfleetError

if TYPE_CHECKING:
    from rich.table import Table

Item = Mapping[str, Any]
CELL_LIMIT = 120
LINE_LIMIT = 2000


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its header, what it shows of an item, and a rich style for that cell (terminals only)."""

    header: str
    value: Callable[[Item], object]
    style: Callable[[Item], str] = lambda _: ""
    right: bool = False


class Output:
    """Prints in one format. `stdout` takes answers, `stderr` the rest."""

    def __init__(self, stdout: TextIO, stderr: TextIO) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.format = Format.TABLE
        self.shown = False
        """Whether a table or an object was shown to a person."""

    @property
    def for_people(self) -> bool:
        return self.format is Format.TABLE

    def items(self, items: Sequence[Item], columns: Sequence[Column], name: str, empty: str) -> None:
        """A list. `name` is the key that names an item; `empty` tells people what to do when there is none yet."""
        self.shown = self.for_people
        match self.format:
            case Format.TABLE if not items:
                self.note(empty)
            case Format.TABLE if self.stdout.isatty():
                self._draw(items, columns)
            case Format.TABLE:
                rows = [[cell(column.value(item)) for column in columns] for item in items]
                self._align([[column.header for column in columns], *rows])
            case Format.NAME:
                for item in items:
                    self._line(harmless(item[name]))
            case _:
                self._document(list(items))

    def item(self, item: Item, lines: Sequence[tuple[str, object]], name: str) -> None:
        """One object; `lines` are its facts for people, in order."""
        self.shown = self.for_people
        match self.format:
            case Format.TABLE:
                self._align([[f"{label}:" if label else "", cell(value, LINE_LIMIT)] for label, value in lines])
            case Format.NAME:
                self._line(harmless(item[name]))
            case _:
                self._document(item)

    def done(self, item: Item, sentence: str, name: str, then: str = "") -> None:
        """What an action did; `then` says to people what they can do next."""
        if not self.for_people:
            self.item(item, [], name)
            return
        self._line(harmless(sentence))
        if then:
            self.note(f"next: {then}")

    def line(self, item: Item, text: str, name: str) -> None:
        """One of a stream of objects, one line each, at once."""
        match self.format:
            case Format.TABLE:
                self._line(harmless(text))
            case Format.NAME:
                self._line(harmless(item[name]))
            case Format.JSON:
                self._line(json.dumps(item, sort_keys=True))
            case Format.YAML:
                self.stdout.write("---\n")
                self._document(item)
        self.stdout.flush()

    def note(self, text: str) -> None:
        """Something for the person in front of it; scripts may ignore it."""
        print(harmless(text), file=self.stderr, flush=True)

    def problem(self, error: BeamfleetError) -> None:
        """An error: two lines for people, or one problem object (RFC 9457, with `code` and `hint`) on stdout. What an
        error has in `others` stands beside it."""
        others = getattr(error, "others", ())
        if self.format in {Format.JSON, Format.YAML}:
            title = error.code.partition(".")[0]
            told = {"type": "about:blank", "title": title, "detail": error.message, "code": error.code}
            further = [{"code": each.code, "detail": each.message, "hint": each.hint} for each in others]
            self._document(told | {"hint": error.hint} | ({"others": further} if further else {}))
            return
        for each in (error, *others):
            self.note(f"error: {each.message} ({each.code})")
            if each.hint:
                self.note(f"hint: {each.hint}")

    def blank(self) -> None:
        """An empty line between two parts of an answer for people."""
        self._line("")

    def _line(self, text: str) -> None:
        self.stdout.write(text + "\n")

    def _document(self, document: Item | Sequence[Item]) -> None:
        if self.format is Format.YAML:
            import yaml

            self.stdout.write(yaml.safe_dump(_plain(document), sort_keys=False))
        else:
            self._line(json.dumps(document, indent=2))

    def _align(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self._line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())

    def _draw(self, items: Sequence[Item], columns: Sequence[Column]) -> None:
        from rich.console import Console

        Console(file=self.stdout, highlight=False, markup=False, emoji=False).print(table(items, columns))


def harmless(value: object, limit: int = 0) -> str:
    """Text that does nothing to a terminal: what is not printable is shown as its escape; cut at `limit` characters."""
    text = str(value)
    shown = text if text.isprintable() else "".join(map(_escape, text))
    return shown[: limit - 1] + "…" if limit and len(shown) > limit else shown


def cell(value: object, limit: int = CELL_LIMIT) -> str:
    """A value as a table shows it: nothing is a dash, truth is yes or no."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return harmless(value, limit)


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _plain(value: Any) -> Any:
    """Mappings and sequences as YAML's safe writer knows them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def table(items: Sequence[Item], columns: Sequence[Column], *, wrap: bool = True) -> "Table":
    """A table for a terminal. Without `wrap` each item is one line, and the last column has what room is left."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        fixed = not wrap and column is not columns[-1]
        drawn.add_column(column.header, justify="right" if column.right else "left", overflow="fold", no_wrap=fixed)
    looks: dict[str, Any] = {} if wrap else {"no_wrap": True, "overflow": "ellipsis"}
    for item in items:
        drawn.add_row(*(Text(cell(column.value(item)), style=column.style(item), **looks) for column in columns))
    return drawn
