"""The verdict over a new release."""

import pytest
from beamfleet_agent.health import Sample
from beamfleet_agent.probes import Probe
from beamfleet_agent.trial import Trial
from beamfleet_agent.update_state import Release

RELEASE = Release("a" * 64, "gateway", "1.1.0", ("kernel", "gateway"))
WELL = Sample(3, ("kernel", "stdlib", "gateway"))


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


def test_every_probe_that_has_a_kind_has_to_have_succeeded() -> None:
    probes = Probe("startup", "tcp", "80"), Probe("liveness", "command")
    trial = Trial(RELEASE._replace(probes=probes), 10)
    assert trial.observe(0, WELL, 3) == ("probe", "startup: no answer yet")
    well, outcomes = ("ok", ""), {"startup": ("waiting", "port 80: Connection refused")}
    assert trial.observe(1, WELL, 3, outcomes) == ("probe", "startup: port 80: Connection refused")
    assert trial.observe(2, WELL, 3, {"startup": well}) == ("probe", "liveness: no answer yet")
    assert trial.observe(3, WELL, 3, {"startup": well, "liveness": well}) == ("", "")
    failed = ("failed", "the command ended with 1")
    assert trial.observe(9, WELL, 3, {"startup": well, "liveness": failed})[1] == "liveness: the command ended with 1"
    trial.observe(10, WELL, 3, {"startup": well, "liveness": well})
    assert not trial.passed(13)
    assert trial.passed(20)


def test_a_release_that_is_to_confirm_itself_has_to_have_done_so_in_the_vm_that_runs() -> None:
    trial = Trial(RELEASE._replace(confirm=True), 10)
    assert trial.observe(0, WELL, 3) == ("probe", "the release has not confirmed itself yet")
    assert trial.observe(1, WELL._replace(confirm=True), 3) == ("", "")
    assert trial.observe(2, WELL._replace(boot=4), 4) == ("probe", "the release has not confirmed itself yet")
    assert Trial(RELEASE, 10).observe(0, WELL, 3) == ("", "")
