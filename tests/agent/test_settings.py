"""agent.toml: a closed schema whose refusals name the file, the key and the remedy."""

from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import settings
from beamfleet_agent.errors import AgentError
from beamfleet_agent.settings import Server, Settings

SERVER = {"api": "https://fleet:8444/", "enrol": "https://fleet:8445", "mqtt": "fleet:8883"}


def test_the_smallest_file_names_only_the_device(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('device = "gw-1"\n')
    assert settings.load(str(path)) == Settings("gw-1", trial_s=30, profile="wired", health_interval_s=0, server=None)


def test_a_server_is_two_addresses_and_a_broker() -> None:
    assert settings.check({"device": "gw-1", "server": SERVER}).server == Server(
        "https://fleet:8444", "https://fleet:8445", "fleet", 8883
    )
    sixth = settings.check({"device": "gw-1", "server": {**SERVER, "mqtt": "[::1]:8883"}}).server
    assert sixth
    assert (sixth.mqtt_host, sixth.mqtt_port) == ("::1", 8883)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({}, "device is missing"),
        ({"device": "GW"}, "'GW' is not a device id"),
        ({"device": 7}, "device is int, not str"),
        ({"device": "gw", "colour": "red"}, "no setting 'colour'"),
        ({"device": "gw", "trial_s": 0}, "trial_s = 0 is out of range"),
        ({"device": "gw", "trial_s": True}, "trial_s is bool, not int"),
        ({"device": "gw", "trial_s": 1.5}, "trial_s is float, not int"),
        ({"device": "gw", "single_user": "yes"}, "single_user is str, not bool"),
        ({"device": "gw", "profile": "slow"}, "profile = 'slow' is no profile"),
        ({"device": "gw", "health_interval_s": -1}, "health_interval_s = -1 is out of range"),
        ({"device": "gw", "network": "lan"}, "network = 'lan' is no class of network"),
        ({"device": "gw", "app": "Main"}, "'Main' is not an application"),
        ({"device": "gw", "server": {}}, "exactly api, enrol and mqtt"),
        ({"device": "gw", "server": {**SERVER, "api": "http://fleet"}}, "not an https address"),
        ({"device": "gw", "server": {**SERVER, "mqtt": "fleet"}}, "not HOST:PORT"),
        ({"device": "gw", "server": {**SERVER, "mqtt": "fleet:99999"}}, "not HOST:PORT"),
        ({"device": "gw", "server": {**SERVER, "more": 1}}, "exactly api, enrol and mqtt"),
        ({"device": "gw", "server": "fleet"}, "exactly api, enrol and mqtt"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(document: dict[str, Any], named: str) -> None:
    with pytest.raises(AgentError) as refusal:
        settings.check(document)
    assert refusal.value.code == "agent.settings"
    assert named in refusal.value.message
    assert refusal.value.hint


def test_a_file_that_is_missing_or_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"agent\.settings_missing"):
        settings.load(str(tmp_path / "agent.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("device = gw-1\n")
    with pytest.raises(AgentError, match=r"broken\.toml is not TOML.*line 1"):
        settings.load(str(broken))
    broken.write_bytes(b"device = '\xff'\n")
    with pytest.raises(AgentError, match=r"is not TOML"):
        settings.load(str(broken))
    broken.write_text('device = "gw"\ntrial_s = 0\n')
    with pytest.raises(AgentError, match=r"broken\.toml: trial_s"):
        settings.load(str(broken))
