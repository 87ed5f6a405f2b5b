"""Golden samples: what any version has written stays readable, and what was signed keeps its bytes.

A sample is never edited. A version that writes something new adds a sample of it.
"""

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from beamfleet_bundles import manifest, messages
from beamfleet_bundles.launch import PATH, parse

GOLDEN = Path(__file__).parent / "golden"
MANIFESTS = {
    "manifest.v1.json": ("0bbb70f11060daa0c533749aab1198ae", None),
    "manifest.v1-data-schema.json": ("804742f02a847afb005e77ae24570444", 7),
    "manifest.v1-probes.json": ("aabb209baf853ebfdef1594324398fd6", None),
}
MESSAGES = {
    "messages.v1.jsonl": set(messages.MAX_SIZES) - {"health", "logs"},
    "messages.v1-hook.jsonl": {"state", "event"},
    "messages.v1-trust.jsonl": {"presence", "state"},
    "messages.v1-network.jsonl": {"state"},
    "messages.v1-telemetry.jsonl": {"presence", "event", "health", "logs", "command"},
}


def test_every_sample_is_read_by_a_test() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {*MANIFESTS, *MESSAGES}


@pytest.mark.parametrize(("name", "slot", "schema"), [(name, *facts) for name, facts in MANIFESTS.items()])
def test_a_manifest_stays_readable_and_keeps_its_name(name: str, slot: str, schema: int | None) -> None:
    data = (GOLDEN / name).read_bytes()
    read = manifest.decode(data)
    assert (read.encode(), read.id) == (data, slot)
    assert read.launch.data_schema == (msgspec.UNSET if schema is None else schema)
    (launch_file,) = (entry for entry in read.files if entry.path == PATH)
    assert hashlib.sha256(read.launch.encode()).hexdigest() == launch_file.sha256
    assert parse(read.launch.encode()) == read.launch


@pytest.mark.parametrize(("name", "kinds"), MESSAGES.items())
def test_messages_stay_readable_and_say_the_same(name: str, kinds: set[str]) -> None:
    seen = set()
    for line in (GOLDEN / name).read_text().splitlines():
        sample = json.loads(line)
        read = messages.decode(sample["kind"], json.dumps(sample["message"]).encode())
        assert json.loads(messages.encode(read)) == sample["message"]
        seen.add(sample["kind"])
    assert seen == kinds
