"""A rollout's plan as a YAML file and as flags: what is written is what is sent, or an error that says where."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.cli.rollout_file import LARGEST, read_plan
from beamfleet_server.cli.rollout_flags import Flags, parse_phase, parse_window
from beamfleet_server.fleet.plan import Plan

from tests.server.cli.terminal import Operator

WHOLE = """\
product: sensor-gateway
version: 1.10
devices:
  labels: {site: berlin, rack: 2, ring: [beta, canary], loud: no}
  versions: ["<1.1.0", 1.5]
  percent: 10
phases:
  - {name: canary, devices: 1, soak: 10m, gate: false, failures: 0}
  - {name: tenth, devices: 10%, gate: true, failures: 2%}
window: [{days: [mon, tue], from: 22:00, to: 04:00}]
force: false
priority: -5
notes: |
  line one
  line two
"""


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "plan.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_is_read_as_it_is_written_without_the_surprises_of_yaml(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, WHOLE))
    assert plan.mapping == {
        "product": "sensor-gateway",
        "version": "1.10",
        "devices": {
            "labels": {"site": "berlin", "rack": "2", "ring": ["beta", "canary"], "loud": "no"},
            "versions": ["<1.1.0", "1.5"],
            "percent": 10,
        },
        "phases": [
            {"name": "canary", "devices": 1, "soak": "10m", "gate": False, "failures": 0},
            {"name": "tenth", "devices": "10%", "gate": True, "failures": "2%"},
        ],
        "window": [{"days": ["mon", "tue"], "from": "22:00", "to": "04:00"}],
        "force": False,
        "priority": -5,
        "notes": "line one\nline two\n",
    }


def billion() -> str:
    lines = ['a: &a ["x","x","x","x","x","x","x","x","x"]']
    lines += [f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("product: a\nversion: 1\nproduct: b\n", 3, "product is given twice"),
        ("phases:\n  - {name: a, devices: 1, devices: 2}\n", 2, "devices is given twice"),
        (billion(), 1, "anchors and aliases"),
        ("a: 1\nb: *nothing\n", 2, "anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "the tag"),
        ("a: !!binary aGk=\n", 1, "the tag"),
        ("a: 1\n---\nb: 2\n", 2, "one document"),
        ("- a\n- b\n", 1, "a plan is a mapping"),
        ("just words", 1, "a plan is a mapping"),
        ("", 1, "there is no plan"),
        ("a: [1\nb: 2\n", 2, "',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "cannot start any token"),
        ("? [a, b]\n: 1\n", 1, "a key is a word"),
        ("a: " + "[" * 100 + "]" * 100, 1, "nested more than"),
        ("a: " + "{b: " * 100 + "1" + "}" * 100, 1, "nested more than"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        (b"a: 1\nb: \x00\n", 1, "special characters"),
        ("#" * (LARGEST + 1), 1, "at most"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_its_line(
    text: str | bytes, line: int, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CommandError) as refused:
        read_plan(path)
    assert refused.value.code == "rollout.plan_file"
    assert refused.value.message.startswith(f"{path}:{line}: ")
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("version: this is none", 2),
        ("phases[1].failures: 2% of what", 9),
        ("phases[1].colour: no such key", 9),
        ("devices.labels.rack: not a label", 4),
        ("window[0].days[1]: no day", 10),
        ("nothing.of.this: x", 0),
        ("there is no bundle of it", 0),
    ],
)
def test_a_refusal_of_the_server_is_told_with_the_line_that_it_is_about(
    message: str, line: int, tmp_path: Path
) -> None:
    plan = read_plan(write(tmp_path, WHOLE))
    located = plan.located(RemoteError("rollout.plan", message, "mend it", 422))
    assert located.message == (f"{plan.path}:{line}: {message}" if line else message)
    assert (located.code, located.hint) == ("rollout.plan", "mend it")


def test_a_refusal_of_the_plan_names_the_file_unless_it_is_about_a_flag(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, "product: a\nexpires: 9y\n"))
    missing = RemoteError("plan.devices", "devices: nobody is meant", "mend it", 422)
    assert plan.located(missing).message == f"{plan.path}: devices: nobody is meant"
    about = RemoteError("plan.duration", "expires: this is none", "mend it", 422)
    assert plan.located(about).message == f"{plan.path}:2: expires: this is none"
    assert replace(plan, others=frozenset({"expires"})).located(about) is about


def test_a_file_that_chooses_nobody_is_named(
    operator: Operator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(tmp_path, "product: a\nversion: 1\n")
    refused = operator.run("rollout", "start", "-f", str(path), capsys=capsys)
    assert (refused.code, f"error: {path}: no devices are chosen (usage.selector)" in refused.err) == (2, True)


def test_a_file_that_is_not_there_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as refused:
        read_plan(tmp_path / "nothing.yaml")
    assert refused.value.code == "file.unreadable"


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("name=canary,devices=1", {"name": "canary", "devices": 1}),
        (
            "name=tenth, devices=10%, soak=1h, gate, failures=2%, max-parallel=5",
            {"name": "tenth", "devices": "10%", "soak": "1h", "gate": True, "failures": "2%", "max_parallel": 5},
        ),
        ("devices=all,gate=false,successes=95%", {"devices": "all", "gate": False, "successes": "95%"}),
    ],
)
def test_a_phase_is_written_in_words(text: str, phase: dict[str, Any]) -> None:
    assert parse_phase(text) == phase


@pytest.mark.parametrize("text", ["", "name=a", "devices", "devices=1,colour=red", "devices=1,devices=2", "gate=yes"])
def test_what_is_no_phase_is_a_usage_error(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse_phase(text)
    assert refused.value.code == "usage.phase"


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("02:00-04:00", {"from": "02:00", "to": "04:00"}),
        ("mon-wed 2:00-04:30", {"days": ["mon", "tue", "wed"], "from": "02:00", "to": "04:30"}),
        ("Sat,Sun 22:00 - 06:00", {"days": ["sat", "sun"], "from": "22:00", "to": "06:00"}),
        ("fri-mon 00:00-05:00", {"days": ["fri", "sat", "sun", "mon"], "from": "00:00", "to": "05:00"}),
        ("mon,mon 01:00-02:00", {"days": ["mon"], "from": "01:00", "to": "02:00"}),
    ],
)
def test_a_window_is_written_in_words(text: str, window: dict[str, Any]) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["", "mon", "02:00", "someday 02:00-04:00", "mon- 02:00-04:00", "mon 2-4"])
def test_what_is_no_window_is_a_usage_error(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse_window(text)
    assert refused.value.code == "usage.window"


def test_flags_spell_what_a_file_would_say(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("what is new")
    flags = Flags(
        labels=["site=berlin"],
        devices=["gw-1,gw-2", "gw-3"],
        facts=["arch=aarch64", "hardware=rpi4", "hardware=rpi5"],
        running=["<1.1.0"],
        percent=10,
        phases=["name=canary,devices=1", "devices=10%"],
        max_parallel=0,
        deadline="2h",
        retries=0,
        windows=["02:00-04:00"],
        network=["wired,wifi"],
        force=True,
        steps=["1.5.0", "2.0.0:1.9.0"],
        notes=f"@{tmp_path / 'notes.md'}",
    )
    assert flags.mapping() == {
        "devices": {
            "labels": {"site": "berlin"},
            "facts": {"arch": ["aarch64"], "hardware": ["rpi4", "rpi5"]},
            "versions": ["<1.1.0"],
            "ids": ["gw-1", "gw-2", "gw-3"],
            "percent": 10,
        },
        "phases": [{"name": "canary", "devices": 1}, {"name": "phase-2", "devices": "10%"}],
        "max_parallel": 0,
        "deadline": "7200s",
        "retries": 0,
        "window": [{"from": "02:00", "to": "04:00"}],
        "network": ["wired", "wifi"],
        "force": True,
        "steps": [{"below": "1.5.0", "through": "1.5.0"}, {"below": "2.0.0", "through": "1.9.0"}],
        "notes": "what is new",
    }
    assert Flags().mapping() == {}
    assert Flags(everyone=True, percent=5, canary=2).mapping() == {
        "devices": {"percent": 5, "all": True},
        "phases": [{"name": "canary", "devices": 2}],
    }


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (Flags(everyone=True, labels=["a=b"]), "usage.selector"),
        (Flags(everyone=True, running=["<1"]), "usage.selector"),
        (Flags(canary=1, phases=["devices=1"]), "usage.phase"),
        (Flags(facts=["arch"]), "usage.fact"),
        (Flags(deadline="soon"), "usage.duration"),
        (Flags(windows=["at night"]), "usage.window"),
        (Flags(notes="@/nowhere/at/all"), "file.unreadable"),
    ],
)
def test_flags_that_cannot_be_meant_are_usage_errors(flags: Flags, code: str) -> None:
    with pytest.raises(CommandError) as refused:
        flags.mapping()
    assert refused.value.code == code


def test_the_plan_on_the_page_about_rollouts_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "server" / "ROLLOUTS.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    plan = Plan.parse(read_plan(write(tmp_path, text)).mapping)
    assert [phase.name for phase in plan.phases] == ["canary", "tenth", "rest"]
    assert Plan.parse(plan.as_dict()) == plan


def test_a_plan_of_flags_is_one() -> None:
    flags = Flags(
        labels=["site=berlin"],
        facts=["arch=aarch64"],
        running=["<1.1", ">=0.9,<1"],
        percent=50,
        phases=["name=canary,devices=1,soak=10m,gate", "devices=10%,failures=2%,successes=95%,max-parallel=9"],
        deadline="2h",
        expires="90d",
        windows=["mon-fri 22:00-04:00", "12:00-13:00"],
        priority=-3,
        network=["wired"],
        steps=["1.0.0"],
    )
    plan = Plan.parse({"product": "my-app", "version": "1.10", **flags.mapping()})
    assert [phase.name for phase in plan.phases] == ["canary", "phase-2", "rest"]
    assert (plan.version, plan.deadline, plan.phases[0].gate) == ("1.10", 7200, True)
