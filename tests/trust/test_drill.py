"""The drill: an old backup is put back, and every device takes the next assignment without a visit; whatever the
broker kept, and the revocation list, are lost on the way."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, fleet, wait_for
from tests.trust.threats.captive import PRODUCT, built

pytestmark = [pytest.mark.suite(name="trust"), pytest.mark.timeout(600)]

DEVICES = ("gw-1", "gw-2")
PUBLICATIONS = 20


def copy_stopped(here: Fleet, backup: Path) -> None:
    """The whole directory, while the server is stopped."""
    here.stop_server()
    shutil.copytree(here.data, backup)
    here.serve()


def copy_running(here: Fleet, backup: Path) -> None:
    """The database first, then what is in files, while the server runs."""
    backup.mkdir()
    source, target = (sqlite3.connect(folder / "beamfleet.db") for folder in (here.data, backup))
    source.backup(target)
    source.close()
    target.close()
    for name in ("ca", "keys", "bundles"):
        shutil.copytree(here.data / name, backup / name)
    for name in ("server.json", "admin.token"):  # the ports, which tests do not choose
        shutil.copy(here.data / name, backup / name)


def restore(here: Fleet, backup: Path) -> None:
    """Put a backup in the place of everything; broker and revocation list are gone."""
    here.stop_server()
    shutil.rmtree(here.data)
    shutil.copytree(backup, here.data)
    shutil.rmtree(here.data / "broker", ignore_errors=True)
    here.serve()


def publish(here: Fleet, version: str) -> None:
    here.cli("bundle", "publish", built(here, version))


def assign(here: Fleet, version: str) -> None:
    here.cli("rollout", "start", PRODUCT, version, "--all")


def wait_for_all(here: Fleet, version: str) -> None:
    """Until the server shows each device committed on this version, and the device is: a backup shows what once was."""

    def committed() -> bool:
        shown = [here.json("device", "show", name) for name in DEVICES]
        told = [(each["version"], each["phase"], each["slot"]) for each in shown]
        return told == [(version, "committed", here.devices[name].boot_state()["slot"]) for name in DEVICES]

    wait_for(f"all devices to run {version}", committed, deadline_s=120, every_s=0.5)


def numbers(here: Fleet) -> dict[str, int]:
    """The versions of the metadata that the server holds."""
    shown = here.json("health")
    assert shown["broker"] == "up"
    products: dict[str, int] = {row["name"]: row["version"] for row in here.json("product", "list")}
    return products


@pytest.mark.parametrize("copy", [copy_stopped, copy_running])
def test_after_an_old_backup_every_device_takes_the_next_assignment(
    tmp_path: Path, copy: Callable[[Fleet, Path], None]
) -> None:
    with fleet(tmp_path / "fleet", PRODUCT) as here:
        publish(here, "1.0.0")
        for name in DEVICES:
            here.flash(name)
        here.wait_online(*DEVICES)
        assign(here, "1.0.0")
        wait_for_all(here, "1.0.0")
        backed_up = numbers(here)[PRODUCT]
        copy(here, tmp_path / "backup")
        for number in range(PUBLICATIONS):
            publish(here, f"2.{number}.0")
            assign(here, f"2.{number}.0")
        wait_for_all(here, f"2.{PUBLICATIONS - 1}.0")
        before = numbers(here)[PRODUCT]
        assert before == backed_up + PUBLICATIONS

        restore(here, tmp_path / "backup")
        assign(here, "1.0.0")
        wait_for_all(here, "1.0.0")
        assert numbers(here)[PRODUCT] == before, "the devices have given back what was lost"

        publish(here, "3.0.0")
        assign(here, "3.0.0")
        wait_for_all(here, "3.0.0")
        assert numbers(here)[PRODUCT] == before + 1
