"""Where a device is: read from files as the kernel and the distributions lay them."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_agent import place
from beamfleet_agent.loop import Loop
from beamfleet_agent.place import Place
from beamfleet_bundles import messages
from msgspec import ValidationError, convert

from tests.agent.device import lay_down, words
from tests.agent.resident import Device

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
NOWHERE = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"


class Machine:
    """A root with files of /etc, /proc and /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/net/route", HEAD)

    def write(self, path: str, content: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)

    def link(self, target: str) -> None:
        (self.root / "etc").mkdir(exist_ok=True)
        (self.root / "etc/localtime").symlink_to(target)

    def interface(self, name: str, kind: int = 1, device: str = "", *folders: str) -> None:
        self.write(f"sys/class/net/{name}/type", f"{kind}\n")
        said = f"DEVTYPE={device}\n" if device else ""
        self.write(f"sys/class/net/{name}/uevent", f"{said}INTERFACE={name}\nIFINDEX=2\n")
        for folder in folders:
            (self.root / "sys/class/net" / name / folder).mkdir()

    def route(self, name: str, metric: int = 0, flags: int = 3, to: str = "00000000", mask: str = "00000000") -> None:
        with (self.root / "proc/net/route").open("a") as file:
            file.write(f"{name}\t{to}\t010200C0\t{flags:04X}\t0\t0\t{metric}\t{mask}\t0\t0\t0          \n")

    def route6(self, name: str, metric: int = 1024) -> None:
        nothing, gateway = "0" * 32, "fe80" + "0" * 27 + "1"
        line = f"{nothing} 00 {nothing} 00 {gateway} {metric:08x} 00000002 00000000 00000003 {name:>8}\n"
        self.write("proc/net/ipv6_route", NOWHERE + line)

    @property
    def network(self) -> str:
        return place.network(str(self.root))

    def timezone(self, variable: str = "") -> str:
        return place.timezone(variable, str(self.root))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


class TestTheNetwork:
    @pytest.mark.parametrize(
        ("name", "kind", "device", "folders", "found"),
        [
            ("eth0", 1, "", (), "wired"),
            ("br0", 1, "bridge", (), "wired"),
            ("eth0.7", 1, "vlan", (), "wired"),
            ("wlan0", 1, "wlan", ("phy80211",), "wifi"),
            ("wlp2s0", 1, "", ("wireless",), "wifi"),
            ("ath0", 1, "", ("phy80211",), "wifi"),
            ("wwan0", 65534, "wwan", (), "cellular"),
            ("wwan0", 519, "wwan", (), "cellular"),
            ("wwx0a", 1, "wwan", (), "cellular"),
            ("rmnet_data0", 519, "", (), "cellular"),
            ("ppp0", 512, "ppp", (), "cellular"),
            ("wg0", 65534, "wireguard", (), "unknown"),
            ("tun0", 65534, "", (), "unknown"),
            ("can0", 280, "", (), "unknown"),
        ],
    )
    def test_it_is_that_of_the_interface_of_the_default_route(
        self, machine: Machine, name: str, kind: int, device: str, folders: tuple[str, ...], found: str
    ) -> None:
        machine.interface(name, kind, device, *folders)
        machine.route(name)
        assert machine.network == found

    def test_the_lowest_metric_leads_and_what_is_down_or_leads_to_a_part_does_not(self, machine: Machine) -> None:
        machine.interface("eth0")
        machine.interface("wlan0", 1, "wlan")
        machine.interface("ppp0", 512)
        machine.route("wlan0", metric=600)
        assert machine.network == "wifi"
        machine.route("ppp0", metric=50, to="000200C0", mask="00FFFFFF")
        machine.route("eth0", metric=100, flags=2)
        machine.route("ppp0", metric=10, flags=0x203)
        assert machine.network == "wifi"
        machine.route("eth0", metric=100)
        assert machine.network == "wired"

    def test_one_of_ipv6_counts_where_there_is_no_other(self, machine: Machine) -> None:
        machine.interface("wlan0", 1, "wlan")
        machine.interface("lo", 772)
        machine.write("proc/net/ipv6_route", NOWHERE)
        assert machine.network == "unknown"
        machine.route6("wlan0")
        assert machine.network == "wifi"
        machine.interface("eth0")
        machine.route("eth0")
        assert machine.network == "wired"

    def test_it_is_unknown_without_a_route_a_proc_or_an_interface(self, machine: Machine, tmp_path: Path) -> None:
        assert machine.network == "unknown"
        assert place.network(str(tmp_path / "nothing")) == "unknown"
        machine.route("gone0")
        assert machine.network == "unknown"

    @pytest.mark.parametrize("said", place.NETWORKS)
    def test_the_owners_word_counts_more(self, machine: Machine, said: str) -> None:
        machine.interface("eth0")
        machine.route("eth0")
        assert place.look(said, str(machine.root)).network == said
        assert place.look("", str(machine.root)).network == "wired"


class TestTheTimeZone:
    @pytest.mark.parametrize(
        ("text", "zone"),
        [
            ("Europe/Berlin", "Europe/Berlin"),
            (":Europe/Berlin", "Europe/Berlin"),
            ("/usr/share/zoneinfo/America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
            (":/usr/share/zoneinfo/posix/Etc/GMT+5", "Etc/GMT+5"),
            ("../usr/share/zoneinfo/right/Asia/Tokyo", "Asia/Tokyo"),
            ("UTC", "UTC"),
            ("Japan", "Japan"),
            ("CET-1CEST,M3.5.0,M10.5.0/3", ""),
            ("CET-1", ""),
            ("<+03>-3", ""),
            ("/etc/localtime", ""),
            (":/etc/localtime", ""),
            ("Europe/../../etc/passwd", ""),
            ("Europe//Berlin", ""),
            ("Europe/Berlin/", ""),
            ("Éurope/Berlin", ""),
            ("a/" + "b" * 63, ""),
            ("Europe/Ber lin", ""),
            ("", ""),
        ],
    )
    def test_it_is_a_name_that_the_server_takes_or_nothing(self, machine: Machine, text: str, zone: str) -> None:
        machine.write("usr/share/zoneinfo/Japan", "TZif2")
        assert machine.timezone(text) == zone
        convert(zone, messages.Zone)

    def test_what_is_said_first_counts(self, machine: Machine) -> None:
        assert machine.timezone() == ""
        machine.write("etc/timezone", "America/Lima\n")
        assert machine.timezone() == "America/Lima"
        machine.link("/usr/share/zoneinfo/Asia/Tokyo")
        assert machine.timezone() == "Asia/Tokyo"
        assert machine.timezone("Europe/Berlin") == "Europe/Berlin"
        assert machine.timezone("CET-1CEST") == "Asia/Tokyo"

    def test_a_file_in_the_place_of_the_link_says_nothing(self, machine: Machine) -> None:
        machine.write("etc/localtime", "TZif2")
        assert machine.timezone() == ""


def test_what_this_machine_says_is_taken_by_the_server() -> None:
    here = place.look()
    convert(here.timezone, messages.Zone)
    convert(here.network, messages.Network)
    with pytest.raises(ValidationError):
        convert("CET-1CEST,M3.5.0", messages.Zone)


def test_a_look_is_cheap() -> None:
    began = time.process_time()
    for _ in range(100):
        place.look()
    assert (time.process_time() - began) / 100 < 0.005


def test_a_device_that_moved_says_so_with_its_next_sample(
    loop: Loop, tmp_path: Path, spin: Callable[[str, Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    paths = lay_down(tmp_path / "device", words("gw-1", health_interval_s=1, network="cellular"))
    device = Device(loop, paths, tmp_path / "log")

    def said() -> Place:
        assert device.agent._reports._state is not None
        inventory = device.agent._reports._state["inventory"]
        return Place(inventory["timezone"], inventory["network"])

    assert said() == Place("Europe/Berlin", "cellular")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    spin("the new zone", lambda: said() == Place("Asia/Tokyo", "cellular"))
    device.agent.stop()
