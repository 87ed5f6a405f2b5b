"""PROTOCOL.md says what the code does."""

import re
from pathlib import Path

import msgspec
import pytest
from beamfleet_bundles import assignment, chain, facts, messages, repository

BUNDLES = Path(__file__).resolve().parents[2] / "firmware_bundles"
PROTOCOL = (BUNDLES / "PROTOCOL.md").read_text()
STRUCTS = {
    "up/presence": messages.Presence,
    "up/state": messages.State,
    "up/event": messages.Event,
    "up/progress": messages.Progress,
    "up/health": messages.Health,
    "down/command": messages.Command,
    "down/ack": messages.Ack,
}


def section(heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def first_column(text: str) -> list[str]:
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def fields(struct: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(struct)]


@pytest.mark.parametrize(("topic", "struct"), STRUCTS.items())
def test_every_message_is_documented_field_by_field_with_its_size(topic: str, struct: type[msgspec.Struct]) -> None:
    text = section(f"`{topic}`")
    assert first_column(text) == fields(struct)
    assert text.startswith(f"At most {messages.MAX_SIZES[topic.split('/')[1]]:,} bytes.")


@pytest.mark.parametrize("struct", [messages.Update, messages.Inventory])
def test_the_objects_inside_the_state_are_documented(struct: type[msgspec.Struct]) -> None:
    row = next(line for line in section("`up/state`").splitlines() if line.startswith(f"| `{struct.__name__.lower()}`"))
    assert set(fields(struct)) <= set(re.findall(r"`([a-z_]+)`", row))


def test_the_signed_facts_and_the_assignment_are_documented() -> None:
    assert set(first_column(section("Who signs what"))) >= set(fields(facts.Custom))
    assert first_column(section("Assignment")) == fields(assignment._For)
    assert f"{assignment.MAX_SIZE} bytes" in section("Assignment")


def test_the_lifetimes_are_the_documented_ones() -> None:
    rows = re.findall(r"^\| (\S+) \|.*\| (\d+) days \|$", section("Who signs what"), re.MULTILINE)
    documented = {role.strip("`"): int(days) for role, days in rows}
    known = {role: lifetime.days for role, lifetime in repository.LIFETIMES.items()}
    known["P"] = known.pop("product")
    assert documented == {**known, "director": assignment.LIFETIME.days}


def test_the_limits_of_metadata_are_the_documented_ones() -> None:
    for limit in chain.MAX_METADATA.values():
        assert f"{limit:,}" in section("HTTP for devices")


def test_every_error_code_is_documented_and_every_documented_one_exists() -> None:
    code = re.compile(r'"((?:trust|assignment|message|pki)\.[a-z_]+)"')
    raised = {
        found for path in (BUNDLES / "beamfleet_bundles").rglob("*.py") for found in code.findall(path.read_text())
    }
    assert first_column(section("Error codes")) == sorted(raised, key=lambda name: (ORDER[name.split(".")[0]], name))


ORDER = {"trust": 0, "assignment": 1, "message": 2, "pki": 3}
