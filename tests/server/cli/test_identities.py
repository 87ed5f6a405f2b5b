"""Who is a device, decided on the command line: tokens, approvals, provisioning, revocation, authorities."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import pki
from cryptography.hazmat.primitives.asymmetric import ec

from tests.server.cli.terminal import Operator
from tests.server.cli.test_signing import code_of
from tests.support.fleet import Fleet, wait_for

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A real server that lets devices without a token wait, and may change its authorities."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), settings=["--enrolment-approval"])
    fleet.open()
    yield fleet
    fleet.close()


def ask(fleet: Fleet, device: str) -> tuple[int, str]:
    """A device without a token asks to be let in, with a new key: the answer's status and the key's fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    url = f"{fleet.address('enrolment')}/.well-known/est/simpleenroll"
    body = pki.encode_body(pki.make_request(key, device))
    answer = requests.post(url, body, verify=str(fleet.data / "ca.pem"), timeout=30)
    return answer.status_code, pki.fingerprint(key.public_key())


def test_tokens_for_one_for_any_and_for_many(guest: Operator, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "line.token"
    words = ["token", "create", "--batch", "20", "--prefix", "line-", "-l", "line=4", "--out", str(file)]
    made = guest.run(*words, "-o", "json", capsys=capsys)
    assert (made.code, made.json["count"], made.json["prefix"], made.json["token"]) == (0, 20, "line-", None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    anyone = guest.run("token", "create", "--any", "-o", "json", capsys=capsys)
    assert (anyone.json["count"], anyone.json["device"]) == (1, None)
    listed = guest.run("token", "list", "-o", "json", capsys=capsys)
    assert anyone.json["token"] not in listed.out
    assert file.read_text().strip() not in listed.out
    ours = next(each for each in listed.json if each["id"] == made.json["id"])
    assert (ours["left"], ours["count"], ours["state"], ours["labels"]) == (20, 20, "open", {"line": "4"})
    assert guest.run("token", "revoke", str(made.json["id"]), capsys=capsys).code == 0
    assert code_of(guest.run("token", "revoke", str(made.json["id"]), capsys=capsys)) == "token.unknown"


@pytest.mark.parametrize(
    "words",
    [[], ["gw-1", "--any"], ["--any", "--batch", "2"], ["gw-1", "--prefix", "x"], ["--any", "--replace"]],
    ids=" ".join,
)
def test_a_token_for_nobody_in_particular_is_not_made_by_mistake(
    guest: Operator, capsys: Capture, words: list[str]
) -> None:
    refused = guest.run("token", "create", *words, capsys=capsys)
    assert (refused.code, code_of(refused)) == (2, "usage.token")


def test_a_device_that_waits_is_shown_with_its_key_and_let_in(fleet: Fleet, guest: Operator, capsys: Capture) -> None:
    status, fingerprint = ask(fleet, "wait-1")
    assert status == 202
    assert fingerprint in guest.run("device", "pending", capsys=capsys).out
    assert (
        guest.run("device", "accept", "wait-1", "--yes", "-o", "json", capsys=capsys).json["fingerprint"] == fingerprint
    )
    assert "wait-1" not in guest.run("device", "pending", "-o", "name", capsys=capsys).out
    assert "wait-1" in guest.run("device", "pending", "--all", "-o", "name", capsys=capsys).out
    assert code_of(guest.run("device", "accept", "wait-2", "--yes", capsys=capsys)) == "enrolment.unknown"


def test_of_two_keys_that_claim_an_id_one_is_named(fleet: Fleet, guest: Operator, capsys: Capture) -> None:
    (_, first), (_, second) = ask(fleet, "two-1"), ask(fleet, "two-1")
    assert code_of(guest.run("device", "accept", "two-1", "--yes", capsys=capsys)) == "enrolment.ambiguous"
    assert guest.run("device", "reject", "two-1", "--fingerprint", first, capsys=capsys).code == 0
    assert guest.run("device", "accept", "two-1", "--fingerprint", second, capsys=capsys).code == 0


def test_identities_are_made_in_directories_of_their_own_and_not_twice(
    fleet: Fleet, guest: Operator, capsys: Capture, tmp_path: Path
) -> None:
    out = tmp_path / "identities"
    words = ["device", "provision", "made-1", "made-2", "--out", str(out), "-l", "site=x", "-o", "json"]
    made = guest.run(*words, capsys=capsys)
    assert (made.code, [each["device"] for each in made.json]) == (0, ["made-1", "made-2"])
    for device in ("made-1", "made-2"):
        files = sorted((out / device).iterdir())
        assert [file.name for file in files] == ["ca.pem", "cert.pem", "key.pem"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE((out / device).stat().st_mode) == 0o700
        certificate = pki.load_certificate((out / device / "cert.pem").read_bytes())
        assert pki.read_certificate(certificate).name == device
        assert certificate.public_key() == pki.load_key(out / device / "key.pem").public_key()
    again = guest.run(*words, capsys=capsys)
    assert [each["serial"] for each in again.json] == [each["serial"] for each in made.json]
    pair = (str(out / "made-1" / "cert.pem"), str(out / "made-1" / "key.pem"))
    answer = requests.get(
        f"{fleet.address('devices')}/assignment", cert=pair, verify=str(out / "made-1" / "ca.pem"), timeout=30
    )
    assert answer.status_code == 204
    refused = guest.run("device", "provision", "a/b", "--out", str(out), capsys=capsys)
    assert code_of(refused) == "name.device"
    assert sorted(each.name for each in out.iterdir()) == ["made-1", "made-2"]


def test_a_device_is_revoked_when_the_person_is_sure(guest: Operator, capsys: Capture, tmp_path: Path) -> None:
    guest.run("device", "provision", "gone-1", "--out", str(tmp_path), capsys=capsys)
    unsure = guest.run("device", "revoke", "gone-1", capsys=capsys)
    assert (unsure.code, code_of(unsure)) == (2, "usage.not_asked")
    assert "REVOKED" not in guest.run("device", "show", "gone-1", capsys=capsys).out
    assert len(guest.run("device", "revoke", "gone-1", "--yes", "-o", "json", capsys=capsys).json["serials"]) == 1
    assert "REVOKED" in guest.run("device", "show", "gone-1", capsys=capsys).out
    assert code_of(guest.run("device", "revoke", "gone-1", "--serial", "ab", capsys=capsys)) == "certificate.none"
    assert code_of(guest.run("device", "revoke", "nobody", "--yes", capsys=capsys)) == "device.unknown"
    assert guest.run("device", "accept-clone", "gone-1", capsys=capsys).code == 0


def test_a_new_authority_takes_over_and_the_command_line_goes_on_trusting_the_server(
    fleet: Fleet, guest: Operator, capsys: Capture
) -> None:
    (old,) = guest.run("authority", "list", "-o", "name", capsys=capsys).out.split()
    new = guest.run("authority", "new", "-o", "name", capsys=capsys).out.strip()
    assert guest.run("authority", "activate", new, capsys=capsys).code == 0
    shown = wait_for(
        "both to be trusted here",
        lambda: (fleet.data / "ca.pem").read_bytes().startswith(certificate_of(guest, new, capsys)),
        deadline_s=30,
    )
    assert shown
    states = {each["id"]: each["state"] for each in guest.run("authority", "list", "-o", "json", capsys=capsys).json}
    assert states == {new: "active", old: "trusted"}
    assert code_of(guest.run("authority", "retire", new, capsys=capsys)) == "authority.active"
    assert guest.run("authority", "retire", old, "--force", capsys=capsys).code == 0
    assert guest.run("device", "list", capsys=capsys).code == 0
    assert code_of(guest.run("authority", "activate", old, capsys=capsys)) == "authority.retired"


def certificate_of(guest: Operator, authority: str, capsys: Capture) -> bytes:
    listed = guest.run("authority", "list", "-o", "json", capsys=capsys).json
    return str(next(each["pem"] for each in listed if each["id"] == authority)).encode()


def test_a_device_leaves_with_another_one_in_its_place_or_without(
    guest: Operator, capsys: Capture, tmp_path: Path
) -> None:
    words = ["device", "provision", "old-1", "old-2", "--out", str(tmp_path), "-l", "rack=7"]
    assert guest.run(*words, capsys=capsys).code == 0
    assert guest.run("device", "replace", "old-1", "new-1", capsys=capsys).code == 2
    replaced = guest.run("device", "replace", "old-1", "new-1", "--yes", capsys=capsys)
    assert "old-1 is shut out; new-1 gets its place when it enrols" in replaced.out
    assert guest.run("device", "decommission", "old-2", "--yes", capsys=capsys).code == 0
    assert "old-" not in guest.run("device", "list", "-o", "name", capsys=capsys).out
    listed = guest.run("device", "list", "--all", "-l", "rack=7", capsys=capsys).out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["old-1", "replaced"], ["old-2", "decommissioned"]]
    guest.run("device", "provision", "new-1", "--out", str(tmp_path), capsys=capsys)
    assert "replaced by new-1" in guest.run("device", "show", "old-1", capsys=capsys).out
    shown = guest.run("device", "show", "new-1", capsys=capsys).out
    assert "rack=7" in shown
    assert "old-1" in shown
    other = guest.run("device", "replace", "old-1", "new-2", "--yes", capsys=capsys)
    assert (other.code, code_of(other)) == (1, "device.replaced")
