"""What a real BEAM does to itself is on the server, with verdict and reason, in one of the next two reports; relx and
mix side by side."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.health import conftest
from tests.health.chart import Chart, Look, Report
from tests.health.conftest import LABS
from tests.support.fleet import fleet

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(300)]

INTERVAL_S = 4
THRESHOLDS = {"processes_degraded": 35}
"""A VM takes 262,144 processes by default: ten thousand are no reason to worry, unless the owner says so."""
MB = 10**6


@dataclass(frozen=True, slots=True)
class Load:
    """A knob of the lab, what the server then has to show, and the knob that takes it back."""

    knob: str
    check: str
    level: str
    seen: Look
    word: str
    back: str = ""


LOADS = (
    Load(
        "processes/10000", "processes", "degraded",
        lambda report: report.beam["processes"][0] > 10_000, "3.8 %", "processes/0",
    ),
    Load(
        "queue/100000", "queues", "failing",
        lambda report: ["lab_queue", 100_000] in report.beam["queues"], "lab_queue", "queue/0",
    ),
    Load(
        "binaries/200", "binaries", "degraded",
        lambda report: report.beam["memory"]["binary"] >= 200 * MB, "2", "binaries/0",
    ),
    Load("say/degraded/no%20water", "said", "degraded", lambda _: True, "no water", "say/ok"),
    Load("say/failing/pump%20stuck", "said", "failing", lambda _: True, "pump stuck", "say/ok"),
    Load("probe/readiness/bad", "probes", "degraded", lambda _: True, "readiness", "probe/readiness/good"),
    Load(  # the last one: atoms stay
        "atoms/905", "atoms", "failing",
        lambda report: report.beam["atoms"][0] * 10 >= report.beam["atoms"][1] * 9, "90",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Chart]]:
    """A device for each lab, with its release committed and found healthy."""
    work = tmp_path_factory.mktemp("beam") / "fleet"
    conftest.configure(work, THRESHOLDS)
    ready = ("--probe-readiness", "erlang=lab:readiness,period_s=2,failure_threshold=1")
    with fleet(work, *map(conftest.product, LABS)) as here:
        made = {lab: conftest.device(here, f"{conftest.product(lab)}-1", lab, INTERVAL_S) for lab in LABS}
        here.wait_online(*(chart.device.name for chart in made.values()))
        for lab in LABS:
            conftest.push(here, lab, *ready)
        for chart in made.values():
            chart.until("a healthy release", well)
        yield made


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.knob)
def test_a_load_is_seen_with_its_reason_within_two_intervals(charts: dict[str, Chart], load: Load) -> None:
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(bear, chart, load) for chart in charts.values()]:
            done.result()


def bear(chart: Chart, load: Load) -> None:
    """Have it come and, if it can go, go again."""
    conftest.turn(chart.device, load.knob)
    since = now()
    report = chart.within(2, f"{load.check} with its reason", lambda seen: named(seen, load), since=since)
    level, detail = report.reasons[load.check]
    assert (report.verdict, level) == (load.level, load.level)
    assert set(report.reasons) == {load.check}
    assert load.word in detail
    if load.back:
        conftest.turn(chart.device, load.back)
        chart.within(2, f"no {load.check} any more", well, since=now())


def named(report: Report, load: Load) -> bool:
    """Whether the load is there, and the server says so."""
    return load.check in report.reasons and bool(load.seen(report))


def well(report: Report) -> bool:
    return report.verdict == "healthy" and not report.reasons


def now() -> int:
    """The second that the devices' clock shows."""
    return int(time.time())


def test_what_the_owner_counts_is_on_the_server(charts: dict[str, Chart]) -> None:
    for lab, chart in charts.items():
        conftest.turn(chart.device, "metric/litres/12.5", "metric/doors/3")
        report = chart.within(2, "metrics", lambda seen: len(seen.beam.get("metrics", {})) == 2, since=now())
        assert report.beam["metrics"] == {"litres": 12.5, "doors": 3}
        names = [application.split()[0] for application in report.sections["applications"]]
        assert {"kernel", "stdlib", "beamfleet_link", lab} <= set(names)
