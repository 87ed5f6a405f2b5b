"""Making a directory a device: the command line, the real server and the agent's real setup."""

import sys
from pathlib import Path

import pytest
from beamfleet_bundles import pki
from beamfleet_server.cli.flash import addresses

from tests.server.cli.api_script import make_certificate
from tests.server.cli.terminal import Operator
from tests.server.cli.test_signing import code_of
from tests.support.fleet import Fleet

Capture = pytest.CaptureFixture[str]
IDENTITY = Path("var/lib/beamfleet/identity")


def words(root: Path, device: str, *more: str) -> list[str]:
    return ["flash", "--root", str(root), "--id", device, "--single-user", "--allow-unsafe-filesystem", *more]


def test_a_flashed_directory_knows_the_fleet_and_has_a_token_for_itself(
    fleet: Fleet, owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    root = tmp_path / "device"
    more = ("-l", "site=berlin", "--env", "PORT=8080", "--network", "cellular", "--profile", "metered")
    done = owner.run(*words(root, "flashed-1", *more), "-o", "json", capsys=capsys)
    assert (done.code, done.json["enrolled"]) == (0, False)
    assert (root / "etc/beamfleet/ca.pem").read_bytes() == (fleet.data / "ca.pem").read_bytes()
    pinned = owner.directory / "keys/default/root.json"
    assert (root / "etc/beamfleet/root.json").read_bytes() == pinned.read_bytes()
    assert "PORT=8080" in (root / "etc/beamfleet/app.env").read_text()
    settings = (root / "etc/beamfleet/agent.toml").read_text()
    for name in ("devices", "enrolment", "mqtt"):
        assert fleet.address(name).removeprefix("https://") in settings
    assert 'network = "cellular"' in settings
    assert 'profile = "metered"\nhealth_interval_s = 0\n' in settings
    token = (root / IDENTITY / "token").read_text().strip()
    assert token
    assert token not in done.out + done.err
    assert Path(done.json["run"]).stat().st_mode & 0o111


def test_flashing_again_keeps_an_identity_and_makes_no_token(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    root = tmp_path / "device"
    assert owner.run(*words(root, "flashed-2"), capsys=capsys).code == 0
    (root / IDENTITY / "token").unlink()
    (root / IDENTITY / "key.pem").write_bytes(b"what enrolment brought")
    make_certificate(tmp_path / "key", root / IDENTITY / "cert.pem", "flashed-2")
    again = owner.run(*words(root, "flashed-2", "--trial-s", "5"), "-o", "json", capsys=capsys)
    assert (again.code, again.json["enrolled"]) == (0, True)
    assert not (root / IDENTITY / "token").exists()
    assert (root / IDENTITY / "key.pem").read_bytes() == b"what enrolment brought"


def test_a_directory_that_is_another_device_is_left_alone(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "device" / IDENTITY).mkdir(parents=True)
    make_certificate(tmp_path / "key", tmp_path / "device" / IDENTITY / "cert.pem", "somebody-else")
    refused = owner.run(*words(tmp_path / "device", "flashed-7"), capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "flash.other_device")
    assert "somebody-else" in refused.err
    assert not (tmp_path / "device/etc").exists()


def test_a_token_of_one_s_own_is_used_and_none_is_made(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "token"
    assert owner.run("token", "create", "flashed-3", "--out", str(file), capsys=capsys).code == 0
    assert owner.run(*words(tmp_path / "device", "flashed-3", "--token-file", str(file)), capsys=capsys).code == 0
    assert (tmp_path / "device" / IDENTITY / "token").read_text() == file.read_text()


def test_an_operators_token_never_gets_onto_a_device(
    fleet: Fleet, owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    file = fleet.data / "admin.token"
    refused = owner.run(*words(tmp_path / "device", "flashed-13", "--token-file", str(file)), capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "token.missing")
    assert file.read_text().strip() not in refused.out + refused.err
    assert not (tmp_path / "device").exists()


def test_a_device_that_is_to_be_accepted_gets_no_token(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    root = tmp_path / "device"
    assert owner.run(*words(root, "flashed-10", "--approval"), capsys=capsys).code == 0
    assert list((root / IDENTITY).iterdir()) == []


def test_an_identity_that_was_made_elsewhere_is_laid_down_whole(
    owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    root, made = tmp_path / "device", tmp_path / "made"
    done = owner.run("device", "provision", "flashed-11", "--out", str(made), capsys=capsys)
    assert done.code == 0, done.err
    pair = ["--cert", str(made / "flashed-11/cert.pem"), "--key", str(made / "flashed-11/key.pem")]
    for _ in range(2):
        assert owner.run(*words(root, "flashed-11", *pair), capsys=capsys).code == 0
    laid = (root / IDENTITY / "pair.pem").read_bytes()
    assert pki.read_certificate(pki.read_pair(laid, "pair.pem")[0]).name == "flashed-11"
    assert (root / IDENTITY / "pair.pem").stat().st_mode & 0o777 == 0o600
    assert owner.run("device", "provision", "flashed-12", "--out", str(made), capsys=capsys).code == 0
    other = ["--cert", str(made / "flashed-12/cert.pem"), "--key", str(made / "flashed-12/key.pem")]
    for more, code in ((other, "setup.words"), ([*pair[:3], other[3]], "setup.words")):
        refused = owner.run(*words(root, "flashed-11", *more), capsys=capsys)
        assert (refused.code, code_of(refused)) == (1, code)
    assert (root / IDENTITY / "pair.pem").read_bytes() == laid


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--cert", "c.pem"], "usage.identity"),
        (["--approval", "--token-file", "token"], "usage.identity"),
        (["--env", "NOVALUE"], "usage.environment"),
        (["--env", "A B=c"], "usage.environment"),
        (["--env-file", "/nowhere/app.env"], "file.unreadable"),
        (["--token-file", "/nowhere/token"], "file.unreadable"),
        (["-l", "nolabel"], "usage.label"),
        (["-l", "site=berlin", "--token-file", "x"], "usage.label"),
        (["--id", "Not_A_Device"], "name.device"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    more: list[str], code: str, owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    refused = owner.run(*words(tmp_path / "device", "flashed-4", *more), capsys=capsys)
    assert (refused.code, code_of(refused)) == (2 if code.startswith("usage.") else 1, code)
    assert not (tmp_path / "device").exists()


def test_what_the_setup_refuses_comes_with_its_own_code(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    refused = owner.run(
        *words(tmp_path / "device", "flashed-5", "--trial-s", "30", "--trial-deadline-s", "2"), capsys=capsys
    )
    assert (refused.code, code_of(refused)) == (1, "setup.words")


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--keepalive", "99999999"], "--keepalive = 99999999"),
        (["--trial-s", "999999999"], "--trial-s = 999999999"),
        (["--trial-s", "60", "--trial-deadline-s", "2"], "--trial-deadline-s = 2"),
        (["--proxy", "http://h:1/path"], "http://HOST:PORT"),
        (["--wifi-ssid", "x"], "leave --wifi-ssid and --apn"),
    ],
)
def test_what_the_setup_would_refuse_is_refused_by_a_dry_run_and_before_there_is_a_token(
    owner: Operator, capsys: Capture, tmp_path: Path, more: list[str], named: str
) -> None:
    for dry in ([], ["--dry-run"]):
        refused = owner.run(*words(tmp_path / "device", "flashed-14", *more, *dry), capsys=capsys)
        assert (refused.code, named in refused.err) == (1, True), refused.err
    assert not (tmp_path / "device").exists()
    tokens = owner.run("token", "list", "-o", "json", capsys=capsys).json
    assert "flashed-14" not in {each["device"] for each in tokens}


@pytest.mark.parametrize("more", [[], ["--single-user"], ["--single-user", "--dry-run"]])
def test_nothing_is_removed_where_nothing_is(owner: Operator, capsys: Capture, tmp_path: Path, more: list[str]) -> None:
    for root in (tmp_path / "missing", tmp_path / "operator/.."):
        refused = owner.run("flash", "--root", str(root), "--remove", "--yes", *more, "-o", "json", capsys=capsys)
        assert refused.code == 1
        assert "flash.no_root" in {refused.json["code"], *(each["code"] for each in refused.json.get("others", ()))}
    assert not (tmp_path / "missing").exists()


@pytest.fixture
def arguments() -> list[str]:
    """The arguments of every child process that this one starts from now on."""
    seen: list[str] = []

    def listen(event: str, facts: tuple[object, ...]) -> None:
        if event == "subprocess.Popen" and isinstance(facts[1], list):
            seen.extend(map(str, facts[1]))

    sys.addaudithook(listen)
    return seen


def test_no_secret_is_ever_an_argument(owner: Operator, capsys: Capture, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "secrets").write_text("# of the application\nPASSWORD=hunter2\n\n")
    done = owner.run(*words(tmp_path / "device", "flashed-6", "--env-file", str(tmp_path / "secrets")), capsys=capsys)
    assert done.code == 0
    assert sys.executable in arguments
    assert "hunter2" not in " ".join(arguments)
    assert (tmp_path / "device" / IDENTITY / "token").read_text().strip() not in " ".join(arguments)
    assert "PASSWORD=hunter2" in (tmp_path / "device/etc/beamfleet/app.env").read_text()


LISTENERS = {
    "operators": {"host": "fleet.example", "port": 1},
    "devices": {"host": "fleet.example", "port": 2},
    "enrolment": {"host": "::1", "port": 3},
    "mqtt": {"host": "::", "port": 4},
}


def test_a_listener_on_all_addresses_is_where_the_operator_reached_the_server() -> None:
    assert addresses(LISTENERS, "https://berlin.example:8443") == {
        "api": "https://fleet.example:2",
        "enrol": "https://[::1]:3",
        "mqtt": "berlin.example:4",
    }
