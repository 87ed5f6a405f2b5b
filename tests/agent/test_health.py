"""The verdict of a trial and the reading of samples."""

import json

import pytest
from beamfleet_agent.health import Sample, Trial, finding, read_host, read_sample
from beamfleet_agent.update_state import Release
from hypothesis import given
from hypothesis import strategies as st

RELEASE = Release("a" * 64, "gateway", "1.1.0", ("kernel", "gateway"))
WELL = Sample(3, 1000, ("kernel", "stdlib", "gateway"), {"total": 1}, 40, 3, 0)
LINE = {
    "v": 1, "boot": 3, "otp": "25", "uptime_ms": 1000, "applications": [{"name": "kernel", "version": "8.5"}],
    "memory": {"total": 7}, "processes": 40, "process_limit": 9, "ports": 3, "atoms": 1, "atom_limit": 2,
    "run_queue": 0,
}  # fmt: skip


def test_a_line_of_the_link_is_a_sample() -> None:
    sample = read_sample(json.dumps(LINE).encode() + b"\n")
    assert sample == Sample(3, 1000, ("kernel",), {"total": 7}, 40, 3, 0)


@pytest.mark.parametrize("change", [{"v": 2}, {"boot": None}, {"applications": 1}, {"memory": []}, {"ports": "many"}])
def test_a_line_of_another_shape_is_none(change: dict[str, object]) -> None:
    assert read_sample(json.dumps({**LINE, **change}).encode()) is None


@given(st.binary())
def test_no_bytes_make_the_reading_raise(data: bytes) -> None:
    read_sample(data)


def test_the_machine_is_read_from_proc() -> None:
    host = read_host("/")
    assert len(host.load) == 3
    assert host.memory_free > 1 << 20
    assert host.disk_free > 0
    assert read_host("/no/such/place").disk_free == 0


def test_what_is_wrong_is_named() -> None:
    assert finding(WELL, 3, RELEASE) == ""
    assert finding(WELL, 3, None) == ""
    assert finding(None, 3, RELEASE) == "the release does not answer"
    assert finding(WELL, 4, RELEASE) == "start 3 answers, 4 is wanted"
    assert finding(WELL._replace(applications=("kernel",)), 3, RELEASE) == "not running: gateway"


def test_a_release_that_is_well_for_the_whole_period_has_passed() -> None:
    trial = Trial(RELEASE, 10)
    assert not trial.passed(0)
    for now in range(11):
        assert trial.observe(now, WELL, 3) == ("", "")
        assert trial.passed(now) == (now == 10)


@pytest.mark.parametrize(
    "gap", [None, WELL._replace(applications=("kernel",)), WELL._replace(boot=2)], ids=["silent", "dead", "other"]
)
def test_one_gap_starts_the_period_anew(gap: Sample | None) -> None:
    trial = Trial(RELEASE, 10)
    for now in range(10):
        trial.observe(now, WELL, 3)
    assert trial.observe(9.5, gap, 3)[0] == "health"
    trial.observe(10, WELL, 3)
    assert not trial.passed(19.9)
    assert trial.passed(20)


def test_a_restart_of_the_vm_starts_the_period_anew() -> None:
    trial = Trial(RELEASE, 10)
    trial.observe(0, WELL, 3)
    assert trial.observe(5, WELL, 4) == ("health", "start 3 answers, 4 is wanted")
    trial.observe(6, WELL._replace(boot=4), 4)
    assert not trial.passed(11)
    assert trial.passed(16)


def test_probes_have_to_succeed_before_the_period_begins() -> None:
    trial = Trial(RELEASE._replace(probe_http="80/health", probe_command=True), 10)
    assert trial.observe(0, WELL, 3) == ("probe", "the probes have not ended yet")
    trial.http("")
    assert trial.observe(1, WELL, 3) == ("probe", "the probes have not ended yet")
    trial.command(1)
    assert trial.observe(2, WELL, 3) == ("probe", "the probe command ended with 1")
    trial.command(0)
    assert trial.observe(3, WELL, 3) == ("", "")
    trial.http("GET :80/health: 503")
    assert trial.observe(9, WELL, 3) == ("probe", "GET :80/health: 503")
    assert not trial.passed(13)
