"""The protocol between launcher, heart, agent, init and power holds in every state that the model can reach.

`spin` visits them all; planted bugs show that it would see one; and the names of the model are those of the code.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import beamfleet_agent
import pytest
from beamfleet_agent.boot import FIELDS, PHASES
from beamfleet_agent.setup import DEVICE_FILES

from tests.model.spin import Verdict, verify

DEVICE = Path(beamfleet_agent.__file__).parent / "device"
MODEL = (DEVICE / "model/launcher.pml").read_text()
SAFETY = {
    "one request, one fault": {"FAULTS": 1, "ASKS": 1},
    "no request, two faults": {"FAULTS": 2, "ASKS": 0},
    "two requests, no fault": {"FAULTS": 0, "ASKS": 2},
    "two requests, no fault, no hooks": {"FAULTS": 0, "ASKS": 2, "HOOKS": 0},
    "one request, one fault, no hooks": {"FAULTS": 1, "ASKS": 1, "HOOKS": 0},
    "one request, one fault, only heart restarts the launcher": {"FAULTS": 1, "ASKS": 1, "RESPAWNED": 0},
}
NEVER = ": counted = 0"
"""Where stop_vm follows a revert there is no trial in which a count could fail."""
LIVENESS_SIZES = {"FAULTS": 1, "ASKS": 1}
PLANTED = {
    "a VM is there before its start is durable": ("start_vm_:\n  sync_state();\n", "start_vm_:\n", ""),
    "a request is deleted before its outcome is durable": (
        "    sync_state();\nanswered:\n",
        "answered:\n",
        "",
    ),
    "a new launcher starts without ending strangers": (
        "    if :: up(0) || known(0) -> vms[0].stage = ended :: else fi;\n",
        "",
        "",
    ),
    "a new launcher takes what was only renamed for durable": (
        "copy(my, seen); dirty = 1;",
        "copy(my, seen);",
        "",
    ),
    "a count outlives the release that it counted": (
        "owe(revert_); late = 0; counted = 0",
        "owe(revert_); late = 0",
        "",
    ),
    "the end of a VM does not ring": ("keeper = told; doorbell = 1", "keeper = told", "again"),
    "a deadline that has passed is forgotten": (":: my.phase == trial -> late = 1", ":: false", "ends"),
}
"""By name: what to replace in the model, by what, and the property of infinite runs that finds it (or an assertion)."""
PLANTED_SIZES = {"a count outlives the release that it counted": {"FAULTS": 0, "ASKS": 2, "HOOKS": 0}}
ONLY_IN_THE_MODEL = {"ask_to_end", "until_ended", "copy", "durable", "either", "cut", "sync_state", "reap"}

suite = pytest.mark.suite(name="model")


def report(capsys: pytest.CaptureFixture[str], name: str, verdict: Verdict) -> None:
    with capsys.disabled():
        end = verdict.error or "holds"
        print(f"\n  {name}: {end}; {verdict.states} states, depth {verdict.depth}, {verdict.seconds:.0f} s", flush=True)


@suite
@pytest.mark.timeout(1800)
def test_no_reachable_state_breaks_an_assertion_and_every_statement_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(number: int, name: str) -> Verdict:
        verdict = verify(MODEL, tmp_path / str(number), SAFETY[name])
        report(capsys, name, verdict)
        return verdict

    with ThreadPoolExecutor(2) as cores:
        verdicts = list(cores.map(search, range(len(SAFETY)), SAFETY))
    for verdict in verdicts:
        assert (verdict.error, verdict.truncated) == ("", ""), verdict.output
    never = frozenset.intersection(*(verdict.unreached for verdict in verdicts))
    assert [text for _, _, text in sorted(never) if not text.endswith(NEVER)] == []


@suite
@pytest.mark.timeout(900)
@pytest.mark.parametrize("claim", re.findall(r"^ltl (\w+)", MODEL, re.MULTILINE))
def test_what_must_come_comes_at_last(tmp_path: Path, capsys: pytest.CaptureFixture[str], claim: str) -> None:
    verdict = verify(MODEL, tmp_path / "run", LIVENESS_SIZES, claim)
    report(capsys, claim, verdict)
    assert (verdict.error, verdict.truncated) == ("", ""), verdict.output


@suite
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    right, wrong, claim = PLANTED[name]
    assert MODEL.count(right) == 1, f"the model has changed: {right!r} is not there once"
    verdict = verify(MODEL.replace(right, wrong), tmp_path / "run", PLANTED_SIZES.get(name, LIVENESS_SIZES), claim)
    report(capsys, name, verdict)
    assert verdict.error, verdict.output


def scripts() -> Mapping[str, str]:
    return {name: (DEVICE / name).read_text() for name in DEVICE_FILES if not name.endswith(".beam")}


def names(kind: str) -> set[str]:
    """The constants of one kind, named in the comment behind them."""
    found = re.search(rf"^mtype = \{{([^}}]*)\}}\s*/\* {kind}", MODEL, re.MULTILINE)
    assert found, kind
    return {name.strip() for name in found[1].split(",")}


@suite
def test_the_phases_the_verbs_and_the_fields_are_those_of_the_code() -> None:
    assert names("phase") == PHASES
    rules = scripts()["rules"]
    for verb in names("verbs"):
        assert re.search(rf"^    {verb}:", rules, re.MULTILINE), verb
    boot = re.search(r"typedef Boot \{\s*byte ([^;]*);\s*mtype ([^;]*);\s*bit ([^/]*)/\*", MODEL)
    assert boot
    fields = {name.strip() for group in boot.groups() for name in group.split(",")} - {"failed_attempt", "spent"}
    assert fields <= {*FIELDS, "due"}
    for point in names("due") - {"nothing"}:
        assert re.search(rf"owe {point.rstrip('_').replace('_', '-')}\b", rules), point


@suite
def test_the_functions_are_those_of_the_code() -> None:
    code = scripts()
    defined = {name for text in code.values() for name in re.findall(r"^(\w+)\(\) \{", text, re.MULTILINE)} | set(code)
    inlines = set(re.findall(r"^inline (\w+)\(", MODEL, re.MULTILINE)) - ONLY_IN_THE_MODEL
    named = set(re.findall(r"/\* (handle_\w+|start_\w+|note_\w+|rest)\b", MODEL))
    assert {"strangers", "stop_vm", "write_state", "swap_to"} <= inlines
    assert {"handle_exit", "handle_requests", "handle_hook", "start_vm", "start_hooks", "note_boot", "rest"} <= named
    assert inlines | named <= defined


@suite
def test_the_model_is_no_file_of_a_device() -> None:
    assert not [name for name in DEVICE_FILES if name.startswith("model") or name.endswith(".pml")]
