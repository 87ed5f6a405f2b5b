"""What people may write about a simulated fleet, and that its fate hangs on nothing but that and the seed."""

import re
from pathlib import Path

import msgspec
import pytest
from beamfleet_bundles.errors import BeamfleetError
from beamfleet_server.simulator import errors
from beamfleet_server.simulator.errors import CODES, SimulatorError
from beamfleet_server.simulator.fate import draw, fate, nature
from beamfleet_server.simulator.scenario import KINDS, Scenario, Span, parse, read

BAD_DAY = b"""
seed: 7
runs: sensor-gateway 1.0.0
labels: {site: [berlin, paris], line: a}
targets: [{arch: aarch64, libc: musl, weight: 1}, {hardware: rpi4, weight: 3}]
timezones: [Europe/Berlin, America/New_York]
networks: {wired: 3, cellular: 1}
times: {download: [1s, 3s], trial: 500ms}
health: 0
behaviours:
  - {share: 5%, offline: always}
  - {share: 10%, flaps: {up: [1s, 5s], down: 2s}}
  - {share: 0.5, versions: [1.2.0], reverts: {after: [1s, 30s], cause: hang}}
  - {share: 10%, attempts: 1, each: update, reverts: {cause: power}}
  - {share: 2%, stuck: staged}
"""
NAMES = [f"sim-{number:05}" for number in range(1, 4001)]
MANIFEST = "a" * 64


def test_a_whole_scenario_reads_back_as_it_was_meant() -> None:
    scenario = read(BAD_DAY)
    assert scenario.release == ("sensor-gateway", "1.0.0")
    assert (scenario.times.download.low, scenario.times.download.high, scenario.times.trial.low) == (1, 3, 0.5)
    assert [behaviour.kinds for behaviour in scenario.behaviours] == [
        ["offline"], ["flaps"], ["reverts"], ["reverts"], ["stuck"],
    ]  # fmt: skip
    assert read(b"").behaviours == ()


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("nonsense: 1", "scenario.schema", "nonsense"),
        ("behaviours: [{share: 5%}]", "scenario.schema", "exactly one"),
        ("behaviours: [{share: 5%, clone: true, stuck: staged}]", "scenario.schema", "exactly one"),
        ("behaviours: [{share: 101%, clone: true}]", "scenario.schema", "share"),
        ("behaviours: [{share: many, clone: true}]", "scenario.schema", "share"),
        ("behaviours: [{stuck: committed}]", "scenario.schema", "stuck"),
        ("times: {trial: [9s, 1s]}", "scenario.schema", "shorter"),
        ("times: {trial: soon}", "scenario.schema", "90s"),
        ("times: {trial: true}", "scenario.schema", "90s"),
        ("networks: {wired: 0}", "scenario.schema", "networks"),
        ("labels: {site: []}", "scenario.schema", "site"),
        ("runs: Sensor 1.0.0", "name.product", "Sensor"),
        ("[1, 2", "scenario.syntax", "YAML"),
        ("- 1", "scenario.schema", "object"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(text: str, code: str, says: str) -> None:
    with pytest.raises(BeamfleetError) as refused:
        read(text.encode())
    assert refused.value.code == code
    assert says in refused.value.message


def test_the_fate_of_a_device_hangs_on_seed_id_manifest_and_attempt_alone() -> None:
    scenario = read(BAD_DAY)
    once = [fate(scenario, 7, name, MANIFEST, "1.1.0", 1) for name in NAMES[:200]]
    assert once == [fate(read(BAD_DAY), 7, name, MANIFEST, "1.1.0", 1) for name in NAMES[:200]]
    for other in ((8, MANIFEST, 1), (7, "b" * 64, 1), (7, MANIFEST, 2)):
        seed, manifest, attempt = other
        assert once != [fate(scenario, seed, name, manifest, "1.1.0", attempt) for name in NAMES[:200]]
    assert nature(scenario, 7, NAMES[0]) == nature(scenario, 7, NAMES[0])


def test_shares_are_what_they_say_and_versions_and_attempts_limit_them() -> None:
    scenario = read(BAD_DAY)
    natures = [nature(scenario, 7, name) for name in NAMES]
    assert 0.035 < sum(each.never for each in natures) / len(NAMES) < 0.065
    assert 0.08 < sum(each.rhythm is not None for each in natures) / len(NAMES) < 0.11
    cellular = [each for each in natures if each.network == "cellular"]
    assert 0.2 < len(cellular) / len(NAMES) < 0.3
    assert {(each.profile, each.keepalive_s, each.health_s) for each in cellular} == {("metered", 930, 0)}
    assert 0.2 < sum(each.target.arch == "aarch64" for each in natures) / len(NAMES) < 0.3
    assert {each.labels["site"] for each in natures} == {"berlin", "paris"}

    def reverting(version: str, attempt: int) -> float:
        fates = [fate(scenario, 7, name, MANIFEST, version, attempt) for name in NAMES]
        return sum(each.end == "reverted" for each in fates) / len(NAMES)

    assert 0.52 < reverting("1.2.0", 1) < 0.58
    assert 0.47 < reverting("1.2.0", 2) < 0.53
    assert 0.08 < reverting("1.1.0", 1) < 0.12
    assert reverting("1.1.0", 2) == 0


def test_a_share_of_all_is_everybody_and_of_nobody_nobody() -> None:
    everybody = parse({"behaviours": [{"share": "100%", "stuck": "downloading"}]})
    nobody = parse({"behaviours": [{"share": 0, "stuck": "downloading"}]})
    assert all(fate(everybody, 1, name, MANIFEST, "1.0.0", 1).stuck == "downloading" for name in NAMES[:500])
    assert not any(fate(nobody, 1, name, MANIFEST, "1.0.0", 1).stuck for name in NAMES[:500])


def test_draws_are_even_and_spans_lie_between_their_ends() -> None:
    draws = [draw("a", number) for number in range(4000)]
    assert 0.48 < sum(draws) / len(draws) < 0.52
    assert min(draws) >= 0
    assert max(draws) < 1
    assert Span(2, 10).at(0.5) == 6
    assert msgspec.structs.asdict(Scenario())["runs"] == ""


def test_the_page_lists_every_code_and_every_behaviour_and_its_example_is_one() -> None:
    page = (Path(errors.__file__).parents[2] / "SIMULATOR.md").read_text()
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", page, re.MULTILINE)) == CODES
    assert [kind for kind in KINDS if f"| `{kind}: " not in page and f"· `{kind}: " not in page] == []
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(read(example.encode()).behaviours) == 7
    with pytest.raises(KeyError):
        SimulatorError("scenario.nonsense", "x")
