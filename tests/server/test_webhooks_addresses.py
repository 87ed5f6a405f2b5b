"""Where webhooks may go, what their URLs look like, and what their signatures are."""

import asyncio
import ipaddress
import socket
import threading
from pathlib import Path

import pytest
from beamfleet_server.webhooks import addresses as module
from beamfleet_server.webhooks.addresses import Addresses, NoAddressError, Target, parsed
from beamfleet_server.webhooks.dispatch import Patience
from beamfleet_server.webhooks.signing import Secrets, new_salt, shown, signature

from tests.support.refusal import refusal

PUBLIC = "1.1.1.1"


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 (looked at, not bound)
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.0.9",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "64:ff9b:1::7f00:1",
        "100::1",
        "2001:0:7f00:1::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_an_address_that_is_not_public_is_no_place_for_a_webhook(address: str) -> None:
    parsed_address = ipaddress.ip_address(address)
    assert not Addresses().allowed(parsed_address, secure=True)
    everything = Addresses(["0.0.0.0/0", "::/0"])
    assert everything.allowed(parsed_address, secure=False)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_a_public_address_is_reached_over_tls_only(address: str) -> None:
    parsed_address = ipaddress.ip_address(address)
    assert Addresses().allowed(parsed_address, secure=True)
    assert not Addresses().allowed(parsed_address, secure=False)


def test_a_network_of_the_setting_is_allowed_and_no_other() -> None:
    guard = Addresses(["10.1.0.0/16", "fd00::/8"])
    for address, allowed in (("10.1.2.3", True), ("10.2.0.1", False), ("fd00::7", True), ("fc00::7", False)):
        assert guard.allowed(ipaddress.ip_address(address), secure=False) is allowed
    assert not guard.allowed(ipaddress.ip_address("::ffff:10.2.0.1"), secure=True)
    assert refusal(Addresses, ["10.1.0.0/99"]) == "server.settings"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://hooks.example", Target(True, "hooks.example", 443, "/")),
        ("https://HOOKS.example:8443/a/b?c=d", Target(True, "hooks.example", 8443, "/a/b?c=d")),
        ("http://10.0.0.1/x", Target(False, "10.0.0.1", 80, "/x")),
        ("https://[2606:4700::1]:444/", Target(True, "2606:4700::1", 444, "/")),
    ],
)
def test_a_url_has_parts(url: str, target: Target) -> None:
    assert parsed(url) == target


def test_the_host_header_has_a_port_where_it_is_not_the_usual_one() -> None:
    assert parsed("https://hooks.example:443/x").authority == "hooks.example"
    assert parsed("https://hooks.example:80/x").authority == "hooks.example:80"
    assert parsed("https://[2606:4700::1]/x?token=secret").origin == "https://[2606:4700::1]"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example/x",
        "ftp://hooks.example/x",
        "file:///etc/passwd",
        "https:///x",
        "https://user@hooks.example/",
        "https://user:word@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example/#",
        "https://hooks.example:0/",
        "https://hooks.example:99999/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nX: y",
        "https://hooks.example\\@10.0.0.1/",
        "https://h\u00f6oks.example/",
        "https://hooks%2eexample/",
        "https://[::1",
        "https://hooks.example/" + "x" * 2000,
    ],
)
def test_what_is_no_usable_url_is_refused(url: str) -> None:
    assert refusal(parsed, url) == "webhook.url"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://10.0.0.1/", False),
        ("https://169.254.169.254/latest", False),
        ("https://[::ffff:127.0.0.1]/", False),
        ("http://hooks.example/", False),
        (f"http://{PUBLIC}/", False),
        (f"https://{PUBLIC}/", True),
        ("https://hooks.example/", True),
    ],
)
def test_what_can_never_be_sent_to_is_refused_when_it_is_made(url: str, allowed: bool) -> None:
    if allowed:
        Addresses().check(parsed(url))
    else:
        assert refusal(Addresses().check, parsed(url)) == "webhook.address"


def test_a_name_that_changes_its_address_is_looked_at_each_time_and_only_what_is_allowed_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [["1.1.1.1"], ["127.0.0.1", "1.1.1.1"], ["127.0.0.1"], ["::ffff:10.0.0.1"]]
    monkeypatch.setattr(module, "_lookup", lambda _, __: answers.pop(0))
    guard, target = Addresses(), parsed("https://rebound.example/")
    assert asyncio.run(guard.resolve(target)) == ["1.1.1.1"]
    assert asyncio.run(guard.resolve(target)) == ["1.1.1.1"]
    for _ in range(2):
        with pytest.raises(NoAddressError, match="not public"):
            asyncio.run(guard.resolve(target))


def test_a_name_server_that_does_not_answer_costs_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def stuck(_: str, __: int) -> list[str]:
        over.wait(30)
        return [PUBLIC]

    monkeypatch.setattr(module, "_lookup", stuck)
    monkeypatch.setattr(module, "RESOLVERS", 2)
    guard, target = Addresses(), parsed("https://slow.example/")

    async def ask() -> None:
        given_up: list[str] = []
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await guard.resolve(target)
        with pytest.raises(NoAddressError, match="too many names"):
            await guard.resolve(target)
        over.set()
        while not given_up:
            try:
                given_up = await guard.resolve(target)
            except NoAddressError:
                await asyncio.sleep(0.01)

    asyncio.run(ask())


def test_other_ways_to_write_an_address_end_at_the_same_guard() -> None:
    guard = Addresses()
    for host in ("127.1", "0x7f000001", "2130706433", "017700000001", "localhost"):
        target = parsed(f"https://{host}/")
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            continue
        with pytest.raises(NoAddressError):
            asyncio.run(guard.resolve(target))


def test_the_signature_is_that_of_standard_webhooks() -> None:
    import base64

    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    both = signature([secret, b"x" * 32], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert both.startswith(made + " v1,")


def test_a_secret_comes_of_the_key_file_and_the_salt(tmp_path: Path) -> None:
    first, salt = Secrets.open(tmp_path), new_salt()
    assert first.of(salt) == Secrets.open(tmp_path).of(salt)
    assert first.of(salt) != first.of(new_salt())
    assert len(first.of(salt)) == 32
    assert shown(first.of(salt)).startswith("whsec_")
    assert (tmp_path / "webhooks.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "webhooks.key").write_bytes(b"short")
    assert refusal(Secrets.open, tmp_path) == "server.data_unusable"


def test_pauses_double_to_an_hour_and_are_spread() -> None:
    patience = Patience()
    assert [patience.pause(tries, 0.5) for tries in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert [patience.pause(11, 0), patience.pause(5000, 0.5), patience.pause(5000, 1)] == [2700, 3600, 4500]
