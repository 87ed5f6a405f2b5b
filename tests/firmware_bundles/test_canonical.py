import json
import unicodedata
from typing import Any

import pytest
from beamfleet_bundles import canonical
from beamfleet_bundles.errors import BundleError
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import refusal

TEXT = st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: unicodedata.normalize("NFC", text))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=30,
)


@given(VALUES)
def test_every_value_reads_back_and_has_one_spelling(value: Any) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert json.loads(data) == value
    assert data.endswith(b"\n")


def test_keys_are_sorted_and_nothing_is_wasted() -> None:
    assert canonical.encode({"b": [1, True, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,true,null]}\n'.encode()


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("canonical.syntax", b""),
        ("canonical.syntax", b"{"),
        ("canonical.syntax", b"\xff\n"),
        ("canonical.syntax", b'{"a":1}x\n'),
        ("canonical.value", b"1.5\n"),
        ("canonical.value", b"1e3\n"),
        ("canonical.value", b"NaN\n"),
        ("canonical.value", b"-Infinity\n"),
        ("canonical.value", b"9007199254740992\n"),
        ("canonical.value", b"9" * 5000 + b"\n"),
        ("canonical.value", b'{"a":1,"a":1}\n'),
        ("canonical.value", b'"\\ud800"\n'),
        ("canonical.value", '"e\u0301"\n'.encode()),
        ("canonical.value", b"[" * 40 + b"]" * 40 + b"\n"),
        ("canonical.value", b"[" * 100_000 + b"]" * 100_000 + b"\n"),
        ("canonical.form", b"{}"),
        ("canonical.form", b"{} \n"),
        ("canonical.form", b"{}\n\n"),
        ("canonical.form", b'{"b":1,"a":1}\n'),
        ("canonical.form", b'{"a": 1}\n'),
        ("canonical.form", b'"\\u0061"\n'),
        ("canonical.form", b"-0\n"),
        ("canonical.too_large", b'"' + b"a" * (1 << 20) + b'"\n'),
    ],
)
def test_every_other_spelling_is_refused(code: str, data: bytes) -> None:
    with pytest.raises(BundleError) as error:
        canonical.decode(data)
    assert error.value.code == code


@pytest.mark.parametrize("value", [1.0, {1: 2}, {"a": {"b": object()}}, b"x", 2**60, "e\u0301"])
def test_what_json_cannot_say_in_one_way_is_not_written(value: Any) -> None:
    with pytest.raises(BundleError) as error:
        canonical.encode(value)
    assert error.value.code == "canonical.value"


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    if not (code := refusal(canonical.decode, data)):
        assert canonical.encode(canonical.decode(data)) == data
    assert code == "" or code.startswith("canonical.")
