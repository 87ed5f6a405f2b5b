"""The order of versions, conditions on them, and the draw."""

import pytest
from beamfleet_server.fleet.draw import P, bound, draw, lot, within
from beamfleet_server.fleet.versions import Condition, key
from hypothesis import given
from hypothesis import strategies as st

RISING = [
    "0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
    "1.0.0-rc1", "1.0.0-rc2", "1.0.0-rc10", "1.0.0", "1.0.1", "1.0.9", "1.0.10", "1.1.1", "1.1.1a", "1.1.1b", "1.2",
    "1.10", "2", "2.0.0.1", "10.0.0", "2026.01.15",
]  # fmt: skip
VERSIONS = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,12}", fullmatch=True)


def test_versions_rise_as_people_expect() -> None:
    assert sorted(set(RISING), key=key) == RISING


@pytest.mark.parametrize(
    ("one", "other"), [("1.2", "1.2.0"), ("1.2.0", "1.2.0+build7"), ("1.02", "1.2"), ("1", "1.0.0.0")]
)
def test_versions_that_are_the_same(one: str, other: str) -> None:
    assert key(one) == key(other)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_it_is_an_order(one: str, other: str, third: str) -> None:
    low, middle, high = sorted((one, other, third), key=key)
    assert key(low) <= key(middle) <= key(high)
    assert (key(one) < key(other)) + (key(one) > key(other)) + (key(one) == key(other)) == 1
    assert key(one + "-rc1") < key(one) or "-" in one or "+" in one


TABLE = [
    ("<1.1.0", "1.0.9", True),
    ("<1.1.0", "1.1.0", False),
    ("<1.1.0", "1.1.0-rc1", True),
    (">=1.2,<2", "1.2.0", True),
    (">=1.2,<2", "1.10", True),
    (">=1.2,<2", "2.0.0", False),
    (">= 1.2 , < 2", "1.5", True),
    ("1.0.5", "1.0.5", True),
    ("1.0.5", "1.0.5+b1", False),
    ("=1.0.5", "1.0.5+b1", True),
    ("==1.0", "1.0.0", True),
    ("!=1.0", "1.0.0", False),
    ("!=1.0", "1.1", True),
    ("<=1.0", "1.0", True),
    (">1.0", "1.0", False),
    ("<9", "", False),
    ("!=9", "", False),
]


@pytest.mark.parametrize(("text", "version", "holds"), TABLE)
def test_conditions(text: str, version: str, holds: bool) -> None:
    assert Condition.parse(text).holds(version) is holds


@pytest.mark.parametrize("text", ["", ",", "<", "<1,", "1 2", "<<1", "=>1", "1.0 <2", "~1", "^1.2", "<1.0\n", "v" * 65])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="version"):
        Condition.parse(text)


OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "!=", "==": "!=", "!=": "="}


@given(VERSIONS, VERSIONS)
def test_a_comparison_holds_where_its_opposite_does_not(version: str, other: str) -> None:
    for sign, opposite in OPPOSITE.items():
        condition = Condition.parse(f"{sign} {version}")
        assert Condition.parse(condition.text) == condition
        assert condition.holds(other) != Condition.parse(opposite + version).holds(other)


def test_a_draw_is_the_same_for_ever() -> None:
    """What is drawn today is drawn after an upgrade too; a change here moves devices between the phases of rollouts."""
    assert [lot(name) for name in ("gw-1", "gw-2")] == [1_964_202_792, 1_947_005_187]
    assert [draw("sensor-gateway", name) for name in ("gw-1", "gw-2")] == [325_504_406, 482_706_279]


@given(st.text(max_size=20), st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True), st.integers(0, 99))
def test_a_higher_percentage_has_everyone_of_a_lower_one(salt: str, device: str, percent: int) -> None:
    assert 0 <= draw(salt, device) < P
    assert not within(percent, salt, device) or within(percent + 1, salt, device)
    assert within(100, salt, device)
    assert not within(0, salt, device)


def test_shares_are_about_as_large_as_they_say_and_differ_by_salt() -> None:
    fleet = [f"gw-{number}" for number in range(10_000)]
    one, other = ({name for name in fleet if within(10, salt, name)} for salt in ("one", "other"))
    assert 900 < len(one) < 1100
    assert 900 < len(other) < 1100
    assert 50 < len(one & other) < 200
    assert bound(50) == P // 2
