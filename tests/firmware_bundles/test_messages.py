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
    "presence": {
        "v": 1,
        "session": 7,
        "online": True,
        "reason": "",
        "time": 1,
        "agent": "0.1.0",
        "profile": "wired",
        "machine": "ab" * 16,
        "keepalive_s": 90,
        "interval_s": 60,
    },
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
            "timezone": "Europe/Berlin",
            "network": "wifi",
        },
        "metadata": {"root": 2, "timestamp": 5, "snapshot": 5, "targets": 3, "products": {"sensor-gateway": 4}},
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
        "evidence": {"slogan": "no more memory", "status": "ended with 1", "log": ["eins", "zwei"]},
    },
    "progress": {"v": 1, "manifest": "ab" * 32, "phase": "downloading", "done": 5, "total": 10},
    "health": {
        "v": 1,
        "time": 1,
        "verdict": "failing",
        "detail": "not running: sensor_gateway",
        "starts": 1,
        "full": True,
        "late_s": 60,
        "dropped": 3,
        "beam": {
            "uptime_ms": 1234,
            "memory": {"total": 1, "processes": 1, "binary": 1, "ets": 1, "atom": 1, "code": 1, "system": 1},
            "processes": [60, 262_144],
            "ports": [3, 65_536],
            "atoms": [14_000, 1_048_576],
            "ets": [60, 8_192],
            "run_queue": 0,
            "schedulers": 12,
            "restarts": 3,
            "gc": 900,
            "queues": [["sensor_gateway_counter", 100_000], ["<0.210.0>", 12]],
            "said": ["degraded", "the modem is asleep"],
            "metrics": {"temperature": 21.5, "balance": -3},
            "otp": "25",
        },
        "applications": ["kernel 8.5.4", "stdlib 4.2", "sensor_gateway 1.0.0"],
        "probes": {"startup": ["ok", ""], "readiness": ["failed", "GET :80/: 503"], "liveness": ["waiting", ""]},
        "host": {
            "load": [12, 5, 100],
            "memory": [1, 2],
            "disk": [1, 2],
            "inodes": [1, 2],
            "temperature": -4_000,
            "wear": 10,
            "uptime_s": 7,
            "network": "wired",
        },
    },
    "logs": {"v": 1, "id": "a1b2", "lines": ["12:00:00 gestartet"], "missed": 0, "end": True},
    "command": {"v": 1, "id": "a1b2", "name": "logs", "lines": 100, "follow_s": 60},
    "ack": {"v": 1, "boot": 3, "seq": 13},
}
KINDS = tuple(SAMPLES)
OPTIONAL = {
    *(("presence", name) for name in ("machine", "keepalive_s", "interval_s")),
    *(("health", name) for name in ("detail", "full", "late_s", "dropped", "beam", "applications", "probes", "host")),
    *(("command", name) for name in ("lines", "follow_s")),
    ("state", "metadata"),
    ("event", "evidence"),
}
"""Fields that the first agents did not send, or that are left out when there is nothing to say."""


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
    if (kind, name) in OPTIONAL:
        assert json.loads(messages.encode(messages.decode(kind, json.dumps(without).encode()))) == without
    else:
        assert refusal(kind, json.dumps(without).encode()) == "message.schema"
    anything: tuple[object, ...] = (1.5, [[]], {"a": {}}, "\x00")
    for wrong in anything:
        assert refusal(kind, with_value(kind, name, wrong)) == "message.schema"


@pytest.mark.parametrize("name", ["timezone", "network"])
def test_of_an_inventory_may_be_missing_what_older_agents_do_not_say(name: str) -> None:
    inventory = {key: value for key, value in SAMPLES["state"]["inventory"].items() if key != name}
    without = SAMPLES["state"] | {"inventory": inventory}
    assert json.loads(messages.encode(messages.decode("state", json.dumps(without).encode()))) == without
    for wrong in (1, None, "\x00", "Europe/Berlin\n", "../../etc/passwd", "/etc/passwd", "a/", "a" * 65):
        assert refusal("state", with_value("state", f"inventory.{name}", wrong)) == "message.schema"


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_refused_wherever_it_hides(kind: str) -> None:
    assert refusal(kind, with_value(kind, "more", 1)) == "message.schema"
    assert refusal(kind, with_value(kind, "\u202e\x1b[2J", 1)) == "message.schema"
    for inner in ("inventory", "update", "metadata", "evidence", "beam", "host", "probes"):
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
    assert refusal("health", with_value("health", "beam.memory.total", value)) == "message.schema"


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
        ("event", "evidence.slogan"),
        ("health", "verdict"),
        ("health", "detail"),
        ("health", "beam.otp"),
        ("command", "id"),
        ("logs", "id"),
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
        ("event", "evidence.slogan", 256),
        ("event", "evidence.status", 256),
        ("health", "detail", 256),
        ("command", "id", 64),
        ("logs", "id", 64),
    ],
)
def test_every_string_has_an_end(kind: str, path: str, limit: int) -> None:
    messages.decode(kind, with_value(kind, path, "a" * limit))
    assert refusal(kind, with_value(kind, path, "a" * (limit + 1))) in ("message.schema", "message.too_large")


def test_every_list_and_map_has_an_end() -> None:
    lists: tuple[tuple[str, str, list[Any]], ...] = (
        ("health", "applications", ["a"] * 256),
        ("health", "beam.queues", [["a", 10]] * 5),
        ("health", "beam.said", ["ok", ""]),
        ("health", "beam.atoms", [1, 2]),
        ("health", "host.load", [1] * 3),
        ("health", "probes.liveness", ["ok", ""]),
        ("event", "evidence.log", ["a" * 256] * 20),
        ("logs", "lines", ["a" * 512] * 50),
    )
    for kind, path, most in lists:
        messages.decode(kind, with_value(kind, path, most))
        assert refusal(kind, with_value(kind, path, [*most, most[0]])) == "message.schema"
    for kind, path in (("health", "beam.memory"), ("health", "beam.metrics"), ("event", "data")):
        messages.decode(kind, with_value(kind, path, {f"key_{number}": 1 for number in range(16)}))
        many = {f"key_{number}": 1 for number in range(17)}
        assert refusal(kind, with_value(kind, path, many)) == "message.schema"
    products = {f"product-{number}": 1 for number in range(9)}
    assert refusal("state", with_value("state", "metadata.products", products)) == "message.schema"
    products.popitem()
    messages.decode("state", with_value("state", "metadata.products", products))


@pytest.mark.parametrize("key", ["", "A", "a b", "a" * 33, "__proto__", "a.b", "é"])
def test_keys_of_maps_are_plain_names(key: str) -> None:
    assert refusal("event", with_value("event", "data", {key: 1})) == "message.schema"
    for path in ("beam.memory", "beam.metrics", "probes"):
        assert refusal("health", with_value("health", path, {key: 1})) == "message.schema"


OLD_HEALTH = {
    "v": 1, "time": 1, "verdict": "healthy", "uptime_ms": 1234, "memory": {"total": 1}, "processes": 60, "ports": 3,
    "run_queue": 0, "applications": ["kernel"], "load": [12, 5, 100], "memory_free": 1, "disk_free": 1, "starts": 1,
}  # fmt: skip


def test_a_sample_in_the_shape_of_before_telemetry_is_refused() -> None:
    assert refusal("health", json.dumps(OLD_HEALTH).encode()) == "message.schema"


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, -(2**63), 0.5, -1e300])
def test_a_metric_is_any_number_of_64_bits(value: float) -> None:
    read = messages.decode("health", with_value("health", "beam.metrics", {"a": value}))
    assert isinstance(read, messages.Health)
    assert isinstance(read.beam, messages.Beam)
    assert read.beam.metrics == {"a": value}


def test_a_release_that_does_not_answer_is_told_from_one_that_has_nothing_new() -> None:
    few = {key: SAMPLES["health"][key] for key in ("v", "time", "verdict", "starts")}
    for content, beam in ((few, msgspec.UNSET), (few | {"beam": None}, None)):
        read = messages.decode("health", json.dumps(content).encode())
        assert isinstance(read, messages.Health)
        assert (read.beam, read.detail, read.full, read.late_s) == (beam, "", False, 0)
        assert json.loads(messages.encode(read)) == content


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
        ("state", "metadata.products", {"Sensor": 1}),
        ("state", "metadata.products", {"sensor": -1}),
        ("state", "metadata.root", 2**63),
        ("presence", "machine", "ab" * 15),
        ("presence", "machine", "AB" * 16),
        ("event", "kind", "gossip"),
        ("progress", "phase", ""),
        ("presence", "profile", "cellular"),
        ("presence", "keepalive_s", 0),
        ("presence", "interval_s", 0),
        ("health", "verdict", "degraded"),
        ("health", "beam.said", ["well", ""]),
        ("health", "beam.schedulers", 1001),
        ("health", "beam.metrics", {"a": 2**63}),
        ("health", "beam.metrics", {"a": True}),
        ("health", "probes", {"command": ["ok", ""]}),
        ("health", "probes.liveness", ["well", ""]),
        ("health", "host.wear", 201),
        ("health", "host.temperature", -273_151),
        ("health", "host.network", "5g"),
        ("command", "follow_s", 601),
        ("command", "lines", 1001),
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
        if taken.get(name, content[name]) == content[name] or not content[name]:  # what says nothing may be left out
            content = {key: value for key, value in content.items() if key in taken}
    assert taken in (None, content)
