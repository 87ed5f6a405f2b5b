"""Owns the order of versions, and conditions on them such as `>=1.2,<2` or `1.0.5`.

As semantic versioning has it: numbers by value, what follows a dash is a release before the one without, what follows a
plus does not count. Beyond it: a missing part is 0 (1.2 is 1.2.0), and within a part letters follow digits, so that
1.1.1 < 1.1.1a and rc2 < rc10.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_version

Run = tuple[int, int, str]
Part = tuple[Run, ...]
Key = tuple[tuple[Part, ...], bool, tuple[Part, ...]]
"""What versions are compared by."""

_RUN = re.compile(r"([0-9]+)|([A-Za-z]+)")
_ZERO: Part = ((0, 0, ""),)
_COMPARISON = re.compile(r"(<=|>=|==|!=|<|>|=)? *([^\s<>=!]+)")
_HOLDS: dict[str, Callable[[Key, Key], bool]] = {
    "<": lt, "<=": le, ">": gt, ">=": ge, "=": eq, "==": eq, "!=": ne,
}  # fmt: skip


def key(version: str) -> Key:
    """What `version` is compared by: `key(a) < key(b)` if a is the earlier one."""
    core, _, before = version.partition("+")[0].partition("-")
    parts = _parts(core)
    while parts and parts[-1] == _ZERO:
        parts = parts[:-1]
    return parts, not before, _parts(before)


def _parts(text: str) -> tuple[Part, ...]:
    return tuple(tuple(map(_run, _RUN.finditer(part))) for part in re.split(r"[.-]", text)) if text else ()


def _run(found: re.Match[str]) -> Run:
    number, letters = found.groups()
    return (0, int(number), "") if number else (1, 0, letters)


@dataclass(frozen=True, slots=True)
class Condition:
    """Comparisons that all hold; a version alone means exactly that one, letter by letter."""

    text: str
    terms: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """The condition that `text` spells; ValueError says what is wrong with it."""
        terms = []
        for part in text.split(","):
            found = _COMPARISON.fullmatch(part.strip(" "))
            if found is None:
                raise ValueError(f"{part.strip()[:80]!r} is neither a version nor a comparison with one")
            sign, version = found.group(1) or "", found.group(2)
            try:
                terms.append((sign, check_version(version)))
            except BundleError as error:
                raise ValueError(error.message) from None
        return cls(",".join(sign + version for sign, version in terms), tuple(terms))

    def holds(self, version: str) -> bool:
        """Whether `version` meets it; an empty one (unknown) meets nothing."""
        if not version:
            return False
        ours = key(version)
        return all(_HOLDS[sign](ours, key(other)) if sign else version == other for sign, other in self.terms)
