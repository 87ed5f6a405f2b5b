"""Who may open evidence: a key of one's own, signed by the people of targets, shown in words before they sign."""

import stat
from pathlib import Path

import pytest
from beamfleet_bundles import chain, recipients
from beamfleet_bundles.sealing import seal

from tests.server.cli.house import code_of
from tests.server.cli.terminal import Operator
from tests.support.fleet import Fleet

Capture = pytest.CaptureFixture[str]
PASSPHRASE = "five words that do not belong"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMFLEET_PASSPHRASE", PASSPHRASE)


def signed(fleet: Fleet) -> dict[str, str]:
    """Name and id of whom the served targets name."""
    served = fleet.json("keys", "evidence", "list")
    return {row["name"]: row["key"] for row in served}


def test_with_development_keys_a_key_is_made_signed_listed_and_retired(
    owner: Operator, fleet: Fleet, capsys: Capture
) -> None:
    made = owner.run("keys", "evidence", "create", "anna", "-o", "json", capsys=capsys).json
    path = Path(made["file"])
    assert (made["name"], made["signed"], stat.S_IMODE(path.stat().st_mode)) == ("anna", True, 0o600)
    assert recipients.of(recipients.load(path, lambda _: PASSPHRASE), "anna").id == made["key"]
    assert signed(fleet) == {"anna": made["key"]}
    again = owner.run("keys", "evidence", "create", "anna", capsys=capsys)
    assert (again.code, code_of(again)) == (1, "keys.exists")
    elsewhere = owner.run("keys", "evidence", "create", "anna", "--out", str(fleet.work / "other.key"), capsys=capsys)
    assert (elsewhere.code, code_of(elsewhere)) == (1, "keys.exists"), "the name is taken"
    assert not (fleet.work / "other.key").exists()
    assert owner.run("keys", "evidence", "retire", "anna", capsys=capsys).code == 0
    assert signed(fleet) == {}
    gone = owner.run("keys", "evidence", "retire", "anna", capsys=capsys)
    assert (gone.code, code_of(gone)) == (1, "plan.key")
    assert path.exists(), "what was sealed for it is still to be opened"


def test_who_has_no_key_of_targets_is_told_of_the_plan_that_others_sign(
    guest: Operator, owner: Operator, fleet: Fleet, capsys: Capture, tmp_path: Path
) -> None:
    path = tmp_path / "ben.key"
    made = guest.run("keys", "evidence", "create", "ben", "--out", str(path), capsys=capsys)
    assert made.code == 0, made.err
    assert f"next: beamfleet keys plan evidence --add {path}.pub --out PLAN" in made.err
    assert "ben" not in signed(fleet)
    plan = tmp_path / "plan.json"
    words = ["keys", "plan", "evidence", "--add", f"{path}.pub", "--out", str(plan)]
    planned = guest.run(*words, capsys=capsys)
    assert planned.code == 0, planned.err
    assert "devices seal evidence for: ben (" in planned.err
    (key,) = (fleet.work / "operator/keys").glob("*/targets.key")
    assert owner.run("keys", "sign", str(plan), "--key", str(key), "--yes", capsys=capsys).code == 0
    assert owner.run("keys", "publish", str(plan), capsys=capsys).code == 0
    assert "ben" in signed(fleet)
    nothing = guest.run(*words[:3], "--out", str(plan), capsys=capsys)
    assert (nothing.code, code_of(nothing)) == (1, "plan.nothing")
    refused = guest.run("keys", "evidence", "retire", "ben", capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "keys.several")
    assert owner.run("keys", "evidence", "retire", "ben", capsys=capsys).code == 0


def test_sealed_evidence_is_opened_without_a_server_by_the_key_it_is_for(
    operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    from tests.server.cli.test_unpacking import entry, packed

    path = tmp_path / "anna.key"
    anna = recipients.generate(path, "anna", PASSPHRASE)
    file = tmp_path / "gw-1.sealed"
    file.write_bytes(b"".join(seal(packed((entry("facts.json"), b"{}")), "gw-1", "c0ffee", [anna])))
    words = ["keys", "evidence", "open", str(file), "--key", str(path), "--out", str(tmp_path / "gw-1"), "-o", "json"]
    opened = operator.run(*words, capsys=capsys).json
    assert (opened["device"], opened["files"]) == ("gw-1", ["facts.json"])
    other = tmp_path / "eve.key"
    recipients.generate(other, "eve", PASSPHRASE)
    for wrong, content, code in (
        (other, file.read_bytes(), "sealing.other_key"),
        (path, file.read_bytes()[:-1], "sealing.damaged"),
        (path, b"nothing", "sealing.malformed"),
    ):
        file.write_bytes(content)
        refused = operator.run(
            *words[:3], str(file), "--key", str(wrong), "--out", str(tmp_path / "none"), capsys=capsys
        )
        assert (refused.code, code_of(refused)) == (1, code)
        assert not (tmp_path / "none").exists()


def test_a_server_cannot_name_a_key_of_its_own(owner: Operator, fleet: Fleet, capsys: Capture) -> None:
    assert owner.run("keys", "evidence", "create", "carl", capsys=capsys).code == 0
    served = fleet.work / "targets.json"
    kept = sorted(
        (fleet.work / "operator/keys").glob("*/metadata/*.targets.json"), key=lambda path: path.stat().st_mtime
    )
    served.write_bytes(kept[-1].read_bytes().replace(b'"carl"', b'"evil"'))
    roots = sorted((fleet.work / "operator/keys").glob("*/root.json"))
    with pytest.raises(Exception, match="signature"):
        chain.verify_targets(served.read_bytes(), chain.parse_root(roots[0].read_bytes()).signed)
