"""What a power cut may leave, by the rules alone: epochs, selections, fingerprints, promises."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crash.disk import Entry, Flush, Mark, Write
from tests.crash.invariants import STATE, Facts, History, Witness, broken
from tests.crash.states import BLOCK, Content, Limits, epochs, selections

pytestmark = pytest.mark.suite(name="crash")

ALL = Limits(prefixes=100, singles=100, all_but_one=100, tears=100, subsets=100)
LINKS = frozenset({"slots/a"})


def write(number: int, byte: int = 1, blocks: int = 1) -> Write:
    return Write(number * BLOCK, bytes([byte]) * BLOCK * blocks)


def chosen(*writes: Write, limits: Limits = ALL) -> list[tuple[Write, ...]]:
    return list(selections(writes, limits, Random(1)))  # noqa: S311 - to be repeated


def test_an_epoch_ends_at_each_flush_and_what_no_flush_ended_is_one_too() -> None:
    entries: list[Entry] = [write(0), Flush(), Flush(), write(1), Mark("said"), write(2)]
    found = [(epoch.number, len(epoch.writes), epoch.marks) for epoch in epochs(entries)]
    assert found == [(0, 1, ()), (1, 0, ()), (2, 2, ("said",))]


def test_an_epoch_may_keep_nothing_all_prefixes_all_but_one_and_one_alone() -> None:
    one, two, three = write(0), write(1), write(2)
    kept = chosen(one, two, three)
    assert kept[:2] == [(), (one, two, three)]
    for part in [(one,), (one, two), (two, three), (one, three), (two,), (three,)]:
        assert part in kept


def test_a_write_of_several_blocks_is_torn_at_a_block() -> None:
    kept = chosen(write(0), write(8, blocks=3))
    torn = [selection[1] for selection in kept if len(selection) == 2 and len(selection[1].data) < 3 * BLOCK]
    assert torn
    assert all(len(part.data) % BLOCK == 0 and part.offset % BLOCK == 0 for part in torn)


def test_an_epoch_without_writes_has_one_state() -> None:
    assert chosen() == [()]


def test_what_is_left_out_of_a_long_epoch_is_spread_over_all_of_it() -> None:
    writes = [write(number) for number in range(400)]
    kept = chosen(*writes, limits=Limits(prefixes=40, singles=0, all_but_one=0, tears=0, subsets=0))
    lengths = [len(selection) for selection in kept[2:]]
    assert len(lengths) == 40
    assert min(lengths) < 50
    assert max(lengths) > 350


_WRITES = st.lists(
    st.builds(Write, st.integers(0, 6).map(lambda n: n * 512), st.binary(min_size=1, max_size=9000)), max_size=6
)


@given(_WRITES, _WRITES)
def test_contents_are_the_same_exactly_if_their_fingerprints_are(one: list[Write], other: list[Write]) -> None:
    first, second = Content(), Content()
    first.apply(one), second.apply(other)
    same = _bytes(one) == _bytes(other)
    assert (first.fingerprint == second.fingerprint) == same


@given(_WRITES, _WRITES)
def test_a_state_is_what_the_writes_make_of_what_is_durable(durable: list[Write], kept: list[Write]) -> None:
    content = Content()
    content.apply(durable)
    changed, fingerprint = content.with_writes(kept)
    disk = bytearray(_bytes(durable))
    for number, block in changed.items():
        disk[number * BLOCK : (number + 1) * BLOCK] = block
    assert bytes(disk) == _bytes([*durable, *kept])
    content.apply(kept)
    assert content.fingerprint == fingerprint


def _bytes(writes: list[Write]) -> bytes:
    disk = bytearray(4 * BLOCK)
    for one in writes:
        disk[one.offset : one.offset + len(one.data)] = one.data
    return bytes(disk)


# --- promises


def facts(
    state: str = "one", starts: int = 1, last_request: int = 0, current: str = "slots/a", **more: object
) -> Facts:
    return Facts({STATE: state}, starts, last_request, {}, {"a": ""}, current)


def history(*upto: str) -> History:
    said: list[str] = []
    witness = Witness(said.append)
    witness.whole("a")
    witness.version(STATE, "one")
    witness.relied(STATE, "it was there")
    witness.filed(1, "swap b 1")
    witness.version(STATE, "two")
    witness.started(2)
    witness.relied(STATE, "the agent saw it")
    witness.answered(1)
    known = History(said)
    for mark in said:
        known.take(mark)
        if any(word in mark for word in upto):
            break
    return known


def test_a_disk_that_keeps_every_promise_breaks_none() -> None:
    assert not list(broken(facts("two", starts=2, last_request=1), history(), LINKS))


@pytest.mark.parametrize(
    ("disk", "upto", "word"),
    [
        (facts("one", starts=2, last_request=1), "", "went back"),
        (facts("on", starts=2, last_request=1), "", "neither old nor new"),
        (facts("two", starts=1, last_request=1), "", "not counted"),
        (facts("two", starts=2, last_request=0), "", "without its outcome"),
        (facts("one"), "filed", "is lost"),
        (facts("two", starts=2, last_request=1, current="slots/b"), "", "current leads"),
        (Facts({}, 2, 1, {}, {"a": ""}, "slots/a"), "", "gone or damaged"),
        (Facts({STATE: "two"}, 2, 1, {}, {}, "slots/a"), "", "slot a is gone"),
        (Facts({STATE: "two"}, 2, 1, {}, {"a": "", "b": "half"}, "slots/a"), "", "not whole"),
        (Facts({STATE: "two"}, 2, 1, {7: "sw"}, {"a": ""}, "slots/a"), "", "request 7 is 'sw'"),
    ],
    ids=lambda value: value if isinstance(value, str) and value else None,
)
def test_a_broken_promise_is_seen(disk: Facts, upto: str, word: str) -> None:
    assert [text for text in broken(disk, history(*filter(None, [upto])), LINKS) if word in text]


def test_what_is_newer_than_promised_is_no_broken_promise() -> None:
    early = history("it was there")
    assert not list(broken(facts("two", starts=2), early, LINKS))
