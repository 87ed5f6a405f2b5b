"""The journal: what a power cut leaves of it is the old one, the new one, or nothing that is believed."""

import json
from pathlib import Path

import pytest
from beamfleet_agent.errors import AgentError
from beamfleet_agent.journal import Journal, Ledger, decode, encode
from beamfleet_agent.probes import Probe
from beamfleet_agent.update_state import PHASES, Release, State, Update
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text(max_size=20)
RELEASES = st.builds(
    Release, st.text("0123456789abcdef", min_size=64, max_size=64), NAMES, NAMES, st.lists(NAMES).map(tuple),
    probes=st.lists(st.builds(Probe, NAMES, NAMES, NAMES, st.integers(0, 3600)), max_size=3).map(tuple),
    confirm=st.booleans(),
)  # fmt: skip
STATES = st.builds(
    lambda **durable: State(**durable),  # noqa: PLW0108 - builds would fill in the rest of a bare State as well
    update=st.builds(Update, phase=st.sampled_from(PHASES), slot=NAMES, detail=NAMES, attempt=st.integers(0, 99)),
    offered=NAMES,
    accepted=NAMES,
    sequence=st.integers(0, 2**53),
    spent=st.lists(st.tuples(NAMES, st.integers(0, 99))).map(tuple),
    releases=st.lists(RELEASES, max_size=4).map(tuple),
    floors=st.dictionaries(NAMES, st.integers(0, 99)).map(lambda floors: tuple(sorted(floors.items()))),
    director=NAMES,
)
LEDGERS = st.builds(
    Ledger, st.integers(0, 2**40), st.integers(0, 2**40), st.lists(st.dictionaries(NAMES, NAMES)).map(tuple),
    st.integers(0, 9), st.lists(st.tuples(NAMES, NAMES, st.integers(0, 9), st.integers(0, 255))).map(tuple),
)  # fmt: skip
SOME = encode(State(Update("staged", "a" * 32), accepted="x", sequence=7), Ledger(boot=3, starts=2))
GOLDEN = Path(__file__).parent / "golden"


@given(STATES, LEDGERS)
def test_what_is_written_is_read_back(state: State, ledger: Ledger) -> None:
    assert decode(encode(state, ledger)) == (state, ledger)


@pytest.mark.parametrize("length", range(0, len(SOME) - 1, 7))
def test_a_torn_journal_is_not_believed(length: int) -> None:
    assert decode(SOME[:length]) is None


@given(st.integers(0, len(SOME) - 2), st.integers(1, 255))
def test_a_journal_with_one_wrong_byte_is_not_believed_or_says_the_same(place: int, change: int) -> None:
    damaged = bytearray(SOME)
    damaged[place] ^= change
    assert decode(bytes(damaged)) in (None, decode(SOME))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_the_journal_raise(data: bytes) -> None:
    decode(data)


@pytest.mark.parametrize("data", [b"", b"\0" * 512, b"{}", b"[]", b"null", b'{"v":1,"crc32":"0","content":[]}'])
def test_what_is_no_journal_is_not_believed(data: bytes) -> None:
    assert decode(data) is None


def test_a_journal_of_another_format_is_not_believed() -> None:
    document = json.loads(SOME)
    assert decode(json.dumps({**document, "v": 2}).encode()) is None


def test_the_journal_of_the_first_version_stays_readable() -> None:
    remembered = decode((GOLDEN / "journal.v1.json").read_bytes())
    assert remembered is not None
    state, ledger = remembered
    assert (state.update.phase, state.update.version, state.sequence) == ("trial", "1.1.0", 1_760_000_000)
    assert (state.spent, state.floors, state.director) == ((("b" * 32, 1),), (("gateway", 3),), "")
    assert state.releases[0].permanent == ("kernel", "stdlib", "gateway")
    assert (ledger.boot, ledger.starts, ledger.outbox[0]["kind"]) == (12, 5, "restart")


def test_the_journal_of_the_version_with_hooks_stays_readable() -> None:
    remembered = decode((GOLDEN / "journal.v1-hooks.json").read_bytes())
    assert remembered is not None
    state, ledger = remembered
    assert (state.update.phase, state.update.origin, state.update.put_off, state.update.forced) == (
        "staged", "rollback", 3, True,
    )  # fmt: skip
    assert [release.data_schema for release in state.releases] == [6, 7]
    assert ledger.hooks == (("post-swap", "a" * 32, 1, 0), ("commit", "a" * 32, 1, 1))
    assert state.floors == (("gateway", 4),)


def test_the_journal_of_the_version_with_a_floor_for_each_product_stays_readable() -> None:
    remembered = decode((GOLDEN / "journal.v1-floors.json").read_bytes())
    assert remembered is not None
    state, ledger = remembered
    assert (state.floors, state.director) == ((("camera", 9), ("gateway", 4)), f"{'1' * 64} {'2' * 64}")
    assert state.done == ("", 0)
    assert json.loads(encode(state, ledger))["content"]["floor"] == 9, "an older agent knows one for all"


def test_the_journal_of_the_version_that_remembers_what_was_carried_out_stays_readable() -> None:
    remembered = decode((GOLDEN / "journal.v1-done.json").read_bytes())
    assert remembered is not None
    state, _ = remembered
    assert (state.done, state.update.origin) == (("b" * 32, 2), "file")
    assert state.update.trace_id == ""


def test_the_journal_of_the_version_that_traces_stays_readable() -> None:
    remembered = decode((GOLDEN / "journal.v1-trace.json").read_bytes())
    assert remembered is not None
    state, ledger = remembered
    assert (state.update.trace_id, state.update.span_id) == ("c" * 32, "d" * 16)
    assert encode(state, ledger) == (GOLDEN / "journal.v1-trace.json").read_bytes()


def test_the_journal_of_the_version_with_probes_that_go_on_stays_readable() -> None:
    remembered = decode((GOLDEN / "journal.v1-probes.json").read_bytes())
    assert remembered is not None
    (release,) = remembered[0].releases
    assert release.probes == (
        Probe("startup", "http", "8080/up", failure_threshold=30),
        Probe("readiness", "tcp", "5432", initial_delay_s=5, period_s=3, success_threshold=2),
        Probe("liveness", "erlang", timeout_s=4),
    )
    assert release.confirm is True


def test_every_sample_is_read_by_a_test() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {
        "journal.v1.json",
        "journal.v1-hooks.json",
        "journal.v1-floors.json",
        "journal.v1-done.json",
        "journal.v1-trace.json",
        "journal.v1-probes.json",
    }


def test_what_this_version_writes_has_everything_that_an_older_one_reads() -> None:
    """An older agent looks for the keys of its own sample and passes over others: none may go or change its kind."""
    older = json.loads((GOLDEN / "journal.v1.json").read_bytes())
    newer = json.loads((GOLDEN / "journal.v1-done.json").read_bytes())
    assert older["v"] == newer["v"]
    pairs = [
        (older["content"], newer["content"]),
        (older["content"]["update"], newer["content"]["update"]),
        (older["content"]["releases"][0], newer["content"]["releases"][0]),
        (older["content"]["outbox"][0], newer["content"]["outbox"][0]),
    ]
    for before, after in pairs:
        assert {key: type(value) for key, value in before.items()} == {key: type(after.get(key)) for key in before}
    assert newer["content"]["update"]["phase"] in PHASES


def test_keys_of_a_newer_version_are_ignored_and_missing_ones_have_defaults() -> None:
    from zlib import crc32

    content = {"update": {"phase": "committed", "new_key": 1}, "future": {"a": [1]}}
    inner = json.dumps(content, sort_keys=True, separators=(",", ":"))
    document = {"v": 1, "crc32": f"{crc32(inner.encode()):08x}", "content": content, "more": True}
    assert decode(json.dumps(document).encode()) == (State(Update("committed")), Ledger())


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path))
    assert journal.write(State(sequence=1), Ledger())
    inode = path.stat().st_ino
    assert not journal.write(State(sequence=1), Ledger())
    assert path.stat().st_ino == inode
    again = Journal(str(path))
    assert again.read() == (State(sequence=1), Ledger())
    assert not again.write(State(sequence=1), Ledger())
    assert again.write(State(sequence=2), Ledger())
    assert path.stat().st_ino != inode


def test_a_journal_that_cannot_be_written_says_so_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path))
    journal.write(State(sequence=1), Ledger())
    (tmp_path / ".journal.new").mkdir()
    with pytest.raises(AgentError, match=r"cannot write .*journal.*agent\.journal"):
        journal.write(State(sequence=2), Ledger())
    assert Journal(str(path)).read() == (State(sequence=1), Ledger())


def test_a_journal_that_is_missing_or_a_directory_is_nothing_to_remember(tmp_path: Path) -> None:
    assert Journal(str(tmp_path / "none")).read() is None
    assert Journal(str(tmp_path)).read() is None
