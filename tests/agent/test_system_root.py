"""Laying a device down in a root file system that is off: judged by what lies in it, and nothing outside is touched."""

import base64
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import abilities
from beamfleet_agent.errors import AgentError
from beamfleet_agent.paths import Paths
from beamfleet_agent.settings import load
from beamfleet_agent.setup import set_up

from tests.agent.device import words
from tests.agent.machine import write

AGENT, APP = 61200, 61201
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to the users of a device")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small system: users and tools, some of them in the way of merged /usr, none of which can be run."""
    root = tmp_path / "card"
    accounts = f"root:x:0:0::/root:/bin/sh\nbeamfleet:x:{AGENT}:{AGENT}::/:\nbeamfleet-app:x:{APP}:{APP}::/:\n"
    write(root / "etc/passwd", accounts)
    (root / "bin").symlink_to("usr/bin")
    for name in (*abilities.COMMANDS, "setpriv"):
        write(root / "usr/bin" / name, "of another architecture")
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    return root


def lay_down(root: Path, **more: Any) -> dict[str, Any]:
    return set_up(str(root), words("gw-1", single_user=False, **more))


def owner(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_uid, found.st_gid


def test_the_users_are_those_of_the_root(root: Path) -> None:
    told = lay_down(root, token="secret")
    paths = Paths(str(root))
    assert (told["device"], told["run"], load(paths.settings).single_user) == ("gw-1", "", False)
    assert owner(paths.identity) == owner(paths.token) == owner(paths.slots) == (AGENT, AGENT)
    assert owner(paths.data) == (APP, APP)
    assert owner(paths.app_env) == (0, APP)
    assert (owner(paths.var), stat.S_IMODE(Path(paths.var).stat().st_mode)) == ((0, AGENT), 0o1775)
    conf = dict(line.split("=", 1) for line in Path(paths.launcher_conf).read_text().splitlines())
    assert (conf["app_user"], conf["agent_group"], conf["setpriv"]) == (
        "beamfleet-app",
        "beamfleet",
        "/usr/bin/setpriv",
    )


def test_no_script_and_nothing_in_run_is_made(root: Path) -> None:
    (root / "var/run").unlink()
    (root / "var/run").symlink_to("../off")
    (root / "off").mkdir()
    lay_down(root)
    assert not (root / "run").exists()
    assert list((root / "off").iterdir()) == []


def test_a_seed_that_lies_there_becomes_the_agents(root: Path) -> None:
    seed = Path(Paths(str(root)).seed)
    write(seed, "a bundle")
    lay_down(root)
    assert owner(str(seed)) == (AGENT, AGENT)


def test_files_of_a_package_are_left_to_it(root: Path) -> None:
    lib = Path(Paths(str(root)).lib)
    (lib / "python").mkdir(parents=True)
    write(lib / "launcher", "of the package")
    lay_down(root)
    assert (lib / "launcher").read_text() == "of the package"
    assert not (lib / "vm").exists()


@pytest.mark.parametrize("user", ["beamfleet", "beamfleet-app"])
def test_a_root_without_a_user_is_refused(root: Path, user: str) -> None:
    passwd = root / "etc/passwd"
    kept = [line for line in passwd.read_text().splitlines(keepends=True) if not line.startswith(f"{user}:")]
    passwd.write_text("".join(kept))
    with pytest.raises(AgentError, match=r"setup\.no_user"):
        lay_down(root)
    assert not (root / "etc/beamfleet").exists()


@pytest.mark.parametrize("name", ["flock", "setpriv"])
def test_a_root_without_a_tool_is_refused_by_name(root: Path, name: str) -> None:
    (root / "usr/bin" / name).unlink()
    with pytest.raises(AgentError, match=rf"cannot: {name}.*setup\.tools"):
        lay_down(root)


def test_busybox_has_applets_but_its_setpriv_will_not_do(root: Path) -> None:
    for name in ("awk", "setpriv"):
        (root / "usr/bin" / name).unlink()
        (root / "usr/bin" / name).symlink_to("/bin/busybox")
    with pytest.raises(AgentError, match=r"cannot: setpriv"):
        lay_down(root)


DIRECTORIES = [
    "etc/beamfleet", "etc/beamfleet/app.d", "usr/lib", "usr/lib/beamfleet/hooks.d", "var/lib",
    *(f"var/lib/beamfleet/{name}" for name in ("identity", "trust", "apps", "apps/main")),
    *(f"var/lib/beamfleet/apps/main/{name}" for name in ("slots", "staging", "boot", "requests", "data", "dump")),
]  # fmt: skip


@pytest.mark.parametrize("link", DIRECTORIES)
def test_a_link_that_leads_out_of_the_root_is_not_followed(root: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    before = outside.stat()
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(outside)
    with pytest.raises(AgentError, match=r"leads out of.*setup\.directory"):
        lay_down(root, token="secret")
    assert list(outside.iterdir()) == []
    assert (outside.stat().st_mode, outside.stat().st_uid) == (before.st_mode, before.st_uid)


FILES = [
    "etc/beamfleet/app.env", "etc/beamfleet/agent.toml", "var/lib/beamfleet/seed.bundle",
    *(f"var/lib/beamfleet/identity/{name}" for name in ("token", "pair.pem", "proxy")),
]  # fmt: skip


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("name", FILES)
def test_a_link_in_the_place_of_a_file_changes_nothing_of_what_it_leads_to(
    root: Path, tmp_path: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    before = outside.stat()
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    link(outside, root / name)
    with contextlib.suppress(AgentError):
        lay_down(root, token="secret", proxy="http://u:p@proxy:3128")
    after = outside.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert outside.read_text() == "theirs"


@pytest.mark.parametrize("name", ["identity", "trust"])
def test_the_agents_user_cannot_have_root_give_it_a_directory(root: Path, name: str) -> None:
    lay_down(root)
    theirs, place = root / "etc/sudoers.d", root / "var/lib/beamfleet" / name
    theirs.mkdir()
    place.rename(place.with_name("away"))
    place.symlink_to("../../../etc/sudoers.d")
    with pytest.raises(AgentError, match=r"is a link.*setup\.directory"):
        lay_down(root, token="secret")
    assert (owner(str(theirs)), [*theirs.iterdir()]) == ((0, 0), [])


def test_an_id_that_only_the_machine_knows_is_refused(root: Path) -> None:
    with pytest.raises(AgentError, match=r"setup\.words"):
        set_up(str(root), {**words(""), "single_user": False, "id_from": "mac"})


def given(path: str, mode: int | str = 0o640, text: str = "content") -> dict[str, Any]:
    return {"path": path, "mode": mode, "content_base64": base64.b64encode(text.encode()).decode()}


def test_files_of_the_owner_are_laid_down_and_noted(root: Path) -> None:
    lay_down(
        root, files=[given("/etc/sensor/key.conf", "0600"), given("/usr/lib/beamfleet/hooks.d/commit/10-led", 0o755)]
    )
    assert (root / "etc/sensor/key.conf").read_text() == "content"
    assert stat.S_IMODE((root / "etc/sensor/key.conf").stat().st_mode) == 0o600
    assert os.access(root / "usr/lib/beamfleet/hooks.d/commit/10-led", os.X_OK)
    lay_down(root, files=[given("/etc/sensor/other")])
    noted = (root / "etc/beamfleet/given").read_text().splitlines()
    assert noted == ["/etc/sensor/key.conf", "/etc/sensor/other", "/usr/lib/beamfleet/hooks.d/commit/10-led"]


@pytest.mark.parametrize(
    "entry",
    [
        given("etc/x"), given("/etc/../x"), given("/etc//x"), given("/"), given("/etc/x\n"), given("/etc/x", "0999"),
        given("/etc/x", 0o4755), given("/etc/x", -1), {**given("/etc/x"), "content_base64": "#"},
        given("/usr/lib/beamfleet/launcher"), given("/var/lib/beamfleet/identity/pair.pem"),
        given("/etc/beamfleet/agent.toml"), given("/usr/lib/beamfleet/hooks.d/../launcher"), "a file", {},
        {**given("/etc/x"), "owner": "root"},
    ],
)  # fmt: skip
def test_a_file_that_may_not_be_is_refused_and_nothing_is_written(root: Path, entry: Any) -> None:
    with pytest.raises(AgentError, match=r"setup\.words"):
        lay_down(root, files=[entry])
    assert not (root / "etc/beamfleet").exists()


def test_a_file_is_not_laid_down_through_a_link_out_of_the_root(root: Path, tmp_path: Path) -> None:
    (root / "srv").symlink_to(tmp_path)
    with pytest.raises(AgentError, match=r"setup\.directory"):
        lay_down(root, files=[given("/srv/x")])
    assert not (tmp_path / "x").exists()


WIFI = {"ssid": "Plant 3", "psk": ' back\\slash "#', "country": "DE"}


def test_network_manager_gets_keyfiles(root: Path) -> None:
    for name in ("NetworkManager", "ModemManager"):
        write(root / "usr/sbin" / name, "")
    lay_down(root, wifi=WIFI, apn={"apn": "iot.example", "user": "u", "password": "p w"})
    folder = root / "etc/NetworkManager/system-connections"
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {
        "beamfleet-wifi.nmconnection": 0o600, "beamfleet-gsm.nmconnection": 0o600,
    }  # fmt: skip
    lines = (folder / "beamfleet-wifi.nmconnection").read_text().splitlines()
    assert "ssid=80;108;97;110;116;32;51;" in lines
    assert 'psk=\\sback\\\\slash "#' in lines
    modem = (folder / "beamfleet-gsm.nmconnection").read_text().splitlines()
    assert {"type=gsm", "apn=iot.example", "username=u", "password=p w"} <= set(modem)
    assert "ieee80211_regdom=DE" in (root / "etc/modprobe.d/beamfleet-wifi.conf").read_text()


def test_a_radio_that_waits_for_a_country_is_switched_on(root: Path) -> None:
    write(root / "usr/sbin/NetworkManager", "")
    write(root / "var/lib/systemd/rfkill/platform-mmc:wlan", "1\n")
    write(root / "var/lib/NetworkManager/NetworkManager.state", "[main]\nWirelessEnabled=false\nWWANEnabled=true\n")
    lay_down(root, wifi=WIFI)
    assert (root / "var/lib/systemd/rfkill/platform-mmc:wlan").read_text() == "0\n"
    state = (root / "var/lib/NetworkManager/NetworkManager.state").read_text()
    assert state == "[main]\nWirelessEnabled=true\nWWANEnabled=true\n"


def test_wpa_supplicant_beside_networkd_gets_its_own_files(root: Path) -> None:
    write(root / "sbin/wpa_supplicant", "")
    write(root / "usr/lib/systemd/system/systemd-networkd.service", "")
    for _ in range(2):
        lay_down(root, wifi={**WIFI, "interface": "wlp1s0"})
    key = hashlib.pbkdf2_hmac("sha1", WIFI["psk"].encode(), WIFI["ssid"].encode(), 4096, 32).hex()
    conf = root / "etc/wpa_supplicant/wpa_supplicant-wlp1s0.conf"
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert {f"\tpsk={key}", "\tssid=506c616e742033", "country=DE"} <= set(conf.read_text().splitlines())
    assert "Name=wlp1s0" in (root / "etc/systemd/network/25-beamfleet-wifi.network").read_text()
    wanted = root / "etc/systemd/system/multi-user.target.wants/wpa_supplicant@wlp1s0.service"
    assert str(wanted.readlink()) == "/usr/lib/systemd/system/wpa_supplicant@.service"


@pytest.mark.parametrize("word", [{"wifi": WIFI}, {"apn": {"apn": "iot"}}])
def test_without_a_service_for_it_the_remedy_is_told_and_nothing_is_written(root: Path, word: dict[str, Any]) -> None:
    with pytest.raises(AgentError, match=r"setup\.no_network") as refusal:
        lay_down(root, **word)
    assert "--file" in refusal.value.hint
    assert not (root / "etc/beamfleet").exists()


@pytest.mark.parametrize(
    "word",
    [
        {"wifi": {"ssid": "x" * 33}}, {"wifi": {"psk": "12345678"}}, {"wifi": {"ssid": "a", "psk": "short"}},
        {"wifi": {"ssid": "a", "psk": "1234567\n"}}, {"wifi": {"ssid": "a", "country": "de"}}, {"wifi": {"ssid": 1}},
        {"wifi": {"ssid": "a", "interface": "../x"}}, {"wifi": {"colour": "red"}}, {"apn": {"apn": "a b"}},
        {"apn": {"apn": "iot", "password": "a\nb"}}, {"apn": {"user": "u"}},
    ],
)  # fmt: skip
def test_networks_that_cannot_be_are_refused_without_telling_secrets(root: Path, word: dict[str, Any]) -> None:
    for name in ("NetworkManager", "ModemManager"):
        write(root / "usr/sbin" / name, "")
    with pytest.raises(AgentError, match=r"setup\.words") as refusal:
        lay_down(root, **word)
    assert "1234567" not in json.dumps([refusal.value.message, refusal.value.hint])
