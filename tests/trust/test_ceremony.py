"""The whole life of production keys: two of three people, real server, real broker, a real agent that nobody visits."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.ceremony import Ceremony, production_fleet
from tests.support.fleet import Device, Fleet, wait_for
from tests.trust.threats.captive import PRODUCT, built, running_device, start_rollout

pytestmark = [pytest.mark.suite(name="trust"), pytest.mark.timeout(600)]

DEVICE = "gw-1"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Fleet, Ceremony]]:
    """Production keys, and 1.0.0 published by the first key of the product."""
    with production_fleet(tmp_path, PRODUCT) as (fleet, ceremony):
        fleet.cli("bundle", "publish", built(fleet, "1.0.0"))
        yield fleet, ceremony


def followed(fleet: Fleet, device: Device) -> None:
    """Asks the device to look, and waits until it trusts what the server serves now."""
    there = served(fleet)
    wait_for("the device to be online", lambda: command(fleet, device) < 300, deadline_s=60, every_s=0.5)
    wait_for(f"{device.name} to follow to {there}", lambda: held(device) == there, deadline_s=60, every_s=0.2)


def command(fleet: Fleet, device: Device) -> int:
    """The status of asking the device to look for updates."""
    return ask(fleet, "POST", f"/devices/{device.name}/command", {"name": "refresh"}).status_code


def ask(fleet: Fleet, method: str, path: str, body: dict[str, str] | None = None) -> requests.Response:
    token = (fleet.data / "admin.token").read_text().strip()
    return requests.request(
        method, f"{fleet.address('operators')}/api/v1{path}", json=body, timeout=30,
        headers={"Authorization": f"Bearer {token}"}, verify=str(fleet.data / "ca.pem"),
    )  # fmt: skip


def held(device: Device) -> dict[str, int]:
    """The versions of root and targets that the device has verified and keeps."""
    paths = [device.root / f"var/lib/beamfleet/trust/{role}.json" for role in ("root", "targets")]
    return {path.stem: json.loads(path.read_text())["signed"]["version"] for path in paths if path.exists()}


def served(fleet: Fleet) -> dict[str, int]:
    metadata = ask(fleet, "GET", "/server").json()["metadata"]
    return {role: metadata[role] for role in ("root", "targets")}


def refused(fleet: Fleet, *words: str) -> str:
    """The code of a command that fails."""
    return str(fleet.json(*words, ok=(1,))["code"])


def signed_by(fleet: Fleet, ceremony: Ceremony, bundle: str, names: Sequence[str]) -> str:
    for name in names:
        fleet.cli("bundle", "sign", bundle, "--key", str(ceremony.key(name)))
    return bundle


def released(fleet: Fleet, device: Device, version: str) -> None:
    """Gives the device a published release, which it commits."""
    start_rollout(fleet, device.name, version)

    def runs() -> bool:
        shown = fleet.json("device", "show", device.name)
        return bool(shown["version"] == version and device.boot_state().get("phase") == "committed")

    wait_for(f"{device.name} to run {version}", runs, deadline_s=60, every_s=0.5)


def test_a_device_follows_the_keys_through_their_whole_life(opened: tuple[Fleet, Ceremony]) -> None:
    fleet, ceremony = opened
    device = running_device(fleet, DEVICE)
    for name in ("dora", "emil", "fred"):
        ceremony.make_key(name)
    third = ceremony.make_key("third", encrypted=False)
    dora, emil, fred = (str(ceremony.public(name)) for name in ("dora", "emil", "fred"))

    ceremony.carry_out("rotate", "root", "--remove", "ben", "--add", dora, people=("anna", "carl"))
    words = ("rotate", "targets", "--remove", "carl", "--add", emil)
    ceremony.carry_out(*words, people=("anna", "dora", "emil"))
    followed(fleet, device)

    alone = ceremony.plan("renew", "root", "targets")
    ceremony.sign(alone, "anna")
    assert refused(fleet, "keys", "publish", str(alone)) == "plan.unsigned"

    ceremony.carry_out("revoke", "anna", "--add", fred, people=("carl", "dora", "emil", "fred"))
    followed(fleet, device)
    assert "anna" not in fleet.cli("keys", "status").stdout

    more = ("--remove", f"{PRODUCT}-1", "--add", f"{third}.pub", "--threshold", "2")
    ceremony.carry_out("rotate", PRODUCT, *more, people=("emil", "fred", f"{PRODUCT}-2", "third"))
    bundle = built(fleet, "1.1.0")
    assert refused(fleet, "bundle", "publish", bundle) == "keys.missing"
    signed_by(fleet, ceremony, bundle, [f"{PRODUCT}-2"])
    assert refused(fleet, "bundle", "publish", bundle) == "release.unsigned"
    fleet.cli("bundle", "publish", signed_by(fleet, ceremony, bundle, ["third"]))
    released(fleet, device, "1.1.0")

    ceremony.rotate_online(("carl", "dora", "emil", "fred"))
    followed(fleet, device)
    bundle = signed_by(fleet, ceremony, built(fleet, "1.3.0"), [f"{PRODUCT}-2", "third"])
    fleet.cli("bundle", "publish", bundle)
    released(fleet, device, "1.3.0")
    released(fleet, device, "1.0.0")


def test_an_old_backup_without_keys_is_brought_level_again(opened: tuple[Fleet, Ceremony]) -> None:
    """The machine is gone; what is left is a backup from before the device came, and the operator's directory."""
    fleet, ceremony = opened
    backup = fleet.work / "backup"
    device = running_device(fleet, DEVICE)
    fleet.stop_server()
    shutil.copytree(fleet.data, backup)
    fleet.serve()
    ceremony.carry_out("renew", "root", "targets")
    second = built(fleet, "1.1.0")
    fleet.cli("bundle", "publish", signed_by(fleet, ceremony, second, [f"{PRODUCT}-1"]))
    released(fleet, device, "1.1.0")
    before = held(device)

    fleet.stop_server()
    shutil.rmtree(fleet.data)
    shutil.copytree(backup, fleet.data)
    shutil.rmtree(fleet.data / "keys")
    fleet.serve()
    plan = ceremony.plan("recover")
    ceremony.sign(plan, "anna")
    assert refused(fleet, "keys", "publish", str(plan)) == "plan.unsigned"
    ceremony.sign(plan, "carl")
    ceremony.publish(plan)
    followed(fleet, device)
    assert held(device)["root"] == before["root"] + 1
    fleet.cli("bundle", "publish", second)
    third = signed_by(fleet, ceremony, built(fleet, "1.3.0"), [f"{PRODUCT}-2"])
    fleet.cli("bundle", "publish", third)
    released(fleet, device, "1.3.0")
    released(fleet, device, "1.1.0")


def test_no_offline_key_is_anywhere_on_the_server(opened: tuple[Fleet, Ceremony]) -> None:
    fleet, ceremony = opened
    secrets = [b"".join(path.read_bytes().splitlines()[1:-1]) for path in ceremony.keys.glob("*.key")]
    assert len(secrets) == 5
    for path in fleet.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes().replace(b"\n", b"")
            assert not any(secret in content for secret in secrets), path
    with sqlite3.connect(f"file:{fleet.data / 'beamfleet.db'}?mode=ro", uri=True) as database:
        roots = database.execute("SELECT count(*) FROM tuf_metadata WHERE role = 'root'").fetchone()
    database.close()
    assert roots == (1,)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PKCS#11 token, in software, with a P-256 key: the folder with `token.pem`, its public half, and its `pin`."""
    folder = tmp_path / "token"
    (folder / "objects").mkdir(parents=True)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'objects'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    monkeypatch.setenv("PYKCS11LIB", "/usr/lib/softhsm/libsofthsm2.so")
    made = ec.generate_private_key(ec.SECP256R1())
    private = folder / "made.pem"
    private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for words in (
        ["--init-token", "--free", "--label", "hana", "--so-pin", "87654321"],
        ["--import", str(private), "--token", "hana", "--id", "02", "--label", "hana"],
    ):
        subprocess.run(["softhsm2-util", *words, "--pin", "12345678"], check=True, capture_output=True)
    private.unlink()
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "token.pem").write_bytes(public)
    (folder / "pin").write_text("12345678\n")
    (folder / "signers.toml").write_text('[hana]\nuri = "hsm:2?label=hana"\npublic = "hana.pub"\n')
    return folder


def test_a_key_in_a_token_signs_for_its_person_and_a_device_believes_it(
    token: Path, opened: tuple[Fleet, Ceremony]
) -> None:
    fleet, ceremony = opened
    device = running_device(fleet, DEVICE)
    hana = token / "hana.pub"
    fleet.cli("keys", "import", "hana", str(token / "token.pem"), "--out", str(hana))
    ceremony.carry_out("rotate", "targets", "--remove", "ben", "--add", str(hana), people=("anna", "carl"))
    plan = ceremony.plan("renew", "targets")
    ceremony.sign(plan, "anna")
    assert refused(fleet, "keys", "publish", str(plan)) == "plan.unsigned"
    words = ("keys", "sign", str(plan), "--yes", "--signers", str(token / "signers.toml"), "--signer", "hana")
    (token / "wrong").write_text("11111111\n")
    assert refused(fleet, *words, "--passphrase-file", str(token / "wrong")) == "trust.signer_failed"
    fleet.cli(*words, "--passphrase-file", str(token / "pin"))
    ceremony.publish(plan)
    followed(fleet, device)
