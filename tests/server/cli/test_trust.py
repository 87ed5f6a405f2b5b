"""Operators, roles and the audit chain on the command line, against the real server."""

import json
import sqlite3
import stat
from pathlib import Path

import pytest

from tests.server.cli.terminal import Operator
from tests.server.cli.test_operating import login_words
from tests.server.cli.test_signing import code_of
from tests.support.fleet import Fleet

Capture = pytest.CaptureFixture[str]


def test_an_operator_is_made_limited_to_a_role_and_revoked(
    fleet: Fleet, guest: Operator, capsys: Capture, tmp_path: Path
) -> None:
    file = tmp_path / "anna.token"
    words = ["operator", "create", "anna", "--role", "viewer", "--out", str(file)]
    made = guest.run(*words, "--expires", "1h", "-o", "json", capsys=capsys)
    assert (made.code, made.json["role"], made.json["token"]) == (0, "viewer", None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    anna = Operator(tmp_path / "anna")
    assert anna.run(*login_words(fleet, file), "--ca", str(fleet.data / "ca.pem"), capsys=capsys).code == 0
    assert anna.run("device", "list", capsys=capsys).code == 0
    refused = anna.run("token", "create", "gw-7", "-o", "json", capsys=capsys)
    assert (refused.code, refused.json["code"]) == (1, "auth.forbidden")
    assert "anna" in guest.run("operator", "list", "-o", "name", capsys=capsys).out.split()
    assert guest.run("operator", "revoke", "anna", capsys=capsys).code == 0
    assert code_of(anna.run("device", "list", capsys=capsys)) == "auth.required"
    assert code_of(guest.run("operator", "revoke", "../whoami", capsys=capsys)) == "server.malformed"


def test_a_token_is_shown_once(guest: Operator, capsys: Capture) -> None:
    made = guest.run("operator", "create", "ci", "--role", "publisher", "--scope", "bundles.upload", capsys=capsys)
    assert (made.code, len(made.out.split())) == (0, 1)
    listed = guest.run("operator", "list", "-o", "json", capsys=capsys)
    assert made.out.strip() not in listed.out
    (ours,) = [each for each in listed.json if each["name"] == "ci"]
    assert (ours["scopes"], ours["created_by"]) == (["bundles.upload"], "admin")


def test_the_audit_is_listed_harmlessly_exported_and_verified(guest: Operator, capsys: Capture, tmp_path: Path) -> None:
    guest.run("operator", "revoke", "a\x1b[31m\u202eb", capsys=capsys)
    listed = guest.run("audit", "list", capsys=capsys)
    assert "\\x1b[31m\\u202e" in listed.out
    assert "\x1b" not in listed.out
    verified = guest.run("audit", "verify", "-o", "json", capsys=capsys)
    assert (verified.code, verified.json["entries"]) == (0, verified.json["last"])
    file = tmp_path / "audit.jsonl"
    assert guest.run("audit", "export", str(file), capsys=capsys).code == 0
    assert guest.run("audit", "verify", str(file), capsys=capsys).code == 0
    lines = file.read_text().splitlines()
    spoilt = tmp_path / "spoilt.jsonl"
    spoilt.write_text("\n".join([*lines[:1], json.dumps(json.loads(lines[1]) | {"actor": "nobody"}), *lines[2:]]))
    assert code_of(guest.run("audit", "verify", str(spoilt), capsys=capsys)) == "audit.broken"
    spoilt.write_text("no entry\n")
    assert code_of(guest.run("audit", "verify", str(spoilt), capsys=capsys)) == "audit.malformed"


def test_an_audit_whose_end_was_cut_off_is_found_by_whoever_has_verified_before(
    fleet: Fleet, guest: Operator, capsys: Capture
) -> None:
    assert guest.run("audit", "verify", capsys=capsys).code == 0
    database = sqlite3.connect(fleet.data / "beamfleet.db")
    ((last,),) = database.execute("select max(id) from audit").fetchall()
    database.execute("delete from audit where id = ?", (last,))
    database.commit()
    database.close()
    refused = guest.run("audit", "verify", "-o", "json", capsys=capsys)
    assert (refused.code, refused.json["code"]) == (1, "audit.broken")
    assert "is gone" in refused.json["detail"]
