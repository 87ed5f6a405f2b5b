"""What an answer of beamfleet_link says: the release is another user, and a line of it is what it wants to write."""

import json
from typing import Any

import pytest
from beamfleet_agent.health import Sample, finding, read_sample
from beamfleet_agent.update_state import Release
from beamfleet_bundles import messages
from hypothesis import given
from hypothesis import strategies as st

RELEASE = Release("a" * 64, "gateway", "1.1.0", ("kernel", "gateway"))
WELL = Sample(3, ("kernel", "stdlib", "gateway"))
BEAM: dict[str, Any] = {
    "otp": "25", "uptime_ms": 1000, "memory": {"total": 7, "processes": 3}, "processes": [40, 262_144],
    "ports": [3, 65_536], "atoms": [14_000, 1_048_576], "ets": [60, 8_192], "run_queue": 0, "schedulers": 13, "gc": 9,
    "restarts": 1, "queues": [["gateway", 100_000], ["<0.210.0>", 12]], "metrics": {"celsius": 21.5, "balance": -3},
    "said": ["degraded", "the modem is asleep"],
}  # fmt: skip
LINE: dict[str, Any] = {
    **BEAM, "v": 2, "boot": 3, "schedulers": [2, 13], "reductions": 12_345, "io": [1, 2], "confirm": True,
    "applications": [["stdlib", "4.2"], ["kernel", "8.5"]], "probes": {"liveness": ["failed", "timeout"]},
}  # fmt: skip


def read(**changes: Any) -> Sample | None:
    line = {key: value for key, value in {**LINE, **changes}.items() if value is not ...}
    return read_sample(json.dumps(line).encode() + b"\n")


def test_a_line_of_the_link_is_a_sample() -> None:
    assert read() == Sample(
        3, ("stdlib", "kernel"), ("kernel 8.5", "stdlib 4.2"), BEAM, {"liveness": ("failed", "timeout")}, confirm=True
    )


def test_what_a_release_has_never_said_is_missing() -> None:
    sample = read(said=..., metrics=..., confirm=..., probes=..., queues=...)
    assert sample is not None
    assert (sample.confirm, dict(sample.probes), sample.beam["queues"]) == (False, {}, [])
    assert not {"said", "metrics"} & set(sample.beam)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 1},
        {"v": "2"},
        {"boot": None},
        {"boot": -1},
        {"boot": True},
        {"boot": 2**63},
        {"applications": 1},
        {"applications": [["kernel"]]},
        {"applications": [[1, 2]]},
        {"applications": [["a", "1"]] * 257},
        {"applications": ...},
    ],
)
def test_a_line_without_its_three_words_is_none(change: dict[str, Any]) -> None:
    assert read(**change) is None


@pytest.mark.parametrize(
    "change",
    [
        {"uptime_ms": "long"},
        {"uptime_ms": 1.5},
        {"memory": []},
        {"processes": [1]},
        {"processes": [1, -1]},
        {"ports": [True, 2]},
        {"atoms": {"used": 1}},
        {"schedulers": [2, 1001]},
        {"restarts": 2**63},
        {"said": ["splendid", ""]},
        {"said": ["ok"]},
        {"metrics": {"A": 1, "b c": 1, "d": "1", "e": True, "f": 2**63, "g": None}},
        {"otp": 25},
    ],
)
def test_a_figure_that_does_not_fit_is_left_out_and_the_rest_believed(change: dict[str, Any]) -> None:
    sample = read(**change)
    assert sample is not None
    assert dict(sample.beam) == {name: value for name, value in BEAM.items() if name not in change}


def test_what_is_too_much_or_no_text_for_people_is_cut() -> None:
    sample = read(
        queues=[["gnp.\u202eexe" + "x" * 99, 1], ["a", 2], 7, ["b", -1], *([["c", 3]] * 9)],
        said=["ok", "\x1b[2J" + "y" * 999],
        memory={f"kind_{number}": number for number in range(40)},
        metrics={f"metric_{number}": number / 3 for number in range(40)},
        applications=[["größe " + "a" * 200, "1\n2"]],
        probes={"liveness": ["ok", ""], "startup": "ok", "readiness": ["ok\n", "z" * 999], "other": ["ok", ""]},
    )
    assert sample is not None
    beam = sample.beam
    assert beam["queues"][0] == ["gnp.?exe" + "x" * 56, 1]
    assert [len(beam["queues"]), len(beam["memory"]), len(beam["metrics"])] == [5, 16, 16]
    assert beam["metrics"]["metric_1"] == 0.333333333
    assert (len(beam["said"][1]), beam["said"][1][:4]) == (256, " [2J")
    assert sample.running == ("gr__e_" + "a" * 58,)
    assert {kind: (status, len(why)) for kind, (status, why) in sample.probes.items()} == {
        "readiness": ("ok_", 256), "liveness": ("ok", 0),
    }  # fmt: skip


@given(st.binary())
@pytest.mark.parametrize("opening", [b"", b"[" * 60_000, b'{"v":' * 10_000, b"9" * 5_000, b'{"v":1e999}'])
def test_no_bytes_make_the_reading_raise(opening: bytes, data: bytes) -> None:
    assert read_sample(opening + data) is None


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(set(LINE) - {"v", "boot", "applications"})), ANY), st.text(max_size=80))
def test_whatever_a_release_says_becomes_a_report_that_the_server_takes(said: dict[str, Any], name: str) -> None:
    sample = read(**said, applications=[[name, name]])
    assert sample is not None
    head = {"v": 1, "time": 1, "verdict": "healthy", "starts": 1}
    report = head | {"applications": sample.running, "beam": dict(sample.beam)}
    messages.decode("health", json.dumps(report, allow_nan=False).encode())


def test_the_most_that_a_release_can_say_is_a_report_that_the_server_takes() -> None:
    """A larger one would end the session, again and again: a release could cut its device off."""
    wide = "\U0001f41d"
    sample = read(
        applications=[[wide * 255, wide * 255]] * 256,
        memory={f"{number:_<32}".replace("0", "a"): 2**62 for number in range(16)},
        metrics={"a" * 31 + chr(97 + number): -(10**290) / 3 for number in range(16)},
        queues=[[wide * 64, 2**62]] * 5,
        said=["failing", wide * 256],
    )
    assert sample is not None
    outcomes = {kind: ["failed", wide * 256] for kind in ("startup", "readiness", "liveness")}
    head = {"v": 1, "time": 1, "verdict": "failing", "detail": wide * 256, "starts": 1, "probes": outcomes}
    report = head | {"applications": sample.running, "beam": dict(sample.beam)}
    said = json.dumps(report, ensure_ascii=False).encode()
    assert len(said) > 20_000
    messages.decode("health", said)


def test_what_is_wrong_is_named() -> None:
    assert finding(WELL, 3, RELEASE) == ""
    assert finding(WELL, 3, None) == ""
    assert finding(None, 3, RELEASE) == "the release does not answer"
    assert finding(WELL, 4, RELEASE) == "start 3 answers, 4 is wanted"
    assert finding(WELL._replace(applications=("kernel",)), 3, RELEASE) == "not running: gateway"
