"""Owns reading one Erlang term from text, as `file:consult/1` reads the terms that describe releases.

Atoms become `Atom`, strings `str`, binaries of a string `bytes`, tuples and lists Python's own, numbers integers. Maps,
floats, bit syntax and characters are refused: no `.rel` file holds them.
"""

import re
from collections.abc import Iterator
from typing import Any, Never

from beamfleet_bundles.errors import BundleError

_MAX_DEPTH = 32
_TOKEN = re.compile(
    r"""(?:\s|%[^\n]*)*(?:
        (?P<atom>[a-z][A-Za-z0-9_@]*|'(?:[^'\\]|\\.)*') | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<integer>-?[0-9]{1,18})(?![0-9\#]|\.[0-9]) | (?P<mark><<|>>|[\[\]{},.]) | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "b": "\b", "d": "\x7f", "e": "\x1b", "f": "\f", "v": "\v"}


class Atom(str):
    """An Erlang atom; equal to the string of its name."""

    __slots__ = ()


def parse(text: str) -> Any:
    """The one term in `text`, with its closing dot; error `release.term`."""
    tokens = _tokens(text)
    term = _term(tokens, next(tokens), _MAX_DEPTH)
    if next(tokens)[1] != "." or next(tokens)[0] != "end":
        _refuse("a dot and the end after the term")
    return term


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while True:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            _refuse(f"something else than {text[position : position + 40].strip()!r}")
        yield match.lastgroup, match[match.lastgroup]
        position = match.end()


def _term(tokens: Iterator[tuple[str, str]], token: tuple[str, str], depth: int) -> Any:
    if depth == 0:
        _refuse("less nesting")
    match token:
        case "atom", text:
            return Atom(_unescape(text[1:-1]) if text.startswith("'") else text)
        case "string", text:
            return _unescape(text[1:-1])
        case "integer", text:
            return int(text)
        case _, "{":
            return tuple(_sequence(tokens, "}", depth))
        case _, "[":
            return _sequence(tokens, "]", depth)
        case _, "<<":
            items = _sequence(tokens, ">>", depth)
            if len(items) == 1 and isinstance(items[0], str):
                return items[0].encode()
    return _refuse(f"something else than {token[1][:40]!r}")


def _sequence(tokens: Iterator[tuple[str, str]], end: str, depth: int) -> list[Any]:
    items: list[Any] = []
    token = next(tokens)
    if token[1] == end and token[0] == "mark":
        return items
    while True:
        items.append(_term(tokens, token, depth - 1))
        match next(tokens):
            case "mark", ",":
                token = next(tokens)
            case "mark", text if text == end:
                return items
            case _, text:
                _refuse(f"a comma or {end} instead of {text[:40]!r}")


def _unescape(text: str) -> str:
    def letter(match: re.Match[str]) -> str:
        if hexadecimal := match[1] or match[2]:
            number = int(hexadecimal, 16)
            return chr(number) if number < 0xD800 or 0xDFFF < number < 0x110000 else _refuse("a character")
        return chr(int(match[3], 8)) if match[3] else _LETTERS.get(match[4], match[4])

    return _ESCAPE.sub(letter, text)


def _refuse(expected: str) -> Never:
    raise BundleError("release.term", f"the file is no Erlang term: expected {expected}")
