from typing import Any

import pytest
from beamfleet_bundles.build.erlterm import Atom, parse
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import refusal

ATOMS = st.from_regex(r"[a-z][A-Za-z0-9_@]{0,10}", fullmatch=True).map(Atom)
TERMS = st.recursive(
    ATOMS | st.text(st.characters(codec="utf-8"), max_size=10) | st.integers(-(10**17), 10**17),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=20,
)


def written(term: Any) -> str:
    match term:
        case Atom():
            return str(term)
        case str():
            return '"' + "".join(f"\\x{{{ord(c):X}}}" if c in '"\\' or ord(c) < 32 else c for c in term) + '"'
        case int():
            return str(term)
        case tuple():
            return "{" + ", % a comment\n ".join(map(written, term)) + "}"
    return "[" + ",".join(map(written, term)) + "]"


@given(TERMS)
def test_every_term_reads_back(term: Any) -> None:
    assert parse(f"%% coding: utf-8\n{written(term)}.\n") == term


def test_the_spellings_of_erlang_are_known() -> None:
    assert parse("'Elixir.App'.") == Atom("Elixir.App")
    assert parse(r"""{'it\'s',"\n\x41\x{e9}\101\\",<<"bin">>,[],{}} .""") == ("it's", "\nAéA\\", b"bin", [], ())
    assert isinstance(parse("a."), Atom)
    assert not isinstance(parse('"a".'), Atom)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a",
        "a b.",
        "a. b.",
        "{a.",
        "[a,].",
        "{a}}.",
        "1.5.",
        "16#ff.",
        "#{a => b}.",
        "Variable.",
        '"open.',
        "'open.",
        "<<1,2>>.",
        "[a|b].",
        "fun() -> ok end.",
        "$a.",
        '"\\x{110000}".',
        '"\\x{d800}".',
        "[" * 40 + "]" * 40 + ".",
        "a.\0",
    ],
)
def test_what_is_no_plain_term_is_refused(text: str) -> None:
    assert refusal(parse, text) == "release.term"


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert refusal(parse, text) in ("", "release.term")
