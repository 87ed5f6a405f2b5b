"""Wi-Fi and modem settings, read by the services that they are for."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_agent.setup import set_up

from tests.agent.device import words
from tests.flash.conftest import run
from tests.support import rootfs

pytestmark = [pytest.mark.suite(name="flash")]
PSK = 'back\\slash "#; 1'
WIFI = {"ssid": "Plant 3;\\", "psk": PSK, "country": "DE"}
APN = {"apn": "iot.example", "user": "us er", "password": "\\ p=w;"}
SERVICES = ("network-manager", "modemmanager", "wpasupplicant")


@pytest.fixture(scope="module")
def debian(room: Path) -> Iterator[Path]:
    """A Debian with all services, off."""
    root = rootfs.unpack(room / "connections", SERVICES)
    for name in ("beamfleet", "beamfleet-app"):
        run("chroot", root, "/usr/sbin/useradd", "--system", "--user-group", name)
    yield root
    run("rm", "-rf", root)


def lay_down(root: Path, **more: object) -> None:
    set_up(str(root), words("gw-1", single_user=False, **more))


def within(root: Path, *command: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["chroot", root, *command], input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_network_manager_reads_the_keyfiles_and_understands_what_was_meant(debian: Path) -> None:
    lay_down(debian, wifi=WIFI, apn=APN)
    folder = debian / "etc/NetworkManager/system-connections"

    def read(name: str) -> set[str]:
        text = (folder / f"beamfleet-{name}.nmconnection").read_text()
        command = ("nmcli", "--offline", "connection", "modify", "connection.autoconnect", "yes")
        return set(within(debian, *command, stdin=text).splitlines())

    assert {"type=wifi", "key-mgmt=wpa-psk", f"psk={PSK.replace(chr(92), chr(92) * 2)}"} <= read("wifi")
    assert {"type=gsm", "apn=iot.example", "username=us er", "password=\\\\ p=w;"} <= read("gsm")


@pytest.mark.parametrize("psk", [PSK, "plain \\ # words"])
def test_wpa_supplicant_reads_its_file(debian: Path, psk: str) -> None:
    manager = debian / "usr/sbin/NetworkManager"
    manager.rename(debian / "usr/sbin/not-NetworkManager")
    try:
        lay_down(debian, wifi={**WIFI, "psk": psk})
    finally:
        (debian / "usr/sbin/not-NetworkManager").rename(manager)
    conf = "/etc/wpa_supplicant/wpa_supplicant-wlan0.conf"
    said = []
    with subprocess.Popen(
        ["unshare", "--net", "chroot", debian, "wpa_supplicant", "-D", "none", "-i", "lo", "-c", conf, "-dd", "-K"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            if "id=0" in line:
                process.terminate()
    text = "\n".join(said)
    assert "id=0 ssid='Plant 3;\\\\'" in text, text
    assert "country='DE'" in text
    key = hashlib.pbkdf2_hmac("sha1", psk.encode(), WIFI["ssid"].encode(), 4096, 32)
    assert key.hex(" ") in text, text
