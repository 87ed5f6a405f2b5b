"""Settings: precedence, and errors that name the place."""

from pathlib import Path

import pytest
from beamfleet_server.checks.thresholds import Thresholds
from beamfleet_server.errors import ServerError
from beamfleet_server.settings import Settings, load


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for key in Settings.model_fields:
        monkeypatch.delenv(f"BEAMFLEET_{key.upper()}", raising=False)


def test_without_anything_every_setting_is_a_default() -> None:
    configuration = load()
    assert set(configuration.sources.values()) == {"default"}
    assert configuration.settings.operators_port == 8443
    assert configuration.settings.data.is_absolute()


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('host = "10.0.0.1"\nmqtt_port = 1\noperators_port = 2\nnames = ["a.example"]\n')
    monkeypatch.setenv("BEAMFLEET_MQTT_PORT", "3")
    monkeypatch.setenv("BEAMFLEET_OPERATORS_PORT", "4")
    configuration = load({"operators_port": 5, "devices_port": None}, file)
    settings, sources = configuration.settings, configuration.sources
    assert (settings.host, sources["host"]) == ("10.0.0.1", "file")
    assert (settings.mqtt_port, sources["mqtt_port"]) == (3, "environment")
    assert (settings.operators_port, sources["operators_port"]) == (5, "flag")
    assert (settings.devices_port, sources["devices_port"]) == (8444, "default")
    assert settings.names == ("a.example",)


def test_the_file_in_the_data_directory_is_found(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "beamfleet-server.toml").write_text("offline_after_s = 77\n")
    assert load({"data": data}).settings.offline_after_s == 77


def test_thresholds_of_health_are_a_table_of_the_file_each_with_its_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[health]\nqueue_degraded = 7\n")
    configuration = load({}, file)
    assert configuration.settings.health == Thresholds(queue_degraded=7)
    (row,) = [row for row in configuration.described() if row["key"] == "health"]
    assert row["source"] == "file"
    assert "queue_degraded=7,queue_failing=100000," in row["value"]


def test_names_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMFLEET_NAMES", "a.example, 10.0.0.1")
    configuration = load()
    assert configuration.settings.names == ("a.example", "10.0.0.1")
    assert configuration.settings.address == "a.example"


@pytest.mark.parametrize(
    ("flags", "text", "environment", "named"),
    [
        ({"mqtt_port": 70_000}, "", {}, "mqtt_port"),
        ({}, "colour = 1\n", {}, "settings.toml: colour"),
        ({}, "mqtt_port = \n", {}, "settings.toml"),
        ({}, "", {"BEAMFLEET_LOG_LEVEL": "loud"}, "BEAMFLEET_LOG_LEVEL"),
        ({}, "[health]\nqueue = 1\n", {}, "settings.toml: health.queue"),
        ({}, "[health]\natoms_failing = 1001\n", {}, "settings.toml: health.atoms_failing"),
        ({}, "", {"BEAMFLEET_HEALTH": "{"}, "BEAMFLEET_HEALTH"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, object],
    text: str,
    environment: dict[str, str],
    named: str,
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ServerError) as caught:
        load(flags, file)
    assert caught.value.code == "server.settings"
    assert named in caught.value.message


def test_every_setting_is_described_with_its_source() -> None:
    rows = {row["key"]: row for row in load({"host": "127.0.0.1"}).described()}
    assert rows.keys() == Settings.model_fields.keys()
    assert rows["host"]["source"] == "flag"
    assert all(row["description"] for row in rows.values())
