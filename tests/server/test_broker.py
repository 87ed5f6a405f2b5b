"""mosquitto as a program, a configuration and a memory that may fail; the process and ACL at work are in test_serve."""

import socket
from pathlib import Path

import msgspec
import pytest
from beamfleet_server.broker.configuration import BrokerFiles, subscriptions
from beamfleet_server.broker.process import SBIN, find_program, port_free
from beamfleet_server.ca import KeyPair
from beamfleet_server.delivery import Marker, reached
from beamfleet_server.errors import ServerError
from beamfleet_server.listeners import QUIET_PORTS, bind

from tests.support.refusal import refusal


def test_mosquitto_is_found_on_the_path_first_and_where_debian_puts_it(tmp_path: Path) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_program(None, str(tmp_path)) == program
    assert find_program(None, "/nowhere").parent in {Path(folder) for folder in SBIN}
    assert find_program(program) == program


def test_a_path_without_mosquitto_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("beamfleet_server.broker.process.SBIN", ())
    with pytest.raises(ServerError, match="not installed") as caught:
        find_program(None, str(tmp_path))
    assert caught.value.code == "broker.missing"
    assert refusal(find_program, tmp_path / "mosquitto") == "broker.missing"


def test_the_configuration_loses_nothing_and_takes_names_from_certificates(tmp_path: Path) -> None:
    files = BrokerFiles(tmp_path, KeyPair(tmp_path / "c.pem", tmp_path / "c.key"), tmp_path / "ca.pem")
    files.write("127.0.0.1", 1883, "me", "_gate:$7$x\n")
    lines = files.configuration.read_text().splitlines()
    listener = lines.index("listener 1883 127.0.0.1")
    assert {"max_inflight_messages 0", "max_queued_messages 0", "allow_anonymous false"} <= set(lines[:listener])
    needed = {"use_username_as_clientid true", "require_certificate true", "use_identity_as_username true"}
    assert needed | {"tls_version tlsv1.2"} <= set(lines[listener:]), "under the listener, or they are not its own"


@pytest.mark.parametrize(
    ("host", "line"), [("::", "listener 1883"), ("::1", "listener 1883 ::1"), ("192.0.2.1", "listener 1883 192.0.2.1")]
)
def test_every_address_is_that_of_both_families(tmp_path: Path, host: str, line: str) -> None:
    """Told `::`, mosquitto listens to IPv6 alone; told nothing, to both."""
    files = BrokerFiles(tmp_path, KeyPair(tmp_path / "c.pem", tmp_path / "c.key"), tmp_path / "ca.pem")
    files.write(host, 1883, "me", "_gate:$7$x\n")
    assert [each for each in files.configuration.read_text().splitlines() if "1883" in each] == [line]


def test_the_access_list_names_each_topic(tmp_path: Path) -> None:
    files = BrokerFiles(tmp_path, KeyPair(tmp_path / "c.pem", tmp_path / "c.key"), tmp_path / "ca.pem")
    files.write("127.0.0.1", 1883, "me", "_gate:$7$x\n")
    rules = [line.split() for line in files.access.read_text().splitlines() if line and not line.startswith("user")]
    assert not any("#" in rule[2] for rule in rules)
    patterns = [rule for rule in rules if rule[0] == "pattern"]
    assert all(rule[2].startswith("beamfleet/v1/%u/main/") for rule in patterns)
    assert {rule[1] for rule in patterns if "/up/" in rule[2]} == {"write"}
    assert {rule[1] for rule in patterns if "/down/" in rule[2]} == {"read"}
    assert set(subscriptions()) == {rule[2] for rule in rules if rule[:2] == ["topic", "read"]}


def test_a_free_port_is_none_that_an_outgoing_connection_may_get() -> None:
    with bind("operators", "127.0.0.1", 0) as listening:
        assert listening.getsockname()[1] in QUIET_PORTS
        assert not port_free("127.0.0.1", listening.getsockname()[1])


def test_a_taken_port_is_told_with_its_flag() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ServerError, match=r"devices: .* in use") as caught,
    ):
        bind("devices", "127.0.0.1", taken.getsockname()[1])
    assert "--devices-port" in caught.value.hint


def test_an_address_that_is_not_this_machines_is_told_as_well() -> None:
    assert refusal(bind, "devices", "192.0.2.1", 0) == "server.port_taken"


@pytest.mark.parametrize(
    ("retained", "expected"),
    [
        (msgspec.json.encode(Marker(1, "ours", 7)), 7),
        (msgspec.json.encode(Marker(1, "ours", 9)), 9),
        (msgspec.json.encode(Marker(1, "ours", 10)), 0),
        (msgspec.json.encode(Marker(1, "theirs", 7)), 0),
        (msgspec.json.encode(Marker(2, "ours", 7)), 0),
        (b'{"v":1,"epoch":"ours","publication":-5}', 0),
        (b"{}", 0),
        (b"\xff", 0),
        (None, 0),
    ],
)
def test_a_broker_is_believed_only_as_far_as_its_marker_can_be_true(retained: bytes | None, expected: int) -> None:
    assert reached(retained, epoch="ours", last=9) == expected
