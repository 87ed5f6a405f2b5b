"""PROTOCOL.md says what the code does."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from beamfleet_bundles import assignment, chain, facts, messages, recipients, repository, sealing, whereabouts
from beamfleet_bundles.recipients import Recipient

BUNDLES = Path(__file__).resolve().parents[2] / "firmware_bundles"
PROTOCOL = (BUNDLES / "PROTOCOL.md").read_text()
STRUCTS = {
    "up/presence": messages.Presence,
    "up/state": messages.State,
    "up/event": messages.Event,
    "up/progress": messages.Progress,
    "up/health": messages.Health,
    "up/logs": messages.Logs,
    "down/command": messages.Command,
    "down/ack": messages.Ack,
}
SECTIONS: dict[str, type[msgspec.Struct]] = {"beam": messages.Beam, "host": messages.Host}


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
    inner = SECTIONS if topic == "up/health" else {}
    assert first_column(text) == fields(struct) + [name for key, each in inner.items() for name in (key, *fields(each))]
    assert text.startswith(f"At most {messages.MAX_SIZES[topic.split('/')[1]]:,} bytes.")


@pytest.mark.parametrize(
    ("name", "struct"),
    [("update", messages.Update), ("inventory", messages.Inventory), ("metadata", messages.Versions)],
)
def test_the_objects_inside_the_state_are_documented(name: str, struct: type[msgspec.Struct]) -> None:
    row = next(line for line in section("`up/state`").splitlines() if line.startswith(f"| `{name}`"))
    assert set(fields(struct)) <= set(re.findall(r"`([a-z_]+)`", row))


def test_the_evidence_of_an_event_and_the_kinds_of_probes_are_documented() -> None:
    row = next(line for line in section("`up/event`").splitlines() if line.startswith("| `evidence`"))
    assert re.findall(r"`([a-z_]+)`", row)[1:] == fields(messages.Evidence)
    row = next(line for line in section("`up/health`").splitlines() if line.startswith("| `probes`"))
    assert re.findall(r"`([a-z_]+)`", row)[1:] == [*get_args(messages.ProbeKind), *get_args(messages.ProbeState)]


def test_the_signed_facts_and_the_assignment_are_documented() -> None:
    assert set(first_column(section("Who signs what"))) >= set(fields(facts.Custom))
    assert first_column(section("Assignment")) == fields(assignment._For)
    assert f"{assignment.MAX_SIZE} bytes" in section("Assignment")


def test_the_whereabouts_are_documented() -> None:
    text = section("Where the server is")
    assert first_column(text) == fields(whereabouts.Whereabouts)
    assert all(f"`{name}`" in text for name in fields(whereabouts.Addresses))
    assert f"at most {whereabouts.MAX_PEM:,} characters" in text


def test_the_recipients_of_evidence_and_its_envelope_are_documented() -> None:
    text = section("Who opens evidence")
    assert all(f'"{name}"' in text for name in (recipients.KEY, *fields(recipients.Recipients), *fields(Recipient)))
    assert re.findall(r"`([a-z]+)`", "".join(first_column_cells(text))) == fields(sealing.Header)
    assert f"at most {recipients.MAX_RECIPIENTS}" in text
    assert f"{sealing.CHUNK:,} bytes" in text
    assert f"`{sealing.MAGIC.decode().strip()}`" in text


def first_column_cells(text: str) -> list[str]:
    return re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)


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
    code = re.compile(r'"((?:trust|assignment|message|whereabouts|evidence|sealing|pki)\.[a-z_]+)"')
    raised = {
        found for path in (BUNDLES / "beamfleet_bundles").rglob("*.py") for found in code.findall(path.read_text())
    }
    assert first_column(section("Error codes")) == sorted(raised, key=lambda name: (ORDER[name.split(".")[0]], name))


ORDER = {"trust": 0, "assignment": 1, "message": 2, "whereabouts": 3, "evidence": 4, "sealing": 5, "pki": 6}
