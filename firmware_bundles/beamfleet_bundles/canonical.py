"""Owns the one spelling of JSON that is hashed and signed; knows nothing of what it spells.

UTF-8, keys sorted by code point, no spaces, integers only, strings in NFC, no duplicate keys, one trailing newline.
`decode` takes that spelling and no other, so a decoded document encodes to the very bytes it came from.
"""

import json
import unicodedata
from typing import Any, Never

from beamfleet_bundles.errors import BundleError

MAX_INTEGER = 2**53 - 1
"""Largest magnitude of an integer: what every JSON reader holds exactly."""


def encode(value: Any, max_depth: int = 32) -> bytes:
    """The canonical bytes of dicts, lists, strings, integers, booleans and None; error `canonical.value`."""
    _check(value, max_depth)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


def decode(data: bytes, max_size: int = 1 << 20, max_depth: int = 32) -> Any:
    """The value that `data`, at most `max_size` bytes, spells.

    Errors: `canonical.too_large`, `canonical.syntax`, `canonical.value` (depth included), `canonical.form`.
    """
    if len(data) > max_size:
        raise BundleError("canonical.too_large", f"a document of {len(data)} bytes is larger than {max_size} bytes")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except RecursionError:
        raise BundleError("canonical.value", f"a document is nested deeper than {max_depth} levels") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BundleError("canonical.syntax", f"a document is not JSON: {error}") from None
    if encode(value, max_depth) != data:
        raise BundleError("canonical.form", "a document is not in canonical form")
    return value


def _check(value: Any, depth: int) -> None:
    match value:
        case None | bool():
            pass
        case str():
            _check_text(value)
        case int():
            if abs(value) > MAX_INTEGER:
                raise BundleError("canonical.value", "an integer is beyond 2^53 - 1")
        case dict() | list() | tuple():
            if depth == 0:
                raise BundleError("canonical.value", "a document is nested too deeply")
            if isinstance(value, dict):
                for key in value:
                    if not isinstance(key, str):
                        raise BundleError("canonical.value", f"a key is {type(key).__name__}, not a string")
                    _check_text(key)
                value = value.values()
            for item in value:
                _check(item, depth - 1)
        case _:
            raise BundleError("canonical.value", f"a value is {type(value).__name__}, which canonical JSON has not")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    if not unicodedata.is_normalized("NFC", text):
        raise BundleError("canonical.value", f"{text[:80]!r} is not in NFC")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BundleError("canonical.value", f"{text[:80]!r} holds half of a surrogate pair")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise BundleError("canonical.value", "an object has the same key twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 17:
        raise BundleError("canonical.value", "an integer is beyond 2^53 - 1")
    return int(digits)


def _refuse_number(text: str) -> Never:
    raise BundleError("canonical.value", f"{text[:80]} is not an integer")
