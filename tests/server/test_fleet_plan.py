"""Plans: what is read, how it is spelled again, and what each mistake is told."""

from typing import Any

import pytest
from beamfleet_server.fleet.plan import CANARY, NETWORKS, REST, Phase, Plan, Size, Step
from beamfleet_server.fleet.selection import Candidate
from beamfleet_server.fleet.spelling import PlanError, duration, duration_text
from beamfleet_server.fleet.window import DAYS, Window
from hypothesis import given
from hypothesis import strategies as st

LEAST: dict[str, Any] = {"product": "sensor-gateway", "version": "1.1.0", "devices": {"all": True}}
FULL: dict[str, Any] = {
    "product": "sensor-gateway",
    "version": "2.1.0",
    "devices": {
        "all": False,
        "labels": {"ring": ["beta", "canary"], "site": ["berlin"]},
        "facts": {"arch": ["aarch64"], "hardware": ["rpi4"]},
        "versions": ["<1.1.0", "1.0.5", ">=1.2,<2"],
        "ids": ["gw-1", "gw-2"],
        "percent": 10,
        "salt": "autumn",
    },
    "phases": [
        {"name": "canary", "devices": 1, "soak": "10m", "gate": False, "failures": 0, "successes": "100%",
         "max_parallel": 0},
        {"name": "tenth", "devices": "10%", "soak": "1h", "gate": True, "failures": "2%", "successes": "95%",
         "max_parallel": 50},
        {"name": "rest", "devices": "all", "soak": "0s", "gate": False, "failures": "2%", "successes": "100%",
         "max_parallel": 0},
    ],
    "max_parallel": 100,
    "deadline": "1d",
    "expires": "30d",
    "retries": 3,
    "backoff": "10m",
    "window": [{"days": ["mon", "tue"], "from": "02:00", "to": "04:00"}],
    "priority": -5,
    "network": ["wired", "wifi"],
    "force": True,
    "steps": [{"below": "1.5.0", "through": "1.5.0"}],
    "notes": "what is new\nand what is not",
    "note": "ticket 12",
}  # fmt: skip


def test_the_least_plan_has_a_canary_and_then_everyone_else() -> None:
    plan = Plan.parse(LEAST)
    assert plan.phases == (CANARY, REST)
    assert (CANARY.devices, CANARY.failures, CANARY.soak) == (Size(1), Size(0), 0)
    assert (plan.deadline, plan.expires, plan.retries, plan.backoff) == (86_400, 30 * 86_400, 3, 600)
    assert (plan.network, plan.window, plan.priority, plan.max_parallel) == (NETWORKS, (), 0, 0)
    assert plan.devices.all
    assert not plan.force


def test_a_full_plan_is_spelled_again_as_it_was_read() -> None:
    assert Plan.parse(FULL).as_dict() == FULL


def test_every_plan_reads_back() -> None:
    for given_ in (LEAST, FULL):
        plan = Plan.parse(given_)
        assert Plan.parse(plan.as_dict()) == plan


def test_the_last_phase_is_for_everyone_whatever_the_plan_says() -> None:
    plan = Plan.parse(LEAST | {"phases": [{"name": "first", "devices": 3}]})
    assert [phase.name for phase in plan.phases] == ["first", "rest"]
    assert plan.phases[1] == REST


def test_values_of_flags_and_of_yaml_mean_the_same() -> None:
    devices = {"labels": {"site": "berlin", "floor": 3}, "versions": ["1.0.5"], "percent": "10%"}
    plan = Plan.parse(LEAST | {"devices": devices, "window": [{"from": 750, "to": "24:00"}]})
    assert plan.devices.labels == (("floor", ("3",)), ("site", ("berlin",)))
    assert plan.devices.percent == 10
    assert plan.window == (Window(frozenset(range(7)), 750, 1440),)


def test_a_number_of_failures_or_a_share_rounded_down() -> None:
    assert [Size(2, percent=True).down(total) for total in (10, 49, 50, 100, 1000)] == [0, 0, 1, 2, 20]
    assert Size(3).down(1) == 3


def test_sizes_are_rounded_up_and_never_above_all() -> None:
    assert [Size(10, percent=True).up(total) for total in (0, 1, 10, 11, 100)] == [0, 1, 1, 2, 10]
    assert Size(5).up(3) == 3


def test_the_smaller_limit_of_plan_and_phase_counts() -> None:
    phases = [{"name": "a", "devices": 1, "max_parallel": 3}, {"name": "b"}]
    for overall, first, second in ((0, 3, None), (2, 2, 2), (5, 3, 5)):
        plan = Plan.parse(LEAST | {"phases": phases, "max_parallel": overall})
        assert (plan.parallel(0), plan.parallel(1)) == (first, second)


def test_a_device_below_a_stone_commits_it_first() -> None:
    steps = [{"below": "2.5.0", "through": "2.5.1"}, {"below": "1.5.0", "through": "1.5.0"}]
    plan = Plan.parse(LEAST | {"version": "3.0.0", "steps": steps})
    assert plan.steps == (Step("1.5.0", "1.5.0"), Step("2.5.0", "2.5.1"))
    aims = {version: plan.aim("sensor-gateway", version, "committed") for version in ("1.4.9", "1.5.0", "2.4", "2.5.0")}
    assert aims == {"1.4.9": "1.5.0", "1.5.0": "2.5.1", "2.4": "2.5.1", "2.5.0": "3.0.0"}


def test_nobody_can_say_which_stones_an_unknown_release_has_passed() -> None:
    plan = Plan.parse(LEAST | {"version": "2.0.0", "steps": [{"below": "1.5.0", "through": "1.5.0"}]})
    assert plan.aim("sensor-gateway", "", "committed") is None
    assert plan.aim("another-product", "1.0.0", "committed") is None
    assert plan.aim("", "", "none") == "2.0.0"
    assert Plan.parse(LEAST).aim("", "", "committed") == "1.1.0"


def test_the_back_off_doubles_up_to_a_day() -> None:
    plan = Plan.parse(LEAST | {"backoff": "10m"})
    assert [plan.back_off(tries) for tries in range(4)] == [600, 1200, 2400, 4800]
    assert plan.back_off(19) == plan.back_off(10_000) == 86_400
    assert Plan.parse(LEAST | {"backoff": 0}).back_off(5) == 0


def test_the_salt_is_the_product_unless_the_plan_has_one() -> None:
    assert Plan.parse(LEAST).salt == "sensor-gateway"
    assert Plan.parse(FULL).salt == "autumn"


def phases(*changes: dict[str, Any]) -> dict[str, Any]:
    return {"phases": [{"name": f"p{index}", "devices": index + 1} | each for index, each in enumerate(changes)]}


def devices(**fields: Any) -> dict[str, Any]:
    return {"devices": fields}


WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("plan.missing", "devices: ", {"devices": ...}),
    ("plan.missing", "product: ", {"product": ...}),
    ("plan.missing", "version: ", {"version": ...}),
    ("plan.unknown_field", "devicez: ", {"devicez": {}}),
    ("plan.unknown_field", "devices.label: ", devices(label={})),
    ("plan.unknown_field", "phases[0].size: ", phases({"size": 1})),
    ("plan.unknown_field", "window[0].until: ", {"window": [{"from": "01:00", "until": "02:00"}]}),
    ("plan.unknown_field", "steps[0].to: ", {"steps": [{"below": "1", "to": "1"}]}),
    ("plan.unknown_field", "devices.facts.'colour': ", devices(facts={"colour": "red"})),
    ("plan.name", "product: ", {"product": "Sensor"}),
    ("plan.name", "version: ", {"version": "1.1 0"}),
    ("plan.type", "version: ", {"version": 1.1}),
    ("plan.type", "version: ", {"version": None}),
    ("plan.name", "devices.ids[1]: ", devices(ids=["gw-1", "GW 2"])),
    ("plan.devices", "devices: ", {"devices": {}}),
    ("plan.devices", "devices: ", devices(salt="x")),
    ("plan.type", "devices: ", {"devices": "all"}),
    ("plan.type", "devices: ", {"devices": ["gw-1"]}),
    ("plan.type", "devices.all: ", devices(all="yes")),
    ("plan.devices", "devices.labels.Site: ", devices(labels={"Site": "x"})),
    ("plan.devices", "devices.labels.site: ", devices(labels={"site": "a b"})),
    ("plan.devices", "devices.labels.site: ", devices(labels={"site": []})),
    ("plan.type", "devices.labels.site: ", devices(labels={"site": True})),
    ("plan.type", "devices.labels: ", devices(labels=["site"])),
    ("plan.too_many", "devices.labels: ", devices(labels={f"k{number}": "x" for number in range(51)})),
    ("plan.versions", "devices.versions[0]: ", devices(versions=["~>1.2"])),
    ("plan.versions", "devices.versions[0]: ", devices(versions=["<1.2,"])),
    ("plan.type", "devices.versions[0]: ", devices(versions=[1.2])),
    ("plan.type", "devices.versions: ", devices(versions="1.2")),
    ("plan.type", "devices.percent: ", devices(percent=0)),
    ("plan.type", "devices.percent: ", devices(percent=101)),
    ("plan.size", "devices.percent: ", devices(percent="0%")),
    ("plan.size", "devices.percent: ", devices(percent="ten")),
    ("plan.too_many", "devices.ids: ", devices(ids=["a"] * 10_001)),
    ("plan.too_many", "devices.salt: ", devices(salt="x" * 65)),
    ("plan.phases", "phases[0].name: ", {"phases": [{"devices": 1}]}),
    ("plan.phases", "phases[0].name: ", phases({"name": "done"})),
    ("plan.phases", "phases[0].name: ", phases({"name": "a b"})),
    ("plan.phases", "phases[0].name: ", phases({"name": "a"}, {"name": "a"})),
    ("plan.phases", "phases[0].name: ", {"phases": [{"name": "rest", "devices": 1}]}),
    ("plan.phases", "phases[0].devices: ", phases({"devices": 0})),
    ("plan.phases", "phases[1].devices: ", phases({"devices": 5}, {"devices": 5})),
    ("plan.phases", "phases[1].devices: ", phases({"devices": "20%"}, {"devices": "10%"})),
    ("plan.phases", "phases[1].devices: ", phases({"devices": "all"}, {"devices": 5})),
    ("plan.phases", "phases[1].gate: ", phases({}, {"devices": "all", "gate": True})),
    ("plan.phases", "phases[0].successes: ", phases({"successes": "0%"})),
    ("plan.size", "phases[0].successes: ", phases({"successes": 5})),
    ("plan.size", "phases[0].devices: ", phases({"devices": "101%"})),
    ("plan.size", "phases[0].devices: ", phases({"devices": -1})),
    ("plan.size", "phases[0].devices: ", phases({"devices": True})),
    ("plan.size", "phases[0].failures: ", phases({"failures": "few"})),
    ("plan.duration", "phases[0].soak: ", phases({"soak": "10 minutes"})),
    ("plan.duration", "phases[0].soak: ", phases({"soak": True})),
    ("plan.type", "phases[0].gate: ", phases({"gate": 1})),
    ("plan.type", "phases[0].max_parallel: ", phases({"max_parallel": -1})),
    ("plan.type", "phases[0]: ", {"phases": ["canary"]}),
    ("plan.type", "phases: ", {"phases": {"name": "canary"}}),
    ("plan.too_many", "phases: ", phases(*[{}] * 21)),
    ("plan.type", "max_parallel: ", {"max_parallel": "10"}),
    ("plan.duration", "deadline: ", {"deadline": 0}),
    ("plan.duration", "deadline: ", {"deadline": "24"}),
    ("plan.duration", "expires: ", {"expires": "0s"}),
    ("plan.duration", "expires: ", {"expires": "3651d"}),
    ("plan.duration", "backoff: ", {"backoff": -1}),
    ("plan.type", "retries: ", {"retries": 21}),
    ("plan.type", "retries: ", {"retries": "3"}),
    ("plan.type", "priority: ", {"priority": 101}),
    ("plan.type", "priority: ", {"priority": False}),
    ("plan.window", "window[0].to: ", {"window": [{"from": "01:00"}]}),
    ("plan.window", "window[0].from: ", {"window": [{"from": "25:00", "to": "02:00"}]}),
    ("plan.window", "window[0].from: ", {"window": [{"from": "1am", "to": "02:00"}]}),
    ("plan.window", "window[0].to: ", {"window": [{"from": "01:00", "to": "02:60"}]}),
    ("plan.window", "window[0].days: ", {"window": [{"days": ["monday"], "from": "01:00", "to": "02:00"}]}),
    ("plan.window", "window[0].days: ", {"window": [{"days": [], "from": "01:00", "to": "02:00"}]}),
    ("plan.window", "window[0].days: ", {"window": [{"days": [[]], "from": "01:00", "to": "02:00"}]}),
    ("plan.type", "window: ", {"window": {"from": "01:00", "to": "02:00"}}),
    ("plan.network", "network: ", {"network": []}),
    ("plan.network", "network: ", {"network": ["lan"]}),
    ("plan.type", "network: ", {"network": "wired"}),
    ("plan.type", "force: ", {"force": "no"}),
    ("plan.steps", "steps[0].through: ", {"steps": [{"below": "1.0.0"}]}),
    ("plan.steps", "steps[0].through: ", {"steps": [{"below": "1.0.5", "through": "1.0.0"}]}),
    ("plan.steps", "steps[0].through: ", {"steps": [{"below": "1.1.0", "through": "1.1.0"}]}),
    ("plan.name", "steps[0].below: ", {"steps": [{"below": "x y", "through": "1.0"}]}),
    ("plan.too_many", "notes: ", {"notes": "x" * 16_385}),
    ("plan.too_many", "note: ", {"note": "x" * 1025}),
    ("plan.type", "note: ", {"note": 12}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "begins", "change"), WRONG)
def test_a_mistake_is_told_with_its_field_and_a_way_to_mend_it(code: str, begins: str, change: dict[str, Any]) -> None:
    wrong = {name: value for name, value in (LEAST | change).items() if value is not ...}
    with pytest.raises(PlanError) as caught:
        Plan.parse(wrong)
    assert (caught.value.code, caught.value.message[: len(begins)]) == (code, begins), caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("given_", [None, 5, "all", [], {1: 2}, {"product": {}, "version": [], "devices": 5}])
def test_what_is_no_plan_at_all_is_refused(given_: Any) -> None:
    with pytest.raises(PlanError):
        Plan.parse(given_)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(sorted(FULL)), inner),
))  # fmt: skip
def test_anything_in_any_field_is_refused_in_words_or_taken(value: Any) -> None:
    for name in FULL:
        try:
            plan = Plan.parse(FULL | {name: value})
        except PlanError as error:
            assert error.code.startswith("plan.")  # noqa: PT017 # either way is right
        else:
            assert Plan.parse(plan.as_dict()) == plan


@given(st.integers(0, 3650 * 86_400))
def test_durations_read_back(seconds: int) -> None:
    text = duration_text(seconds)
    assert duration(text, "x") == seconds
    assert duration(0, "x") == 0


def test_durations_have_five_units() -> None:
    spelled = {"90s": 90, "10m": 600, "24h": 86_400, "30d": 2_592_000, "1w": 604_800}
    assert {text: duration(text, "x") for text in spelled} == spelled


@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=4),
    st.lists(st.tuples(st.sets(st.integers(0, 6), min_size=1), st.integers(0, 1439), st.integers(0, 1440)), max_size=3),
)
def test_generated_plans_read_back(sizes: list[tuple[int, bool]], windows: list[tuple[set[int], int, int]]) -> None:
    named = [{"name": f"p{index}", "devices": f"{n}%" if share else n} for index, (n, share) in enumerate(sizes)]
    spelled = [{"days": [DAYS[day] for day in sorted(days)], "from": start, "to": end} for days, start, end in windows]
    try:
        plan = Plan.parse(LEAST | {"phases": named, "window": spelled})
    except PlanError as error:
        assert error.code == "plan.phases"  # noqa: PT017 # sizes that do not grow
        return
    assert Plan.parse(plan.as_dict()) == plan
    assert plan.phases[-1].devices.everyone


def test_a_selection_says_why_it_leaves_somebody_out() -> None:
    chosen = Plan.parse(FULL | {"devices": FULL["devices"] | {"percent": 100}}).devices
    fits = Candidate("gw-1", {"ring": "beta", "site": "berlin"}, {"arch": "aarch64", "hardware": "rpi4"}, "1.0.5")
    assert chosen.excluded(fits, "x") == ""
    for reason, other in {
        "ids": Candidate("gw-3", fits.labels, fits.facts, fits.version),
        "labels.ring": Candidate("gw-1", {"ring": "stable", "site": "berlin"}, fits.facts, fits.version),
        "labels.site": Candidate("gw-1", {"ring": "beta"}, fits.facts, fits.version),
        "facts.arch": Candidate("gw-1", fits.labels, {"arch": "x86_64", "hardware": "rpi4"}, fits.version),
        "versions": Candidate("gw-1", fits.labels, fits.facts, "1.1.0"),
    }.items():
        assert chosen.excluded(other, "x") == reason
    assert chosen.excluded(Candidate("gw-1", fits.labels, fits.facts, ""), "x") == "versions"
    assert str(chosen).startswith("ring=beta|canary,site=berlin,arch=aarch64")


def test_a_plan_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Plan.parse(LEAST).retries = 5  # type: ignore[misc]
    assert hash(Phase("a")) == hash(Phase("a"))


def test_who_writes_all_for_the_devices_is_told_how_it_is_written() -> None:
    with pytest.raises(PlanError) as refused:
        Plan.parse({"product": "my-app", "version": "1.0.0", "devices": "all"})
    assert "{all: true}" in refused.value.hint
