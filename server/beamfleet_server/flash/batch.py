"""Owns the CSV manifest of `flash --batch`: one line for each device, every cell checked before anything is done.

The columns are a closed set. Pure but for `readable`, which looks whether the files that a line names are there; means
nothing by the targets.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from beamfleet_bundles.errors import BeamfleetError
from beamfleet_bundles.names import check_device, check_hardware, check_label

from beamfleet_server.flash.errors import FlashError

WHO = ("id", "serial")
TARGETS = ("root", "image", "device", "ssh", "deb")
COLUMNS = (*WHO, "labels", *TARGETS, "env_file", "bundle", "hardware", "network", "profile")
PATHS = ("root", "image", "device", "deb", "env_file", "bundle")
FILES = ("env_file", "bundle")
NETWORKS, PROFILES = ("wired", "wifi", "cellular", "unknown"), ("wired", "metered")
MAX_SIZE = 16 << 20
_SERIAL = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,62}")
_HINT = f"columns are: {', '.join(COLUMNS)}; a line has an id or a serial"


@dataclass(frozen=True, slots=True)
class Line:
    """A device of the manifest. `number` is its line in the file; `cells` are those that are not empty, paths as they
    are seen from here."""

    number: int
    cells: Mapping[str, str]
    labels: Mapping[str, str]
    digest: str
    """Of everything that the line says: whether it is still what was done."""

    @property
    def id(self) -> str:
        """Empty where only the serial number is given."""
        return self.cells.get("id", "")

    @property
    def serial(self) -> str:
        return self.cells.get("serial", "")

    @property
    def key(self) -> str:
        """What names the line from one run to the next."""
        return self.id or self.serial

    @property
    def target(self) -> str:
        """In words: `root /mnt/card`."""
        return ", ".join(f"{name} {self.cells[name]}" for name in TARGETS if name in self.cells)

    def id_with(self, prefix: str) -> str:
        """The id, or the prefix and the serial number in small letters."""
        return self.id or f"{prefix}{self.serial.lower()}"


def parse(text: str, name: str, beside: Path, *, targets: bool = True) -> tuple[Line, ...]:
    """The devices of a manifest; relative paths are beside it. targets: each line has one. Error `flash.batch`, which
    names line and column."""
    lines: list[Line] = []
    for number, cells in _rows(text, name):
        said = json.dumps(cells, sort_keys=True).encode()
        labels = _labels(cells.get("labels", ""), name, number)
        line = Line(number, _from_here(cells, beside), labels, hashlib.sha256(said).hexdigest()[:16])
        _check(line, name, targets=targets)
        lines.append(line)
    if not lines:
        raise FlashError("flash.batch", f"{name} names no device", _HINT)
    for column in ("id", "serial", *TARGETS):
        seen: dict[str, int] = {}
        for line in lines:
            value = line.cells.get(column, "")
            if value and column == "image" and "device" in line.cells:
                continue  # one image is written to many cards
            if value and seen.setdefault(value, line.number) != line.number:
                raise _wrong(name, line.number, column, f"{value!r} is that of line {seen[value]} already")
    return tuple(lines)


def readable(lines: Sequence[Line], name: str) -> None:
    """Refuse lines that name files which cannot be read; error `flash.batch`."""
    for line in lines:
        for column in FILES:
            if (path := line.cells.get(column)) and not (Path(path).is_file() and os.access(path, os.R_OK)):
                raise _wrong(name, line.number, column, f"cannot read {path}")


def misfit(name: str, line: Line, column: str, why: str) -> FlashError:
    """The error for a line that others find wrong."""
    return _wrong(name, line.number, column, why)


def _rows(text: str, name: str) -> list[tuple[int, dict[str, str]]]:
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=";" if ";" in first and "," not in first else ",", strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] = []
    number = 1
    try:
        for row in reader:
            began, number = number, reader.line_num + 1
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = _header(cells, name, began)
            elif len(cells) != len(header):
                what = f"there are {len(cells)} cells, and {len(header)} columns"
                raise _wrong(name, began, header[min(len(cells), len(header) - 1)], what)
            else:
                rows.append((began, {key: cell for key, cell in zip(header, cells, strict=True) if cell}))
    except csv.Error as error:
        raise FlashError("flash.batch", f"{name}, line {number}: {error}", 'quote cells with commas: "a,b"') from None
    return rows


def _header(cells: list[str], name: str, number: int) -> list[str]:
    for cell in cells:
        if cell not in COLUMNS:
            raise FlashError("flash.batch", f"{name}, line {number}: there is no column {cell[:40]!r}", _HINT)
        if cells.count(cell) > 1:
            raise FlashError("flash.batch", f"{name}, line {number}: the column {cell} is there twice", _HINT)
    if not set(WHO) & set(cells):
        raise FlashError("flash.batch", f"{name}, line {number}: no column says who a device is", _HINT)
    return cells


def _from_here(cells: Mapping[str, str], beside: Path) -> dict[str, str]:
    return {key: str(beside / cell) if key in PATHS else cell for key, cell in cells.items()}


def _labels(text: str, name: str, number: int) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in re.split(r"[\s,;]+", text):
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not equals:
            raise _wrong(name, number, "labels", f"{pair!r} is not key=value")
        _well(name, number, "labels", lambda key=key, value=value: check_label(key, value))  # type: ignore[misc]
        if labels.setdefault(key, value) != value:
            raise _wrong(name, number, "labels", f"{key} is there twice")
    return labels


def _check(line: Line, name: str, *, targets: bool) -> None:
    for column, cell in line.cells.items():
        if column != "labels" and not cell.isprintable():
            raise _wrong(name, line.number, column, "there are characters in it that cannot be shown")
    if not line.key:
        raise _wrong(name, line.number, "id", "there is neither an id nor a serial")
    if line.id:
        _well(name, line.number, "id", lambda: check_device(line.id))
    if line.serial and not _SERIAL.fullmatch(line.serial):
        what = f"{line.serial[:40]!r} is no serial number: letters, digits, dots, dashes, underscores"
        raise _wrong(name, line.number, "serial", what)
    if "hardware" in line.cells:
        _well(name, line.number, "hardware", lambda: check_hardware(line.cells["hardware"]))
    for column, allowed in (("network", NETWORKS), ("profile", PROFILES)):
        if line.cells.get(column, allowed[0]) not in allowed:
            raise _wrong(name, line.number, column, f"one of {', '.join(allowed)}")
    named = [column for column in TARGETS if column in line.cells]
    if "device" in named and "image" in named:
        named.remove("image")
    if targets and not named:
        raise _wrong(name, line.number, "root", f"there is no target: one of {', '.join(TARGETS)}")
    if targets and len(named) > 1:
        raise _wrong(name, line.number, named[1], f"one target at a time, and there is {named[0]} already")


def _well(name: str, number: int, column: str, check: Callable[[], object]) -> None:
    try:
        check()
    except BeamfleetError as error:
        raise _wrong(name, number, column, error.message, error.hint) from None


def _wrong(name: str, number: int, column: str, why: str, hint: str = "") -> FlashError:
    return FlashError("flash.batch", f"{name}, line {number}, column {column}: {why}", hint or _HINT)
