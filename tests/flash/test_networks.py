"""Networks as they are: real agents and servers in namespaces of their own, with what stands between them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent.paths import Paths

from tests.agent.device import identify, lay_down, words
from tests.support.fleet import Fleet
from tests.support.http_proxy import HttpProxy
from tests.support.networks import HERE, Agent, Away, Names, Namespace
from tests.support.server import Server, eventually, running_server

pytestmark = [pytest.mark.suite(name="flash")]

NAME = "fleet.test"
SERVER4, SERVER6 = "10.77.0.1", "fd77::1"
SECRET = "gateway:hush hush%secret"
HTTPS = 443
SHORT_S, NAT_S, REPORT_S = 8, 16, 20
"""What a device pings after, what a NAT forgets after, and what another device reports after: far from each other, and
from the broker's patience of one keepalive and a half, for a machine that has much to do."""


@pytest.fixture(scope="module")
def far() -> Iterator[Namespace]:
    """The network of the server, which this test's own is connected to."""
    with Namespace() as made:
        made.cable(f"{SERVER4}/24", f"{SERVER6}/64", to=HERE, theirs=("10.77.0.2/24", "fd77::2/64"))
        made.run("sysctl", "-qw", "net.ipv6.bindv6only=0")
        yield made


@pytest.fixture(scope="module")
def server(far: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    """One that listens to both families, on whatever address."""
    data = tmp_path_factory.mktemp("net") / "data"
    made = Away(far, data, host="::", names=f"{SERVER4},{NAME},{SERVER6}", devices_port=HTTPS)
    made.start()
    yield made
    made.end()


def addresses(server: Server, host: str) -> dict[str, str]:
    """What a device is told when it knows the server by this host."""
    ports = server.facts["ports"]
    at = f"[{host}]" if ":" in host else host
    return {
        "api": f"https://{at}:{ports['devices']}",
        "enrol": f"https://{at}:{ports['enrolment']}",
        "mqtt": f"{at}:{ports['mqtt']}",
    }


def device(server: Server, name: str, folder: Path, host: str = NAME, *, enrolled: bool = False, **more: Any) -> Path:
    """A device that is laid down; with its certificate, or with a token."""
    given = words(name, server=addresses(server, host), ca_pem=server.ca.read_text(), **more)
    root = folder / name
    if enrolled:
        identity = server.enrol(name, folder / "identities")
        identify(lay_down(root, given), identity.certificate, identity.key)
    else:
        lay_down(root, given | {"token": server.new_token(name)})
    return root


def shown(server: Server, name: str) -> dict[str, Any]:
    answer = server.api("GET", f"/devices/{name}")
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def await_online(server: Server, name: str) -> None:
    eventually(f"{name} to come online", lambda: shown(server, name).get("online"), 60)


def mentions(root: Path, *words: str) -> list[Path]:
    """The files of a device in which one of these words stands."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in found if any(word.encode() in path.read_bytes() for word in words)]


def test_a_device_behind_a_proxy_enrols_and_is_online_without_a_name_or_a_route_of_its_own(
    server: Away, tmp_path: Path
) -> None:
    with Namespace() as near, HttpProxyAt(near) as proxy:
        root = device(server, "proxied", tmp_path, proxy=f"http://gateway:hush%20hush%25secret@{proxy.place}")
        with Agent(near, root) as agent:
            await_online(server, "proxied")
            server.post("/devices/proxied/command", {"name": "refresh"}, status=202)
            https = eventually("a look over HTTPS", lambda: [each for each in proxy.asked if f":{HTTPS} " in str(each)])
            status = near.run(*cli(root, "status", "-o", "json"))
            facts = near.run(*cli(root, "diagnose", "-o", "json"))
    assert agent.said("enrolled")
    assert https
    ports = {int(asked.split()[1].rpartition(b":")[2]) for asked in proxy.asked}
    assert ports == {server.facts["ports"][name] for name in ("enrolment", "mqtt", "devices")}
    assert all(asked.split()[1].startswith(NAME.encode()) for asked in proxy.asked)
    assert proxy.refused == 0
    paths = Paths(str(root))
    assert mentions(root, SECRET, "hush%20hush", "hush hush") == [Path(paths.proxy_secret)]
    assert Path(paths.proxy_secret).stat().st_mode & 0o777 == 0o600
    assert "hush" not in status + facts


class HttpProxyAt(HttpProxy):
    """A proxy at the other end of a device's only cable."""

    def __init__(self, near: Namespace) -> None:
        near.cable("10.77.9.2/24", to=HERE, theirs=("10.77.9.1/24",))
        super().__init__("10.77.9.1", secret=SECRET, names={NAME: SERVER4})
        self.place = self.address.removeprefix("http://")


def cli(root: Path, *words: str) -> list[str]:
    import sys

    return [sys.executable, "-m", "beamfleet_agent", "--root", str(root), *words]


def test_where_only_the_port_of_https_is_open_mqtt_goes_through_it(
    far: Namespace, server: Away, tmp_path: Path
) -> None:
    with Namespace(hosts={NAME: "10.77.3.1"}) as near:
        end = near.cable("10.77.3.2/24", to=far.name, theirs=("10.77.3.1/24",))
        closed = f"oifname {end} tcp dport != {HTTPS} drop;"
        near.rules(f"table inet t {{ chain o {{ type filter hook output priority 0; {closed} }}; }}")
        root = device(server, "narrow", tmp_path, enrolled=True, transport="websocket")
        with Agent(near, root) as agent:
            await_online(server, "narrow")
            assert agent.said("session up")[0]["port"] == HTTPS
        eventually("its good-bye", lambda: shown(server, "narrow")["online"] is False)


def test_a_nat_that_forgets_is_outlived_by_a_short_keepalive_and_noticed_without_it(
    far: Namespace, server: Away, tmp_path: Path
) -> None:
    with Namespace() as nat, Namespace(hosts={NAME: SERVER4}) as near:
        out = nat.cable("10.77.4.2/24", to=far.name, theirs=("10.77.4.1/24",), router="10.77.4.1")
        near.cable("192.168.1.2/24", to=nat.name, theirs=("192.168.1.1/24",), router="192.168.1.1")
        nat.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        nat.rules(
            "table ip t {"
            " chain f { type filter hook forward priority 0; ct state invalid drop; };"
            f" chain p {{ type nat hook postrouting priority 100; oifname {out} masquerade; }}; }}"
        )
        nat.run(
            "sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_timeout_established={NAT_S}",
            "net.netfilter.nf_conntrack_tcp_loose=0",
        )  # fmt: skip
        quiet = device(server, "quiet", tmp_path, enrolled=True, health_interval_s=REPORT_S)
        lively = device(server, "lively", tmp_path, enrolled=True, health_interval_s=REPORT_S, keepalive_s=SHORT_S)
        with Agent(near, quiet) as forgotten, Agent(near, lively) as remembered:
            await_online(server, "quiet")
            await_online(server, "lively")
            eventually("the loss to be noticed", lambda: forgotten.said("session down"), 120)
            eventually("another session", lambda: len(forgotten.said("session up")) == 2, 60)
            assert len(remembered.said("session up")) == 1
            assert not remembered.said("session down")
            assert shown(server, "lively")["online"]


def test_ipv6_alone_with_no_ipv4_anywhere(tmp_path: Path) -> None:
    with Namespace(v4=False) as there, Namespace(v4=False, hosts={NAME: "fd78::1"}) as near:
        there.cable("fd79::1/64", to=HERE, theirs=("fd79::2/64",))
        near.cable("fd78::2/64", to=there.name, theirs=("fd78::1/64",))
        for space in (there, near):
            assert not space.run("ip", "-4", "address")
        server = Away(there, tmp_path / "data", host="::", names=f"fd79::1,{NAME},fd78::1", metrics_host="::1")
        server.start()
        try:
            by_name = device(server, "six-name", tmp_path)
            by_address = device(server, "six-address", tmp_path, "fd78::1", transport="websocket")
            with Agent(near, by_name), Agent(near, by_address) as agent:
                await_online(server, "six-name")
                await_online(server, "six-address")
                assert agent.said("session up")[0]["host"] == "fd78::1"
        finally:
            server.end()


def test_the_loopback_of_ipv6(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", host="::1", metrics_host="::1") as server:
        assert server.facts["devices"].startswith("https://[::1]:")
        for name, transport in (("loop-tcp", "tcp"), ("loop-web", "websocket")):
            root = tmp_path / name
            facts = {"api": server.facts["devices"], "enrol": server.facts["enrolment"], "mqtt": server.facts["mqtt"]}
            given = {"server": facts, "ca_pem": server.ca.read_text(), "transport": transport}
            lay_down(root, words(name, **given, token=server.new_token(name)))
            with Agent(HERE, root):
                await_online(server, name)


def test_names_that_do_not_resolve_then_do_and_an_address_that_is_dead(
    far: Namespace, server: Away, tmp_path: Path
) -> None:
    """Both families are told for the name; nobody answers by IPv6. And before that, for a while, nobody tells."""
    with Namespace(resolver="10.77.5.1") as near:
        near.cable("10.77.5.2/24", "fd75::2/64", to=HERE, theirs=("10.77.5.1/24",))
        near.cable("10.77.6.2/24", to=far.name, theirs=("10.77.6.1/24",), router="10.77.6.1")
        root = device(server, "named", tmp_path, enrolled=True)
        with Agent(near, root) as agent:
            lost = eventually("a failure", lambda: agent.said("session down"), 60)
            assert "cannot be resolved" in lost[0]["detail"]
            with Names("10.77.5.1", {NAME: ("fd75::99", "10.77.6.1")}) as names:
                names.silent = True
                eventually("a question that nobody answers", lambda: names.asked, 60)
                assert agent.process.poll() is None
                names.silent = False
                await_online(server, "named")
            assert len(agent.said("session up")) == 1


def test_a_device_is_flashed_for_such_a_network(fleet: Fleet, tmp_path: Path) -> None:
    """By the options of `beamfleet flash`, with the secret in a file."""
    with HttpProxy(secret=SECRET) as proxy:
        file = tmp_path / "proxy"
        file.write_text(f"http://gateway:hush%20hush%25secret@127.0.0.1:{proxy.port}\n")
        file.chmod(0o600)
        more = ("--proxy-file", str(file), "--transport", "websocket", "--keepalive", "45")
        device = fleet.flash("walled", more=more)
        fleet.wait_online("walled")
        settings = (device.root / "etc/beamfleet/agent.toml").read_text()
        device.stop()
    ports = {int(asked.split()[1].rpartition(b":")[2]) for asked in proxy.asked}
    assert ports == {int(fleet.address(name).rpartition(":")[2]) for name in ("devices", "enrolment")}
    assert "hush" not in settings
    assert "keepalive_s = 45" in settings
