"""What is ordered with `beamfleet flash`: which target, which identity, which files; and what cannot be meant."""

import base64
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.flash_options import FlashOptions, Transport
from beamfleet_server.cli.flash_order import Order, check_target, image_of
from beamfleet_server.flash.facts import TargetFacts
from beamfleet_server.flash.plan import steps

Given = dict[str, Any]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"root": Path("/r")}, "root"),
        ({"root": Path("/r"), "single_user": True}, "root"),
        ({"image": "a.img"}, "image"),
        ({"device": Path("/dev/sdb")}, "device"),
        ({"device": Path("/dev/sdb"), "image": "a.img"}, "device"),
        ({"ssh": "pi@host"}, "ssh"),
        ({"deb": Path("out.deb")}, "deb"),
    ],
)
def test_one_target_is_meant(given: Given, kind: str) -> None:
    assert check_target(FlashOptions(**given)) == kind


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"root": Path("/r"), "ssh": "host"},
        {"root": Path("/r"), "image": "a.img"},
        {"image": "a.img", "single_user": True},
        {"root": Path("/r"), "wipe": True},
        {"deb": Path("out.deb"), "remove": True},
        {"device": Path("/dev/sdx"), "image": "a.img", "remove": True},
    ],
)
def test_no_target_two_targets_and_what_does_not_go_with_one_are_refused(given: Given) -> None:
    with pytest.raises(CommandError) as caught:
        check_target(FlashOptions(**given))
    assert caught.value.code == "usage.target"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.img", ("a.img", None)),
        ("a.img:2", ("a.img", 2)),
        ("x:y/a.img:12", ("x:y/a.img", 12)),
        ("a:b", ("a:b", None)),
        ("a.img:", ("a.img:", None)),
        ("a.img:1234", ("a.img:1234", None)),
    ],
)
def test_an_image_may_name_its_partition(text: str, found: tuple[str, int | None]) -> None:
    assert image_of(text) == (Path(found[0]), found[1])


@pytest.mark.parametrize("number", ["x", "1234", ""])
def test_what_is_no_number_of_a_partition_is_told(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.img").touch()
    with pytest.raises(CommandError, match=f"'{number}' is no number of a partition") as refused:
        image_of(f"{tmp_path}/a.img:{number}")
    assert refused.value.code == "usage.target"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "usage.identity"),
        ({"id": "gw-1", "id_from": "serial"}, "usage.identity"),
        ({"id_from": "fortune"}, "usage.identity"),
        ({"id_from": "command:relative"}, "usage.identity"),
        ({"id_from": "serial", "single_user": True}, "usage.identity"),
        ({"id_from": "serial", "certificate": Path("c"), "key": Path("k")}, "usage.identity"),
        ({"id": "gw-1", "id_prefix": "a-"}, "usage.identity"),
        ({"id_from": "serial", "replace": True}, "usage.identity"),
        ({"id": "gw-1", "approval": True, "expires": "1d"}, "usage.identity"),
        ({"id": "gw-1", "token_file": Path("t"), "expires": "1d"}, "usage.identity"),
        ({"id": "gw-1", "count": 2}, "usage.identity"),
        ({"id": "gw-1", "files": ["etc/x"]}, "usage.file"),
        ({"id": "gw-1", "files": ["a:relative"]}, "usage.file"),
        ({"id": "gw-1", "files": ["a:/etc/../x"]}, "usage.file"),
        ({"id": "gw-1", "files": ["a:/etc/x:9999"]}, "usage.file"),
        ({"id": "gw-1", "files": ["/nowhere:/etc/x"]}, "file.unreadable"),
        ({"id": "gw-1", "wifi_country": "DE"}, "usage.network"),
        ({"id": "gw-1", "apn_user": "me"}, "usage.network"),
        ({"id": "gw-1", "proxy": "socks5://x:1"}, "usage.network"),
        ({"id": "gw-1", "proxy": "http://proxy"}, "usage.network"),
        ({"id": "gw-1", "proxy": "http://proxy:x"}, "usage.network"),
        ({"id": "gw-1", "proxy": "http://me:secret@proxy:3128"}, "usage.network"),
        ({"id": "gw-1", "expires": "soon"}, "usage.duration"),
        ({"id": "gw-1", "expires": "367d"}, "usage.duration"),
        ({"id_from": "serial", "count": 100_001}, "usage.identity"),
        ({"id_from": "serial", "id_prefix": "A_"}, "usage.identity"),
        ({"id": "gw-1", "proxy": ""}, "usage.network"),
        ({"id": "gw-1", "wifi_ssid": ""}, "usage.network"),
        ({"id": "gw-1", "apn": " "}, "usage.network"),
        ({"id": "gw-1", "environment": ["A=x\0y"]}, "usage.environment"),
        ({"id": "gw-1", "environment": ["A=x\ny"]}, "usage.environment"),
        ({"id": "gw-1", "bundle": Path("/nowhere")}, "bundle.not_found"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: Given, code: str) -> None:
    from beamfleet_bundles.errors import BeamfleetError

    with pytest.raises(BeamfleetError) as caught:
        Order.of(FlashOptions(**given))
    assert caught.value.code == code
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n"])
@pytest.mark.parametrize("option", ["proxy_file", "wifi_psk_file", "apn_password_file"])
def test_a_secret_that_is_empty_or_no_text_is_not_taken_for_none(tmp_path: Path, option: str, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    said: Given = {"id": "gw-1", "wifi_ssid": "plant", "apn": "internet", option: tmp_path / "file"}
    with pytest.raises(CommandError, match=str(tmp_path / "file")) as refused:
        Order.of(FlashOptions(**said))
    assert refused.value.code == "usage.network"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"# a comment\nA=1\nPASSWORD secret\n", "line 3"),
        (b"\r\nA=1\r\n2secret=3\n", "line 3"),
        (b"A=sec\0ret", "line 1: there is a NUL"),
        (b"A=sec\x1bret", "line 1"),
        (b"A=secret\xff\n", "is not UTF-8"),
    ],
)
def test_a_line_of_the_environment_is_told_by_its_number_alone(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "app.env").write_bytes(content)
    with pytest.raises(CommandError) as refused:
        Order.of(FlashOptions(id="gw-1", env_file=tmp_path / "app.env"))
    assert refused.value.code == "usage.environment"
    assert named in refused.value.message
    assert str(tmp_path / "app.env") in refused.value.message
    assert not {"secret", "PASSWORD"} & set(refused.value.message.split())
    assert "secret" not in refused.value.message + refused.value.hint


def test_an_environment_may_be_empty_and_flags_win_over_it(tmp_path: Path) -> None:
    (tmp_path / "app.env").write_bytes(b"")
    assert Order.of(FlashOptions(id="gw-1", env_file=tmp_path / "app.env")).words["env"] == {}
    (tmp_path / "app.env").write_bytes(b"\xef\xbb\xbfA=1\r\nB=x=y \n")
    order = Order.of(FlashOptions(id="gw-1", env_file=tmp_path / "app.env", environment=["A=2"]))
    assert order.words["env"] == {"A": "2", "B": "x=y "}


@pytest.mark.parametrize("content", ["", "hello\n", "A" * 43, "enrol-" + "A" * 42])
def test_what_is_no_token_of_a_device_gets_onto_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(CommandError) as refused:
        Order.of(FlashOptions(id="gw-1", token_file=tmp_path / "token"))
    assert refused.value.code == "token.missing"
    assert "admin.token" not in refused.value.hint
    (tmp_path / "token").write_text(f"enrol-{'A' * 43}\n")
    assert Order.of(FlashOptions(id="gw-1", token_file=tmp_path / "token")).token == f"enrol-{'A' * 43}"


def test_secrets_come_from_files_and_what_is_by_default_is_not_said(tmp_path: Path) -> None:
    for name, content in (("psk", "wifi secret\n"), ("apn", "apn secret\n"), ("proxy", "http://me:secret@p:3128\n")):
        (tmp_path / name).write_text(content)
    (tmp_path / "modem.conf").write_bytes(b"\x00binary")
    order = Order.of(
        FlashOptions(
            id_from="serial",
            id_prefix="gw-",
            count=10,
            wifi_ssid="plant",
            wifi_psk_file=tmp_path / "psk",
            wifi_country="DE",
            apn="internet",
            apn_password_file=tmp_path / "apn",
            proxy_file=tmp_path / "proxy",
            transport=Transport.WEBSOCKET,
            keepalive_s=30,
            files=[f"{tmp_path}/modem.conf:/etc/modem.conf:600"],
        )
    )
    words = order.words
    assert words["wifi"] == {"ssid": "plant", "psk": "wifi secret", "country": "DE"}
    assert words["apn"] == {"apn": "internet", "user": "", "password": "apn secret"}
    assert words["proxy"] == "http://me:secret@p:3128"
    assert (words["transport"], words["keepalive_s"], words["id_from"]) == ("websocket", 30, "serial")
    assert words["files"] == [
        {"path": "/etc/modem.conf", "mode": "0600", "content_base64": base64.b64encode(b"\x00binary").decode()}
    ]
    shown = "\n".join(steps(TargetFacts(), words, bundle=Path("a.bundle"), at_first_boot=True, token="a new token"))
    assert "secret" not in shown
    assert "ids from serial that begin with gw-, at its first boot; a new token" in shown
    for part in ("/etc/modem.conf (0600)", "network plant", "access point internet", "through p:3128", "a.bundle"):
        assert part in shown
    plain = Order.of(FlashOptions(id="gw-1", transport=Transport.TCP))
    assert plain.words.keys() & {"wifi", "apn", "proxy", "transport", "keepalive_s", "files", "id_from"} == set()


@pytest.mark.parametrize(
    ("given", "life_s"),
    [({"ssh": "host"}, 3600), ({"single_user": True}, 3600), ({}, 7 * 86_400), ({"expires": "15m"}, 900)],
)
def test_a_token_is_good_until_the_device_has_booted(given: Given, life_s: int) -> None:
    assert Order.of(FlashOptions(id="gw-1", **given)).life_s == life_s
