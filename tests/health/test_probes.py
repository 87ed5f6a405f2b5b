"""Probes of real releases, one of each handler: they gate the trial; after it they degrade or restart the release."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.health import conftest
from tests.health.chart import Chart, Report
from tests.support.examples import tarball
from tests.support.fleet import Fleet, fleet, free_port, wait_for

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(300)]

INTERVAL_S = 5
"""An outcome that changes is reported at once, but not for ever: eight times in a row, then once in an interval."""
DEADLINE_S = 20
OFTEN = "period_s=1,failure_threshold=2"
RELX = {
    "startup": "tcp={port}," + OFTEN,
    "readiness": "http={port}/probe/readiness," + OFTEN,
    "liveness": "command=bin/check liveness,timeout_s=2," + OFTEN,
}
MIX = {
    "startup": "erlang=Elixir.LabMix.Probes:started?," + OFTEN,
    "readiness": "command=bin/check readiness," + OFTEN,
    "liveness": "erlang=Elixir.LabMix.Probes:alive?," + OFTEN,
}
ALL_WELL = {kind: ["ok", ""] for kind in RELX}


@dataclass(frozen=True, slots=True)
class Ward:
    """The fleet, and a chart for the device of each lab."""

    fleet: Fleet
    charts: dict[str, Chart]

    def push(self, lab: str, version: str, probes: dict[str, str], *words: str) -> None:
        """Have the device of a lab run its release with these probes; it is not waited for."""
        device = self.charts[lab].device
        asked = [f"--probe-{kind}={words.format(port=device.http_port)}" for kind, words in probes.items()]
        source = str(tarball(lab, conftest.VERSION))
        self.fleet.cli("push", source, "--device", device.name, "--version", version, "--no-wait", *asked, *words)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    work = tmp_path_factory.mktemp("probes") / "fleet"
    conftest.configure(work, {})
    with fleet(work, *map(conftest.product, conftest.LABS)) as here:
        charts = {
            lab: conftest.device(
                here, lab.replace("_", "-"), lab, INTERVAL_S, more=("--trial-deadline-s", str(DEADLINE_S))
            )
            for lab in conftest.LABS
        }
        here.wait_online(*(chart.device.name for chart in charts.values()))
        made = Ward(here, charts)
        made.push("lab_relx", "1.0.1", RELX)
        made.push("lab_mix", "1.0.1", MIX)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda chart: chart.until("success of every probe", well), charts.values()))
        yield made


def well(report: Report) -> bool:
    return report.verdict == "healthy" and report.sections.get("probes") == ALL_WELL


def starts(chart: Chart) -> int:
    return int(chart.device.boot_state()["starts"])


def failed(report: Report, kind: str, why: str) -> bool:
    outcome, detail = report.sections["probes"][kind]
    return outcome == "failed" and why in detail


@pytest.mark.parametrize(
    ("lab", "turn", "why"),
    [("lab_relx", "bad", "/probe/readiness: 503"), ("lab_mix", "hang", "the command ended with 124")],
    ids=["http", "command"],
)
def test_a_release_that_is_not_ready_is_degraded_and_goes_on(ward: Ward, lab: str, turn: str, why: str) -> None:
    chart = ward.charts[lab]
    before = starts(chart)
    conftest.turn(chart.device, f"probe/readiness/{turn}")
    report = chart.until("a release that is not ready", lambda report: failed(report, "readiness", why))
    assert (report.verdict, report.reasons["probes"][0]) == ("degraded", "degraded")
    assert why in report.reasons["probes"][1]
    conftest.turn(chart.device, "probe/readiness/good")
    chart.until("a release that is ready", well)
    assert starts(chart) == before


@pytest.mark.parametrize(
    ("lab", "turn", "why"),
    [
        ("lab_relx", "bad", "the command ended with 1"),
        ("lab_relx", "hang", "the command ended with 124"),
        ("lab_mix", "bad", "false"),
        ("lab_mix", "hang", "no answer in time"),
    ],
    ids=["command", "command that hangs", "function", "function that hangs"],
)
def test_a_release_that_is_not_alive_is_restarted_and_the_server_hears_why(
    ward: Ward, lab: str, turn: str, why: str
) -> None:
    chart = ward.charts[lab]
    before = starts(chart)
    conftest.turn(chart.device, f"probe/liveness/{turn}")
    wait_for("a restart", lambda: starts(chart) > before, deadline_s=60)
    state = chart.device.boot_state()
    assert (state["cause"], state["phase"], state["starts"]) == ("probe", "committed", str(before + 1))
    assert state["detail"].startswith(f"liveness: {why}")
    wait_for("the event", lambda: told(chart, before + 1), deadline_s=60)
    chart.until("a healthy release", well)


def told(chart: Chart, start: int) -> bool:
    history = [event for event in chart.row()["history"] if event["kind"] == "restart"]
    return any(event["data"]["starts"] == start and event["cause"] == "probe" for event in history)


def test_a_trial_waits_until_the_release_has_confirmed_itself(ward: Ward) -> None:
    device = ward.charts["lab_relx"].device
    ward.push("lab_relx", "1.0.2", RELX, "--confirm")
    wait_for("what is missing", lambda: "has not confirmed itself yet" in device.console(), deadline_s=60)
    assert device.boot_state()["phase"] == "trial"
    conftest.turn(device, "confirm")
    wait_for("the commit", lambda: device.boot_state()["phase"] == "committed", deadline_s=DEADLINE_S)


def test_a_trial_in_which_a_probe_fails_restarts_nothing_and_is_reverted(ward: Ward) -> None:
    device, nobody = ward.charts["lab_mix"].device, free_port()
    before = starts(ward.charts["lab_mix"])
    ward.push("lab_mix", "1.0.2", {"startup": f"tcp={nobody},{OFTEN}"})
    wait_for("the trial", lambda: device.boot_state()["phase"] == "trial", deadline_s=60)
    wait_for("the revert", lambda: device.boot_state()["phase"] == "reverted", deadline_s=3 * DEADLINE_S)
    assert int(device.boot_state()["starts"]) <= before + 2, "one start of the trial, and one of what was before"
    assert f"startup: port {nobody}: Connection refused" in device.console()
