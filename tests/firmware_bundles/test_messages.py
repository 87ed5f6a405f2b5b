"""Messages on MQTT: closed schemas, against senders that mean harm."""

import json
from typing import Any

import msgspec
import pytest
from beamfleet_bundles import messages, topics
from beamfleet_bundles.errors import BundleError
from hypothesis import given
from hypothesis import strategies as st

UPDATE = {
    "phase": "reverted",
    "product": "sensor-gateway",
    "version": "1.2.0",
    "manifest": "ab" * 32,
    "attempt": 1,
    "reason": "crash",
    "detail": "ended 3 times within the trial",
}
SAMPLES: dict[str, dict[str, Any]] = {
    "presence": {"v": 1, "session": 7, "online": True, "reason": "", "time": 1, "agent": "0.1.0", "profile": "wired"},
    "state": {
        "v": 1,
        "boot": 3,
        "seq": 12,
        "time": 1_800_000_000,
        "slot": "ab" * 16,
        "previous": "",
        "manifest": "ab" * 32,
        "product": "sensor-gateway",
        "version": "1.1.0",
        "phase": "committed",
        "attempt": 1,
        "sequence": 1_800_000_000,
        "update": UPDATE,
        "starts": 4,
        "cause": "crash",
        "power_losses": 0,
        "stopped": False,
        "failed": f"{'cd' * 16}:1:crash",
        "inventory": {
            "agent": "0.1.0",
            "arch": "x86_64",
            "libc": "glibc",
            "libc_version": "2.36",
            "machine": "Raspberry Pi 5 Model B",
            "hardware": "",
            "kernel": "6.1.0-18-amd64",
            "os": "Debian GNU/Linux 12 (bookworm)",
            "python": "3.11.2",
            "filesystem": "ext4",
            "unsafe_filesystem": False,
            "free_bytes": 1 << 40,
            "cpus": 4,
            "memory_bytes": 1 << 32,
        },
    },
    "event": {
        "v": 1,
        "boot": 3,
        "seq": 13,
        "time": 1,
        "kind": "error",
        "cause": "trust.expired",
        "detail": "timestamp.json ist abgelaufen, prüfe die Uhr",
        "slot": "",
        "data": {"tries": 3, "where": "timestamp"},
    },
    "progress": {"v": 1, "manifest": "ab" * 32, "phase": "downloading", "done": 5, "total": 10},
    "health": {
        "v": 1,
        "time": 1,
        "verdict": "healthy",
        "uptime_ms": 1234,
        "memory": {"total": 1, "processes": 1, "binary": 1, "ets": 1, "atom": 1, "code": 1, "system": 1},
        "processes": 60,
        "ports": 3,
        "run_queue": 0,
        "applications": ["kernel", "stdlib", "sensor_gateway"],
        "load": [12, 5, 100],
        "memory_free": 1,
        "disk_free": 1,
        "starts": 1,
    },
    "command": {"v": 1, "id": "a1b2", "name": "refresh"},
    "ack": {"v": 1, "boot": 3, "seq": 13},
}
KINDS = tuple(SAMPLES)


def refusal(kind: str, data: bytes) -> str:
    with pytest.raises(BundleError) as refused:
        messages.decode(kind, data)
    assert refused.value.message.isprintable()
    assert refused.value.message.isascii()
    return refused.value.code


def with_value(kind: str, path: str, value: object) -> bytes:
    content = json.loads(json.dumps(SAMPLES[kind]))
    *parents, last = path.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return json.dumps(content).encode()


def test_every_topic_but_the_assignment_has_a_schema() -> None:
    assert set(messages.MAX_SIZES) == {*topics.UP_KINDS, *topics.DOWN_KINDS} - {"desired"}
    assert max(messages.MAX_SIZES.values()) < 65_536


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_survives_the_journey(kind: str) -> None:
    message = messages.decode(kind, json.dumps(SAMPLES[kind]).encode())
    assert json.loads(messages.encode(message)) == SAMPLES[kind]
    assert messages.decode(kind, messages.encode(message)) == message


def test_a_device_without_a_release_or_an_update_can_say_so() -> None:
    empty = {"slot": "", "manifest": "", "product": "", "version": "", "phase": "none", "cause": "", "update": None}
    state = messages.decode("state", json.dumps({**SAMPLES["state"], **empty}).encode())
    assert isinstance(state, messages.State)
    assert state.update is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_another_version_is_refused(kind: str) -> None:
    assert refusal(kind, with_value(kind, "v", 2)) == "message.schema"
    without = {key: value for key, value in SAMPLES[kind].items() if key != "v"}
    assert refusal(kind, json.dumps(without).encode()) == "message.schema"


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in SAMPLES[kind]])
def test_every_field_is_needed_and_none_may_be_of_another_type(kind: str, name: str) -> None:
    without = {key: value for key, value in SAMPLES[kind].items() if key != name}
    assert refusal(kind, json.dumps(without).encode()) == "message.schema"
    anything: tuple[object, ...] = (1.5, [[]], {"a": {}}, "\x00")
    for wrong in anything:
        assert refusal(kind, with_value(kind, name, wrong)) == "message.schema"


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_refused_wherever_it_hides(kind: str) -> None:
    assert refusal(kind, with_value(kind, "more", 1)) == "message.schema"
    assert refusal(kind, with_value(kind, "\u202e\x1b[2J", 1)) == "message.schema"
    for inner in ("inventory", "update"):
        if inner in SAMPLES[kind]:
            assert refusal(kind, with_value(kind, f"{inner}.more", 1)) == "message.schema"


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_above_its_size_is_not_read(kind: str) -> None:
    whole = json.dumps(SAMPLES[kind]).encode()
    messages.decode(kind, whole + b" " * (messages.MAX_SIZES[kind] - len(whole)))
    assert refusal(kind, whole + b" " * (messages.MAX_SIZES[kind] - len(whole) + 1)) == "message.too_large"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b'"\\ud800"', b"\xef\xbb\xbf{}", b"{}x", b'{"v":1}{"v":1}', b"NaN"]
)
def test_what_is_not_json_is_refused(kind: str, data: bytes) -> None:
    assert refusal(kind, data) in ("message.syntax", "message.schema")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opening", [b"[", b'{"v":', b'{"a":['])
def test_endless_nesting_ends_at_the_schema(kind: str, opening: bytes) -> None:
    data = opening * (messages.MAX_SIZES[kind] // len(opening))
    assert refusal(kind, data) in ("message.syntax", "message.schema")


@pytest.mark.parametrize("kind", ["desired", "", "State", "../state", "\x1b"])
def test_a_kind_that_does_not_exist_is_refused(kind: str) -> None:
    assert refusal(kind, b"{}") == "message.kind"


@pytest.mark.parametrize("value", [-1, 2**63, 2**64, 10**40, True, "1", 1.0, None])
def test_integers_are_natural_and_fit_in_64_bits(value: object) -> None:
    assert refusal("ack", with_value("ack", "seq", value)) == "message.schema"
    assert refusal("health", with_value("health", "memory.total", value)) == "message.schema"


def test_the_largest_integer_fits() -> None:
    assert messages.decode("ack", with_value("ack", "seq", 2**63 - 1)) == messages.Ack(v=1, boot=3, seq=2**63 - 1)


HOSTILE = ["\n", "\x00", "\x1b[31m", "\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\u2028", "\ufeff", "trailing\n"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("event", "detail"),
        ("event", "cause"),
        ("event", "data.where"),
        ("state", "failed"),
        ("state", "version"),
        ("state", "slot"),
        ("state", "inventory.os"),
        ("state", "update.detail"),
        ("presence", "reason"),
        ("health", "verdict"),
        ("command", "id"),
    ],
)
def test_characters_that_break_hide_or_turn_a_line_are_refused(kind: str, path: str, text: str) -> None:
    assert refusal(kind, with_value(kind, path, text)) == "message.schema"


@pytest.mark.parametrize(
    ("kind", "path", "limit"),
    [
        ("event", "detail", 1024),
        ("event", "cause", 64),
        ("event", "data.where", 256),
        ("state", "inventory.kernel", 256),
        ("state", "inventory.machine", 64),
        ("presence", "reason", 256),
        ("command", "id", 64),
    ],
)
def test_every_string_has_an_end(kind: str, path: str, limit: int) -> None:
    messages.decode(kind, with_value(kind, path, "a" * limit))
    assert refusal(kind, with_value(kind, path, "a" * (limit + 1))) in ("message.schema", "message.too_large")


def test_every_list_and_map_has_an_end() -> None:
    for path, most in (("applications", ["a"] * 256), ("load", [1] * 3)):
        messages.decode("health", with_value("health", path, most))
        assert refusal("health", with_value("health", path, [*most, most[0]])) == "message.schema"
    for kind, path in (("health", "memory"), ("event", "data")):
        messages.decode(kind, with_value(kind, path, {f"key_{number}": 1 for number in range(16)}))
        many = {f"key_{number}": 1 for number in range(17)}
        assert refusal(kind, with_value(kind, path, many)) == "message.schema"


@pytest.mark.parametrize("key", ["", "A", "a b", "a" * 33, "__proto__", "a.b", "é"])
def test_keys_of_maps_are_plain_names(key: str) -> None:
    assert refusal("event", with_value("event", "data", {key: 1})) == "message.schema"
    assert refusal("health", with_value("health", "memory", {key: 1})) == "message.schema"


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("state", "phase", "running"),
        ("state", "cause", "bad luck"),
        ("state", "slot", "../../etc"),
        ("state", "manifest", "AB" * 32),
        ("state", "product", "Sensor"),
        ("state", "version", "../1"),
        ("state", "update.phase", "done"),
        ("event", "kind", "gossip"),
        ("progress", "phase", ""),
        ("command", "name", "reboot"),
        ("command", "id", ""),
        ("presence", "session", 0),
    ],
)
def test_words_are_from_their_list(kind: str, path: str, value: object) -> None:
    assert refusal(kind, with_value(kind, path, value)) == "message.schema"


@given(st.sampled_from(KINDS), st.binary(max_size=400))
def test_no_bytes_make_the_reader_stumble(kind: str, data: bytes) -> None:
    assert refusal(kind, data).startswith("message.")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(KINDS), st.data())
def test_one_field_with_anything_in_it_is_taken_only_if_it_comes_out_the_same(kind: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SAMPLES[kind])))
    content = {**SAMPLES[kind], name: data.draw(ANY_JSON)}
    try:
        message = messages.decode(kind, msgspec.json.encode(content))
    except BundleError as error:
        taken = None
        assert error.code.startswith("message.")  # noqa: PT017 - the other way out is as good
    else:
        taken = json.loads(messages.encode(message))
    assert taken in (None, content)
