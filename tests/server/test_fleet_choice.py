"""Which devices are meant, and which bundle fits one of them."""

from dataclasses import dataclass

import pytest
from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.fleet.targets import choose
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True)


@given(st.dictionaries(WORDS, WORDS, max_size=5))
def test_a_selector_reads_back_and_matches_what_it_names(labels: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in labels.items())
    selector = Selector.parse(text)
    assert Selector.parse(str(selector)) == selector
    assert selector.matches(labels | {"Another": "more"})
    assert not labels or not selector.matches({})


def test_an_empty_selector_means_every_device() -> None:
    assert Selector.parse("") == Selector.parse(" , ") == Selector()
    assert Selector().matches({})


@pytest.mark.parametrize("text", ["site", "site=", "=berlin", "Site=x", "site=a,site=b", "site=a b", "a=" + "x" * 64])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ServerError) as caught:
        Selector.parse(text)
    assert caught.value.code == "request.selector"


@dataclass(frozen=True)
class Made:
    target: str


PLAIN, NEWER, BOARD = Made("x86_64-glibc-otp25"), Made("x86_64-glibc-otp26"), Made("x86_64-glibc-otp25-kiosk")
OTHER = Made("aarch64-glibc-otp26")
PC = {"arch": "x86_64", "libc": "glibc", "hardware": ""}


def test_another_machine_or_libc_never_fits() -> None:
    assert choose([OTHER], PC) is None
    assert choose([PLAIN], PC | {"libc": "musl"}) is None
    assert choose([], PC) is None


def test_the_newest_otp_is_taken() -> None:
    assert choose([PLAIN, NEWER, OTHER], PC) == NEWER


def test_a_bundle_for_the_own_hardware_comes_first_and_one_for_another_never() -> None:
    assert choose([PLAIN, NEWER, BOARD], PC | {"hardware": "kiosk"}) == BOARD
    assert choose([BOARD], PC | {"hardware": "till"}) is None
    assert choose([BOARD], PC) is None
