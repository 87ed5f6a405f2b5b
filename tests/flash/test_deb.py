"""`beamfleet flash --deb`: a package with this fleet's configuration makes a running Debian a device, seed and all."""

from pathlib import Path

import pytest

from tests.support import packaged, rootfs
from tests.support.fleet import Fleet, free_port, key_values
from tests.support.nspawn import Machine

pytestmark = [pytest.mark.suite(name="flash")]


def test_a_package_with_the_fleet_s_configuration_makes_a_running_system_a_device(
    fleet: Fleet, packages: Path, bundle: Path, room: Path, tmp_path: Path
) -> None:
    words = ("--id", "deb-1", "--trial-s", "2", "--env", f"SENSOR_GATEWAY_PORT={free_port()}", "-l", "site=deb")
    made = fleet.json("flash", "--deb", str(tmp_path / "gw.deb"), *words, "--bundle", str(bundle))
    assert made["device"] == "deb-1"
    assert (tmp_path / "gw.deb").stat().st_mode & 0o777 == 0o600
    base = rootfs.unpack(tmp_path / "base")
    packaged.install_package(base, next(packages.glob("*.deb")))
    (base / "srv/gw.deb").write_bytes((tmp_path / "gw.deb").read_bytes())
    machine = Machine(base, tmp_path / "room", "deb-1", packaged.VAR, network=True)
    try:
        machine.boot()
        machine.run("dpkg", "--install", "/srv/gw.deb")
        fleet.wait_online("deb-1")
        state = machine.path(f"{packaged.APP}/boot/state")
        machine.until("the seed to be committed", lambda: key_values(state).get("phase") == "committed")
        machine.until("the seed to be gone", lambda: not machine.path(f"{packaged.VAR}/seed.bundle").exists())
        assert fleet.json("device", "show", "deb-1")["labels"] == {"site": "deb"}
        assert machine.run("stat", "-c", "%a %U", "/etc/beamfleet/provision.json").stdout.split() == ["600", "root"]
    finally:
        machine.close()
